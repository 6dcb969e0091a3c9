//! Children: the processes the pod was asked for, each by its pidfd, and the orphans it inherits.
//!
//! A pid is only a number that the kernel gives out again; a pidfd is the process. Every tracked
//! child is watched and reaped through its pidfd. What a container leaves behind comes to the shim
//! because it is the subreaper, and is reaped on SIGCHLD by exclusion: anything ended that is not tracked.
//!
//! The invariant that makes the exclusion safe: between the moment pea forks and the moment its
//! child is tracked (a [`Forking`] is held), nothing is reaped by exclusion.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::error::Error;
use crate::signals::Signals;
use crate::{log, sys};

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exit {
    /// Its exit code, or 128 + the signal that ended it.
    pub status: u32,
    /// When the shim learnt of it.
    pub at: jiff::Timestamp,
}

impl Exit {
    /// An end at this moment.
    pub fn now(status: u32) -> Self {
        Self { status, at: jiff::Timestamp::now() }
    }
}

/// Knows all children.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Inner>);

#[derive(Default)]
struct Inner {
    children: Mutex<Children>,
    /// An orphan may be reapable that was not before.
    again: Notify,
}

#[derive(Default)]
struct Children {
    tracked: HashSet<i32>,
    forking: usize,
}

impl Inner {
    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held while pea forks, until its child is tracked.
pub struct Forking(Reaper);

impl Drop for Forking {
    fn drop(&mut self) {
        self.0.0.children().forking -= 1;
        self.0.0.again.notify_one();
    }
}

/// One child, by its pidfd.
pub struct Child {
    /// Its pid on the node.
    pub pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    reaper: Reaper,
    reaped: AtomicBool,
}

impl Reaper {
    /// Announces a fork by somebody else; hold the result until the child is [tracked](Self::track).
    pub fn forking(&self) -> Forking {
        self.0.children().forking += 1;
        Forking(self.clone())
    }

    /// Takes charge of a child. It has not been reaped (the caller holds a [`Forking`]), so the pid is still its own.
    pub fn track(&self, pid: i32) -> Result<Child, Error> {
        let watched = sys::pidfd_open(pid).and_then(|pidfd| sys::watch(pidfd, Interest::READABLE));
        let pidfd = watched.map_err(|source| {
            // Nobody would ever learn of its end: it must not go on.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            Error::io(format!("watch process {pid}"), source)
        })?;
        self.0.children().tracked.insert(pid);
        Ok(Child { pid, pidfd, reaper: self.clone(), reaped: AtomicBool::new(false) })
    }

    /// Reaps orphans for ever.
    pub async fn reap_orphans(self) {
        let ended = match Signals::watch(Signal::SIGCHLD) {
            Ok(ended) => ended,
            Err(error) => return log::error(format!("watch SIGCHLD: {error}; orphans will stay zombies")),
        };
        loop {
            self.sweep();
            tokio::select! {
                _ = ended.received() => {}
                () = self.0.again.notified() => {}
            }
        }
    }

    /// Reaps until the kernel shows a zombie that somebody else is about to reap. That one's watcher
    /// (or the end of the fork) sends us here again.
    fn sweep(&self) {
        while let Ok(Some(pid)) = sys::any_zombie() {
            let children = self.0.children();
            if children.forking > 0 || children.tracked.contains(&pid) {
                return;
            }
            if sys::reap_pid(pid).is_err() {
                return;
            }
        }
    }
}

impl Child {
    /// Waits for the end and reaps.
    pub async fn exit(&self) -> Exit {
        loop {
            let ready = self.pidfd.readable().await;
            match ready.and_then(|mut ready| {
                ready.clear_ready();
                sys::reap_pidfd(self.pidfd.as_fd())
            }) {
                Ok(None) => {}
                Ok(Some(status)) => {
                    self.forget();
                    return Exit::now(status);
                }
                // Not our child: pea broke its promise, or somebody waited for any child. The process has ended all the same.
                Err(error) => {
                    self.forget();
                    log::error(format!("the exit status of process {} is lost: {error}", self.pid));
                    return Exit::now(255);
                }
            }
        }
    }

    /// Sends a signal to this very process. `NotFound` (`ESRCH`) once it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), signal)
    }
}

impl Child {
    /// Its pid is its own until it is reaped, and no longer: the next child, or an orphan, may have it at once, while this
    /// value is kept for as long as a client does not delete the process.
    fn forget(&self) {
        if !self.reaped.swap(true, Ordering::Relaxed) {
            self.reaper.0.children().tracked.remove(&self.pid);
            self.reaper.0.again.notify_one();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[expect(clippy::zombie_processes, reason = "the reaper waits for it")]
    #[tokio::test(flavor = "current_thread")]
    async fn the_pid_of_a_reaped_child_is_free_for_others_although_the_child_is_kept() {
        let reaper = Reaper::default();
        let program = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let child = reaper.track(i32::try_from(program.id()).unwrap()).unwrap();
        assert_eq!(child.exit().await.status, 3);
        assert!(reaper.0.children().tracked.is_empty(), "an orphan of that pid would never be reaped");
        // Somebody else has the pid by now.
        reaper.0.children().tracked.insert(child.pid);
        drop(child);
        assert_eq!(reaper.0.children().tracked.len(), 1, "the other one's status could be lost");
    }
}
