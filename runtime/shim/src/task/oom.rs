//! Telling of processes that the kernel kills because their container has reached its memory limit.

use std::sync::{Arc, Mutex, PoisonError};

use containerd_shim_protos::events::task as event;
use pea::OomWatch;
use tokio::io::Interest;
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::events::{Event, Publisher};
use crate::{log, sys};

/// Watches one container, until it is dropped.
pub struct Oom {
    teller: Teller,
    watching: AbortHandle,
}

#[derive(Clone)]
struct Teller {
    container: String,
    events: Publisher,
    watch: Arc<Mutex<OomWatch>>,
}

impl Oom {
    /// Begins to watch; `None` where memory is not counted.
    pub fn watch(runtime: &pea::Runtime, container: &str, events: &Publisher) -> Result<Option<Self>, Error> {
        let watch = match runtime.oom_watch(container) {
            Err(error) if error.kind() == pea::ErrorKind::Unsupported => return Ok(None),
            watch => watch?,
        };
        let failed = |source| Error::io(format!("watch the memory of container {container}"), source);
        let news = std::os::fd::AsFd::as_fd(&watch).try_clone_to_owned().map_err(failed)?;
        let news = sys::watch(news, Interest::READABLE).map_err(failed)?;
        let watch = Arc::new(Mutex::new(watch));
        let teller = Teller { container: container.to_owned(), events: events.clone(), watch };
        let watching = teller.clone();
        let watching = tokio::spawn(async move {
            while let Ok(mut ready) = news.readable().await {
                ready.clear_ready();
                if watching.tell(false) {
                    return;
                }
            }
        });
        Ok(Some(Self { teller, watching: watching.abort_handle() }))
    }

    /// Tells of what has happened and has not been told yet. Before an exit is told, so that whoever hears of it knows
    /// the reason already: the kernel counts before it kills.
    pub fn tell(&self) {
        self.teller.tell(false);
    }

    /// The same at the end of an init that was killed by nobody we know of. Its cgroup may be gone already, with what was
    /// counted; then what was counted in the cgroup above is taken for its reason.
    pub fn tell_end(&self) {
        self.teller.tell(true);
    }
}

impl Drop for Oom {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Teller {
    /// Whether nothing more will come.
    fn tell(&self, killed: bool) -> bool {
        let news = self.watch.lock().unwrap_or_else(PoisonError::into_inner).read();
        match news {
            Ok(news) => {
                if news.count > 0 || killed && news.above > 0 {
                    let container_id = self.container.clone();
                    self.events.publish(&Event::Oom(event::TaskOOM { container_id, ..Default::default() }));
                }
                news.ended
            }
            Err(error) => {
                log::error(error);
                true
            }
        }
    }
}
