//! Who drives a pod: the lock, and who holds it.
//!
//! One process at a time changes a pod: its keeper, or the `stop` or `rm` that took over. That one holds
//! an exclusive flock(2) on `<state>/pods/<key>/lock`. Children that change the pod too (CNI plugins, the
//! shim's `start`) inherit the descriptor, so when the driver is killed the lock stays taken until they end.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};

/// What the holder of a lock is doing with the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Keeps it running. May be told to leave it.
    Keeper,
    /// Stops or removes it. To be waited for.
    Command,
}

/// The note a holder leaves in the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    role: Role,
    pid: i32,
    /// The process's start time from /proc/<pid>/stat, so that a reused pid is not taken for it.
    start: u64,
}

/// An exclusive hold on a pod. Dropping it closes the descriptor and nothing more: an explicit unlock
/// would take the lock away from the children that share it.
#[derive(Debug)]
pub struct PodLock {
    file: File,
}

impl PodLock {
    /// Makes the lock file of a new pod and takes it.
    pub fn create(path: &Path) -> Result<PodLock> {
        let file = open(path, true)?;
        file.lock().context("locking", path)?;
        Ok(PodLock { file })
    }

    /// Takes the lock if nobody holds it.
    pub fn try_take(path: &Path) -> Result<Option<PodLock>> {
        let file = open(path, false)?;
        match file.try_lock() {
            Ok(()) => Ok(still_there(&file, path).then_some(PodLock { file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error).context("locking", path),
        }
    }

    /// Waits for the lock, at most `deadline`.
    ///
    /// flock(2) has no deadline of its own: a thread waits, and we wait for the thread. So only those come here who
    /// are about to end: commands, and a keeper that undoes its pod.
    pub fn take(path: &Path, deadline: Duration) -> Result<PodLock> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(lock);
        }
        let file = open(path, false)?;
        let (done, outcome) = mpsc::channel();
        std::thread::spawn(move || done.send(file.lock().map(|()| file)));
        match outcome.recv_timeout(deadline) {
            Ok(Ok(file)) if still_there(&file, path) => Ok(PodLock { file }),
            Ok(Ok(_)) => Err(Error::io("locking", path, std::io::ErrorKind::NotFound.into())),
            Ok(Err(error)) => Err(error).context("locking", path),
            Err(_) => Err(Error::Busy { path: path.to_owned(), seconds: deadline.as_secs() }),
        }
    }

    /// As [`PodLock::take`], for a lock file that anyone may be the first to make and that is never removed.
    pub fn take_shared(path: &Path, deadline: Duration) -> Result<PodLock> {
        OpenOptions::new().write(true).create(true).truncate(false).open(path).context("making", path)?;
        Self::take(path, deadline)
    }

    /// The lock that the process which started us took, and left on our standard input.
    pub fn from_stdin() -> Result<PodLock> {
        let stdin = std::io::stdin();
        let copy = stdin.as_fd().try_clone_to_owned().context("keeping the lock on", Path::new("/dev/stdin"))?;
        Ok(PodLock { file: copy.into() })
    }

    /// A second descriptor of the same hold, to hand to a child.
    pub fn share(&self) -> Result<OwnedFd> {
        Ok(self.file.try_clone().context("sharing", Path::new("the pod's lock"))?.into())
    }

    /// Says in the lock file who holds it, and lets every child from now on share the hold.
    pub fn hold_as(&mut self, role: Role) -> Result<()> {
        let path = Path::new("the pod's lock");
        let pid = nix::unistd::getpid().as_raw();
        let holder = Holder { role, pid, start: start_time(pid).unwrap_or_default() };
        let text = serde_json::to_string(&holder).map_err(std::io::Error::from).context("writing", path)?;
        self.file.rewind().context("writing", path)?;
        self.file.set_len(0).context("writing", path)?;
        self.file.write_all(text.as_bytes()).context("writing", path)?;
        fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(std::io::Error::from).context("sharing", path)?;
        Ok(())
    }
}

fn open(path: &Path, create: bool) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(create).open(path).context("opening", path)
}

/// Whether the file we hold is still the one at `path`: the pod may have been removed while we waited.
fn still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => identity(&ours) == identity(&theirs),
        _ => false,
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Field 22 of /proc/<pid>/stat, see proc_pid_stat(5). The name in field 2 may hold anything, even `)`.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Sends `signal` to the keeper that holds the lock at `path`, if one does.
///
/// Call it only while the lock is taken: the note of a holder that has ended is still in the file.
/// The process is pinned by a pidfd before it is compared, so no other can be hit.
pub fn signal_keeper(path: &Path, signal: Signal) {
    let Some(holder) = holder(path).filter(|holder| holder.role == Role::Keeper) else { return };
    let Some(pid) = Pid::from_raw(holder.pid) else { return };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if start_time(holder.pid) == Some(holder.start) {
        // It may end before the signal arrives: that is what the signal was for.
        let _ = pidfd_send_signal(pidfd, signal);
    }
}

/// Kills every other process that shares the hold on the lock at `path`: a plugin that hangs, a command that waits.
/// Those that only wait for the lock themselves are left alone.
pub fn kill_holders(path: &Path) {
    let (Ok(lock), Ok(processes)) = (fs::metadata(path), fs::read_dir("/proc")) else { return };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter_map(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid()) {
        // Pinned first: what is seen of it afterwards is of the very process that is hit.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if holds(pid, &lock) {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// Whether a process has a descriptor through which `lock` is held. The kernel lists a lock under the open file that
/// holds it only, see proc_pid_fdinfo(5).
fn holds(pid: Pid, lock: &fs::Metadata) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let info = || fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()));
        fs::metadata(descriptor.path()).is_ok_and(|file| identity(&file) == identity(lock))
            && info().is_ok_and(|info| info.contains("FLOCK"))
    })
}

fn holder(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_second_taker_waits_until_the_first_and_its_children_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut first = PodLock::create(&path).unwrap();
        first.hold_as(Role::Command).unwrap();
        assert!(PodLock::try_take(&path).unwrap().is_none());
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        drop(first);
        assert!(PodLock::try_take(&path).unwrap().is_none(), "the child shares the hold");
        let error = PodLock::take(&path, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        drop(child.stdin.take());
        child.wait().unwrap();
        PodLock::take(&path, Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn who_holds_a_lock_is_killed_and_who_waits_for_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = PodLock::create(&path).unwrap();
        let child = |stdin| std::process::Command::new("sleep").arg("600").stdin(stdin).spawn().unwrap();
        let mut holder = child(lock.share().unwrap());
        let mut waiter = child(open(&path, false).unwrap().into());
        drop(lock);
        kill_holders(&path);
        assert!(!holder.wait().unwrap().success());
        PodLock::take(&path, Duration::from_secs(10)).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(waiter.id().cast_signed()), nix::sys::signal::SIGTERM)
            .unwrap();
        let end = waiter.wait().unwrap().signal();
        assert_eq!(end, Some(nix::libc::SIGTERM), "it has the file open and does not hold the lock");
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = PodLock::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        drop(held);
        assert!(PodLock::try_take(&path).is_err());
    }
}
