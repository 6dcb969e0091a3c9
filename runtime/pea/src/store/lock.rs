//! The lock that serialises changes to one container.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, ErrorKind};

/// Hooks run under the lock, so waiting for a while is normal; for longer, something hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// An exclusive flock on a container's directory. Dropping it unlocks, also for the children that inherited the descriptor:
/// a container's init keeps its helper's descriptors until the user's program starts.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Takes the lock within the deadline; calls `held` whenever somebody else has it.
    ///
    /// The kernel has no flock with a timeout and no event for its release, and a signal-driven alarm would change
    /// the caller; so this one wait tries again and again, ever more slowly.
    pub fn take(path: &Path, mut held: impl FnMut()) -> Result<Self, Error> {
        let end = Instant::now() + DEADLINE;
        let mut pause = Duration::from_millis(1);
        let mut file = open(path)?;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self(lock)),
                Err((file, nix::Error::EWOULDBLOCK)) if Instant::now() < end => file,
                Err((_, nix::Error::EWOULDBLOCK)) => {
                    let text = format!("{} has been held by another operation for {DEADLINE:?}", path.display());
                    return Err(Error::new(ErrorKind::Busy, text));
                }
                Err((_, error)) => return Err(Error::io(format!("lock {}", path.display()), error)),
            };
            held();
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Takes the lock if it is free; `None` if it is not.
    pub fn try_take(path: &Path) -> Result<Option<Self>, Error> {
        match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self(lock))),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(Error::io(format!("lock {}", path.display()), error)),
        }
    }

    /// Whether somebody holds it now.
    pub fn is_taken(path: &Path) -> bool {
        let Ok(file) = open(path) else { return false };
        matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, nix::Error::EWOULDBLOCK)))
    }

    /// Whether the directory at `path` is still the one that was locked.
    pub fn is_at(&self, path: &Path) -> bool {
        match (self.0.metadata(), path.metadata()) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path);
    file.map_err(|error| Error::io(format!("open {}", path.display()), error))
}

impl AsFd for Lock {
    /// The directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
