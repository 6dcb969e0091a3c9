//! The lock of a network's leases: host-local's, with a deadline.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::store::{Result, StoreError, failed, present};

/// Takes the lock at `path`, made if need be; none when there is no directory for it.
///
/// # Errors
/// [`StoreError::Locked`] when `deadline` passes first.
pub(super) fn take(path: &Path, deadline: Duration) -> Result<Option<File>> {
    let end = Instant::now() + deadline;
    loop {
        // Without O_NONBLOCK a FIFO of that name would hold us until someone writes to it.
        let flags = libc::O_CREAT | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).mode(0o640).open(path);
        let Some(file) = present(file).map_err(failed("open", path))? else { return Ok(None) };
        let file = wait(file, end.saturating_duration_since(Instant::now()), deadline, path)?;
        // People clean up by `rm -r` of the directory. Whoever waited then has the lock of nothing, while others
        // have made a new one.
        let mine = file.metadata().map_err(failed("look at", path))?;
        let there = present(std::fs::metadata(path)).map_err(failed("look at", path))?;
        if there.is_some_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
            return Ok(Some(file));
        }
    }
}

/// Takes the lock, waiting no longer than `left`.
///
/// flock(2) has no deadline, and trying again and again would poll. So where the lock is taken already, a
/// thread waits for it; if the deadline passes first the thread stays behind, and the process
/// soon ends. (A timer signal would interrupt the wait too, at the price of a signal handler.)
fn wait(file: File, left: Duration, deadline: Duration, path: &Path) -> Result<File> {
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
    }
    let (sender, receiver) = mpsc::channel();
    // If nobody listens any more, the file is closed with the message and the lock is free again.
    std::thread::spawn(move || sender.send(file.lock().map(|()| file)));
    match receiver.recv_timeout(left) {
        Ok(outcome) => outcome.map_err(failed("lock", path)),
        Err(_) => Err(StoreError::Locked { path: path.to_owned(), waited: deadline }),
    }
}
