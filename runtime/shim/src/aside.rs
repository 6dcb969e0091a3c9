//! Work that may block, done aside: in a forked child, while the shim goes on.
//!
//! A hook that hangs, a process that does not die, a file system that does not answer: pea's verbs
//! wait for them, and this process has one thread, on which the whole pod depends. What a child
//! does is the same (the kernel's objects and the files are everybody's), and what it finds out
//! comes back through a pipe. A thread would be cheaper, but would end the right to fork and to
//! change namespaces.
//!
//! It is all the node's work, so it is done in the node's namespaces, also where the shim has entered the pod's: the hooks of
//! a start and of a deletion are told there (runtime-spec, config.md, "POSIX-platform Hooks"), and CRIU runs there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getppid, pipe2, setpgid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::Error;
use crate::pod::Pod;
use crate::reap::Child;
use crate::sys::{self, Fork};

/// A report must fit into the pipe, so that the child never waits for its reader.
const LONGEST: usize = 16 * 1024;

/// Does the work in a child and waits for it. Dropped before the end, it kills the child and what that has started.
pub async fn aside(pod: &Pod, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::io("do something aside", source);
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut report = pipe::Receiver::from_owned_fd(read).map_err(failed)?;
    let forking = pod.reaper.forking();
    let shim = std::process::id();
    let pid = match sys::fork(0).map_err(failed)? {
        Fork::Child => be_the_child(write, shim, pod, work),
        Fork::Parent(pid) => pid,
    };
    drop(write);
    let mut child = Killed { child: pod.reaper.track(pid)?, ended: false };
    drop(forking);
    let mut text = Vec::new();
    report.read_to_end(&mut text).await.map_err(failed)?;
    let exit = child.child.exit().await;
    child.ended = true;
    match Error::from_report(&text) {
        Some(outcome) => outcome,
        None => Err(Error::internal(format!("a helper process ended with status {} and left no report", exit.status))),
    }
}

/// A child that does not outlive the one who waits for it.
struct Killed {
    child: Child,
    ended: bool,
}

impl Drop for Killed {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Not reaped yet, so the number is still its own. Its group, for a hook that hangs must go too.
        let _ = killpg(Pid::from_raw(self.child.pid), Signal::SIGKILL);
        let _ = self.child.signal(libc::SIGKILL);
    }
}

/// Never returns into the copy of the event loop that it stands on.
fn be_the_child(write: OwnedFd, shim: u32, pod: &Pod, work: impl FnOnce() -> Result<(), Error>) -> ! {
    let work = AssertUnwindSafe(|| settle(&write, shim, pod).and_then(|()| work()));
    let outcome = catch_unwind(work).unwrap_or_else(|_| Err(Error::internal("a bug: a helper process panicked")));
    let mut report = Error::report(&outcome);
    report.truncate(LONGEST);
    let _ = File::from(write).write_all(&report);
    sys::exit_now(0)
}

/// The shim's streams must be able to end without this process, and its signals are not for it. The
/// lock it keeps: as long as it works, the pod is not free to be cleared away by somebody else.
fn settle(write: &OwnedFd, shim: u32, pod: &Pod) -> Result<(), Error> {
    let failed = |errno: nix::errno::Errno| Error::io("set a helper process up", errno);
    // The handlers are the event loop's and write to its descriptors. What this process executes starts with none blocked.
    SigSet::all().thread_block().map_err(failed)?;
    set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    if getppid().as_raw().unsigned_abs() != shim {
        sys::exit_now(1);
    }
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed)?;
    let enter = |namespace: &File| setns(namespace, CloneFlags::empty());
    pod.node().iter().try_for_each(enter).map_err(|errno| Error::io("enter the node's namespaces", errno))?;
    sys::close_all_but(&[write.as_raw_fd(), pod.lock().as_raw_fd()])
        .map_err(|source| Error::io("close descriptors", source))
}
