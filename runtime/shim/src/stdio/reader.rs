//! The reader of an output FIFO, when it is late.
//!
//! containerd opens its FIFOs beside all else, and a short command may have ended before it gets to it. If we had closed
//! by then, its open(2) would wait for a writer that never comes, the call that waits for the output with it, and the
//! output would be gone (fifo(7)).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::{log, sys};

/// A reader comes, and leaves.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_OPEN.union(AddWatchFlags::IN_CLOSE_NOWRITE);

/// How often it is looked for a reader where the kernel cannot tell of it.
const LOOK: Duration = Duration::from_millis(10);

/// What tells the pod's streams of their readers: one inotify instance for all, for a user has 128 by default (inotify(7)),
/// and only while there is a stream whose reader is late. Clones are handles to the same.
#[derive(Clone, Default)]
pub struct Readers(Arc<Mutex<Weak<News>>>);

/// The instance, and what it has told.
struct News {
    inotify: Inotify,
    /// A copy of its descriptor, in the event loop.
    readable: AsyncFd<OwnedFd>,
    /// Tells those who wait that somebody else has read: of that the event loop does not wake them.
    told: Notify,
    fifos: Mutex<BTreeMap<WatchDescriptor, Fifo>>,
}

/// One FIFO, which may be that of several streams.
#[derive(Default)]
struct Fifo {
    streams: usize,
    was_left: bool,
}

/// A reader that is not there yet.
pub(super) struct Late {
    /// The path of its FIFO.
    pub(super) fifo: PathBuf,
    /// None where the kernel cannot tell of it.
    watch: Option<Watch>,
}

struct Watch {
    news: Arc<News>,
    fifo: WatchDescriptor,
}

impl Readers {
    /// The reader of the FIFO at `path`, which does not come at all where that is not there any more.
    pub(super) fn expect(&self, path: &Path) -> Option<Late> {
        let watch = match self.watch(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return None,
            Err(errno) => {
                let (path, every) = (path.display(), LOOK.as_millis());
                log::error(format!("hear of the reader of {path}: {errno}; it is looked for every {every} ms instead"));
                None
            }
            Ok(watch) => Some(watch),
        };
        Some(Late { fifo: path.to_owned(), watch })
    }

    fn watch(&self, path: &Path) -> Result<Watch, Errno> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match shared.upgrade() {
            Some(news) => news,
            None => Arc::new(News::new()?),
        };
        let fifo = news.inotify.add_watch(path, EVENTS)?;
        news.fifos().entry(fifo).or_default().streams += 1;
        *shared = Arc::downgrade(&news);
        Ok(Watch { news, fifo })
    }
}

impl Late {
    /// Waits until the FIFO, of which `writer` is an end, has a reader, or has had one that is gone again.
    pub(super) async fn come(&self, writer: &impl AsFd) -> io::Result<()> {
        // In this order: what comes after the news was read wakes, and what came before it is there by then.
        while !self.has_left() && !is_there(writer)? {
            match &self.watch {
                Some(watch) => watch.news.more().await?,
                None => tokio::time::sleep(LOOK).await,
            }
        }
        Ok(())
    }

    /// Whether one has come and gone again. (So does a reader of our own, when it is closed.)
    pub(super) fn has_left(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| {
            watch.news.read();
            watch.news.fifos().get(&watch.fifo).is_some_and(|fifo| fifo.was_left)
        })
    }

    /// Forgets of those that have gone.
    pub(super) fn begin_anew(&self) {
        if let Some(watch) = &self.watch {
            watch.news.read();
            watch.news.fifos().entry(watch.fifo).and_modify(|fifo| fifo.was_left = false);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut fifos = self.news.fifos();
        let Some(fifo) = fifos.get_mut(&self.fifo) else { return };
        fifo.streams -= 1;
        if fifo.streams == 0 {
            fifos.remove(&self.fifo);
            // Refused when the FIFO is gone, and the watch with it.
            let _ = self.news.inotify.rm_watch(self.fifo);
        }
    }
}

impl News {
    fn new() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let readable = inotify.as_fd().try_clone_to_owned().and_then(|copy| sys::watch(copy, Interest::READABLE));
        let readable = readable.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        Ok(Self { inotify, readable, told: Notify::new(), fifos: Mutex::default() })
    }

    /// Waits until there is something to hear of any of the FIFOs. Each stream looks then whether it is about its own.
    async fn more(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.readable.readable() => {
                let mut ready = ready?;
                self.read();
                // Whatever comes from now on wakes again.
                ready.clear_ready();
            }
            () = self.told.notified() => {}
        }
        Ok(())
    }

    /// Reads all that there is, and keeps it for those whom it is about.
    fn read(&self) {
        while let Ok(events) = self.inotify.read_events() {
            self.told.notify_waiters();
            let mut fifos = self.fifos();
            for event in events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_CLOSE_NOWRITE)) {
                fifos.entry(event.wd).and_modify(|fifo| fifo.was_left = true);
            }
        }
    }

    fn fifos(&self) -> MutexGuard<'_, BTreeMap<WatchDescriptor, Fifo>> {
        self.fifos.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer's descriptor is in error when nobody reads (poll(2)).
fn is_there(writer: &impl AsFd) -> io::Result<bool> {
    let mut writer = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    poll(&mut writer, PollTimeout::ZERO)?;
    Ok(!writer[0].revents().is_some_and(|found| found.contains(PollFlags::POLLERR)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::super::open_nonblocking;
    use super::*;

    /// A FIFO without a reader, and one to write to it.
    fn fifo(path: &Path) -> File {
        mkfifo(path, Mode::S_IRWXU).unwrap();
        let _passing = open_nonblocking(path, false).unwrap();
        open_nonblocking(path, true).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_looks_for_a_reader_of_its_own_takes_no_news_from_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["one", "two"].map(|name| dir.path().join(name));
        let writers = paths.each_ref().map(|path| fifo(path));
        let readers = Readers::default();
        let [one, two] = paths.each_ref().map(|path| readers.expect(path).unwrap());
        let [_, writer] = writers;
        let coming = tokio::spawn(async move { two.come(&writer).await });
        // It waits before its reader comes, and is not heard of it before the news has been read by another.
        tokio::task::yield_now().await;
        let _reader = open_nonblocking(&paths[1], false).unwrap();
        assert!(!one.has_left());
        tokio::time::timeout(Duration::from_secs(10), coming).await.expect("it was not woken").unwrap().unwrap();
    }
}
