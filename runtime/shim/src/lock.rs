//! Locks on files: they go with the process that holds them, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Error;

/// How often a lock is tried for. The kernel offers neither a timeout nor an event for flock(2).
const RETRY: Duration = Duration::from_millis(5);

/// An exclusive lock on a shim's lock file. The descriptor is the lock: a forked child that keeps it holds it too.
pub struct Lock(File);

impl Lock {
    /// Takes the lock, making the file if need be; `None` when somebody holds it.
    pub fn take(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |source: io::Error| Error::io(format!("lock {}", path.display()), source);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                // The pid of a holder long gone, perhaps somebody else's by now, must not be taken for ours.
                file.set_len(0).map_err(failed)?;
                Ok(Some(Self(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Writes down who holds it.
    pub fn sign(&mut self, pid: u32) -> io::Result<()> {
        self.0.rewind()?;
        self.0.set_len(0)?;
        writeln!(self.0, "{pid}")
    }

    /// The lock's descriptor.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// The pid that the holder has written down; `None` when there is no file, or nothing in it yet.
pub fn holder(path: &Path) -> Option<i32> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

/// Whether a process has that file open, as who holds its lock has. What is written in a file is not enough to be killed for.
pub fn is_open_in(path: &Path, pid: i32) -> bool {
    let (Ok(file), Ok(open)) = (fs::metadata(path), fs::read_dir(format!("/proc/{pid}/fd"))) else { return false };
    let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == (file.dev(), file.ino());
    open.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(is_it))
}

/// Locks a file or directory exclusively until the result is dropped.
pub fn wait_for(file: &File, deadline: Duration) -> io::Result<Held<'_>> {
    let end = Instant::now() + deadline;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Held(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(RETRY),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "somebody else keeps it locked"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// A lock that ends with this value.
pub struct Held<'a>(&'a File);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_holder_and_nobody_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(holder(&path), None, "there is no file");
        std::fs::write(&path, "123456789\n").unwrap();
        let mut lock = Lock::take(&path).unwrap().unwrap();
        assert_eq!(holder(&path), None, "who held it before holds it no more");
        lock.sign(1234567).unwrap();
        assert_eq!(holder(&path), Some(1234567));
        lock.sign(89).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "89\n");
        assert!(Lock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(&path).unwrap().is_some());
        // Written half, it names nobody: 12 may be the beginning of 1234.
        std::fs::write(&path, "12").unwrap();
        assert_eq!(holder(&path), None);
    }

    #[test]
    fn a_lock_is_waited_for_until_the_deadline_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        let (mine, other) = (open(), open());
        let held = wait_for(&mine, Duration::ZERO).unwrap();
        let refused = wait_for(&other, RETRY).map(drop).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_for(&other, Duration::from_secs(30)).map(drop));
            std::thread::sleep(3 * RETRY);
            assert!(!waiting.is_finished(), "taken from its holder");
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }
}
