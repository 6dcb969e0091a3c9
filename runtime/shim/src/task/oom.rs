//! Telling of processes that the kernel kills because their container has reached its memory limit.
//!
//! systemd removes a scope, and the count of kills with it, as soon as its last process has ended: on a busy node before
//! anybody has read it. The cgroup above (the pod's slice) has counted the kill too, but with those of all that lies in it.
//! So the containers of a pod are looked at together: what has been counted above and in none of those that can still be
//! read was done in one whose cgroup is gone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use containerd_shim_protos::events::task as event;
use pea::OomWatch;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::events::{Event, Publisher};
use crate::{log, sys};

/// How often the counts are read again because they have changed meanwhile. They belong together, and change rarely.
const ROUNDS: usize = 4;

/// The pod's containers whose memory is watched. Clones are handles to the same.
#[derive(Clone)]
pub struct Ooms {
    events: Publisher,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    containers: Vec<Member>,
    /// What had been counted in the cgroups above, by their paths, when the containers were last looked at.
    above: BTreeMap<PathBuf, u64>,
}

struct Member {
    container: String,
    watch: OomWatch,
    news: Arc<News>,
    /// Kills that have not been told.
    kills: u64,
    end: End,
}

/// A copy of the watch's descriptor, in the event loop.
struct News {
    fd: AsyncFd<OwnedFd>,
    interest: Interest,
}

/// What is known of a cgroup's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// It is there.
    Open,
    /// It is gone.
    Gone,
    /// It is gone, and processes were killed of which it could not tell any more, or none were.
    Settled { killed: bool },
}

/// One container is watched until this is dropped.
pub struct Oom {
    ooms: Ooms,
    container: String,
    news: Arc<News>,
    watching: AbortHandle,
}

impl Ooms {
    /// None yet; what happens goes there.
    pub fn new(events: Publisher) -> Self {
        Self { events, watched: Arc::default() }
    }

    /// Begins to watch a container; `None` where memory is not counted.
    pub fn watch(&self, runtime: &pea::Runtime, container: &str) -> Result<Option<Oom>, Error> {
        let watch = match runtime.oom_watch(container) {
            Err(error) if error.kind() == pea::ErrorKind::Unsupported => return Ok(None),
            watch => watch?,
        };
        let news = News::of(&watch);
        let news = news.map_err(|source| Error::io(format!("watch the memory of container {container}"), source))?;
        let news = Arc::new(news);
        let container = container.to_owned();
        let member = Member { container: container.clone(), watch, news: news.clone(), kills: 0, end: End::Open };
        self.watched().containers.push(member);
        // So that what was counted above until now is nothing new.
        self.look();
        let (ooms, of) = (self.clone(), news.clone());
        let watching = tokio::spawn(async move { of.each(|| ooms.look()).await });
        Ok(Some(Oom { ooms: self.clone(), container, news, watching: watching.abort_handle() }))
    }

    /// Tells of all that has happened and has not been told yet.
    fn look(&self) {
        let killed = self.watched().look();
        killed.into_iter().for_each(|container| self.tell_of(container));
    }

    fn tell_of(&self, container_id: String) {
        self.events.publish(&Event::Oom(event::TaskOOM { container_id, ..Default::default() }));
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Oom {
    /// Tells of what has happened and has not been told yet. Before an exit is told, so that whoever hears of it knows
    /// the reason already: the kernel counts before it kills.
    pub fn tell(&self) {
        self.ooms.look();
    }

    /// The same at the end of an init that was killed by nobody we know of. Where its cgroup is gone already, what was
    /// counted above and nowhere else is taken for its reason.
    pub fn tell_end(&self) {
        self.tell();
        if self.ooms.watched().was_killed(&self.news) {
            self.ooms.tell_of(self.container.clone());
        }
    }
}

impl Drop for Oom {
    fn drop(&mut self) {
        self.watching.abort();
        self.ooms.watched().containers.retain(|member| !Arc::ptr_eq(&member.news, &self.news));
    }
}

impl News {
    fn of(watch: &OomWatch) -> std::io::Result<Self> {
        let interest = if watch.tells_by_priority() { Interest::PRIORITY } else { Interest::READABLE };
        let fd = sys::watch(watch.as_fd().try_clone_to_owned()?, interest)?;
        Ok(Self { fd, interest })
    }

    /// Does something each time there are news, for ever.
    async fn each(&self, act: impl Fn()) {
        while let Ok(mut ready) = self.fd.ready(self.interest).await {
            // There are news until this is done with: see `are_there`.
            act();
            ready.clear_ready();
        }
    }

    /// Whether there are some that nobody has looked at. The event loop knows of them although the cgroup is gone.
    fn are_there(&self) -> bool {
        pin!(self.fd.ready(self.interest)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Watched {
    /// Reads everything there is to read. Returns the containers in which processes have been killed.
    fn look(&mut self) -> Vec<String> {
        self.count();
        let mut above = self.read_above();
        for _ in 0..ROUNDS {
            if !self.count() {
                break;
            }
            above = self.read_above();
        }
        for (dir, now) in &above {
            let before = self.above.get(dir).copied().unwrap_or(*now);
            self.settle(dir, now.saturating_sub(before));
        }
        self.above = above;
        let killed = self.containers.iter_mut();
        killed.filter_map(|member| (std::mem::take(&mut member.kills) > 0).then(|| member.container.clone())).collect()
    }

    /// Reads the containers' own counts. Returns whether anything has changed.
    fn count(&mut self) -> bool {
        let mut changed = false;
        for member in self.containers.iter_mut().filter(|member| member.end == End::Open) {
            match member.watch.read() {
                Ok(news) => {
                    member.kills += news.count;
                    member.end = if news.ended { End::Gone } else { End::Open };
                    changed |= news.count > 0 || news.ended;
                }
                Err(error) => {
                    log::error(error);
                    member.end = End::Settled { killed: false };
                }
            }
        }
        changed
    }

    fn read_above(&self) -> BTreeMap<PathBuf, u64> {
        let mut above = BTreeMap::new();
        for dir in self.containers.iter().filter_map(|member| member.watch.above()) {
            if !above.contains_key(dir)
                && let Some(kills) = pea::cgroup::oom_kills(dir)
            {
                above.insert(dir.to_owned(), kills);
            }
        }
        above
    }

    /// Finds out how the containers in a cgroup ended that are gone since they were last looked at; `kills` is what was
    /// counted there meanwhile.
    fn settle(&mut self, dir: &Path, kills: u64) {
        let members: Vec<_> = self.containers.iter_mut().filter(|member| member.watch.above() == Some(dir)).collect();
        let counted: u64 = members.iter().map(|member| member.kills).sum();
        let gone: Vec<_> = members.into_iter().filter(|member| member.end == End::Gone).collect();
        let have_news: Vec<bool> = gone.iter().map(|member| member.news.are_there()).collect();
        for (member, killed) in gone.into_iter().zip(blamed(kills.saturating_sub(counted), &have_news)) {
            member.end = End::Settled { killed };
        }
    }

    /// Whether that container's end is taken for the kernel's doing, although its own count is lost.
    fn was_killed(&self, news: &Arc<News>) -> bool {
        let mut members = self.containers.iter();
        members.any(|member| Arc::ptr_eq(&member.news, news) && member.end == End::Settled { killed: true })
    }
}

/// Which of the containers that are gone `lost` kills are put down to, that none of the others has counted. Something was
/// told of each in which there was a kill (though not of each kill: such news come every 10 ms at most,
/// cgroup_file_notify()); of several, those are meant. None is blamed for what may have been a neighbour's.
fn blamed(lost: u64, have_news: &[bool]) -> Vec<bool> {
    let alone = have_news.len() == 1;
    have_news.iter().map(|has_news| lost > 0 && (alone || *has_news)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_nobody_has_counted_is_put_down_to_who_is_gone_and_of_several_to_who_has_told_of_something() {
        assert_eq!(blamed(0, &[true]), [false], "nothing was counted above");
        assert_eq!(blamed(1, &[false]), [true], "it can be nobody else");
        assert_eq!(blamed(1, &[false, true]), [false, true]);
        assert_eq!(blamed(2, &[true, true, false]), [true, true, false]);
        assert_eq!(blamed(1, &[false, false]), [false, false], "it may have been the other");
    }
}
