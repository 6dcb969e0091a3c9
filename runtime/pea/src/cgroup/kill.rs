//! Ending everything in a cgroup.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::freeze::freeze_within;
use super::{Kind, gone, hierarchies, is_frozen, pids, thaw};
use crate::error::{Error, ErrorKind, reason};
use crate::sys::process;

/// A process in an uninterruptible sleep ends when that does; longer than this is not waited.
const DEADLINE: Duration = Duration::from_secs(10);

/// See [`super::kill_tree`].
pub fn kill_tree(path: &Path) -> Result<(), Error> {
    let end = Instant::now() + DEADLINE;
    let own = std::process::id() as i32;
    // Again and again, for a process may fork between the list and the signal.
    loop {
        let mut victims = pids(path)?;
        let inside = victims.contains(&own);
        victims.retain(|pid| *pid != own);
        if victims.is_empty() {
            return Ok(());
        }
        let dying = signal_all(path, &victims)?;
        if !inside {
            kill_at_once(path)?;
        }
        // Signals reach a process frozen by a v1 freezer only once it is thawed.
        thaw(path)?;
        if !wait_for(&dying, end)? || Instant::now() >= end {
            let text = format!("processes {victims:?} of cgroup {} do not end", path.display());
            return Err(Error::new(ErrorKind::Internal, text));
        }
    }
}

/// How long a group may take to freeze for a signal; it is sent in any case.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);

/// Sends a signal to every process of the cgroup and below. None escapes by forking: the group stands still meanwhile.
pub fn signal_tree(path: &Path, signal: i32) -> Result<(), Error> {
    let inside = pids(path)?.contains(&(std::process::id() as i32));
    let frozen = is_frozen(path);
    if !frozen && !inside {
        // Where there is no freezer the list is what it is.
        let _ = freeze_within(path, FREEZE_LIMIT);
    }
    let sent = send_to_all(path, signal);
    if signal == libc::SIGKILL && !inside {
        kill_at_once(path)?;
    }
    if !frozen || signal == libc::SIGKILL {
        thaw(path)?;
    }
    sent
}

fn send_to_all(path: &Path, signal: i32) -> Result<(), Error> {
    let handles: Vec<_> =
        pids(path)?.into_iter().filter_map(|pid| process::pidfd_open(pid).ok().map(|handle| (pid, handle))).collect();
    // A number listed again is still the process its handle was opened for.
    let members = pids(path)?;
    for (pid, handle) in handles.iter().filter(|(pid, _)| members.contains(pid)) {
        match process::pidfd_send_signal(handle.as_fd(), signal) {
            // Ended in between, which is what most signals are sent for.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            sent => sent.map_err(|error| Error::io(format!("send signal {signal} to process {pid}"), error))?,
        }
    }
    Ok(())
}

/// Where there is a unified hierarchy one write does it, and no fork escapes (`cgroup.kill`, Linux 5.14).
fn kill_at_once(path: &Path) -> Result<(), Error> {
    for hierarchy in hierarchies()?.iter().filter(|hierarchy| hierarchy.kind == Kind::Unified) {
        let file = hierarchy.dir(path).join("cgroup.kill");
        match fs::write(&file, "1") {
            Err(error) if file.exists() && !gone(&error) => {
                return Err(Error::new(ErrorKind::Internal, format!("write {}: {}", file.display(), reason(&error))));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Signals each process by a handle that was taken while it was in the group: its number alone could by then be
/// somebody else's.
fn signal_all(path: &Path, victims: &[i32]) -> Result<Vec<OwnedFd>, Error> {
    let handles: Vec<(i32, OwnedFd)> =
        victims.iter().filter_map(|pid| process::pidfd_open(*pid).ok().map(|handle| (*pid, handle))).collect();
    let still = pids(path)?;
    let mut dying = Vec::new();
    for (pid, handle) in handles {
        if still.contains(&pid) && process::pidfd_send_signal(handle.as_fd(), libc::SIGKILL).is_ok() {
            dying.push(handle);
        }
    }
    Ok(dying)
}

/// Waits until all have ended; false when the deadline came first.
fn wait_for(handles: &[OwnedFd], end: Instant) -> Result<bool, Error> {
    for handle in handles {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(Error::io("wait for a process to end", error)),
        }
    }
    Ok(true)
}
