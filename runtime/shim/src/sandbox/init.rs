//! The init of a shared PID namespace: it holds the namespace, reaps what its processes leave
//! behind, and ends on SIGTERM, taking all of them with it.
//!
//! A pod with a user namespace has one too, for whatever PID namespace: see [`users`](super::users). The others' is root on
//! the node, and gives that up: see [`seclusion`](super::seclusion).

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::seclusion::seclude;
use crate::sys::{self, Fork};

/// How long the init may take to set itself up.
pub(super) const SETUP: Duration = Duration::from_secs(5);

/// Forks the init into a PID namespace of its own. It is the shim's child, and dies with it.
pub(super) fn spawn() -> io::Result<i32> {
    let (ours, theirs) = UnixStream::pair()?;
    match sys::fork(libc::CLONE_NEWPID)? {
        Fork::Child => {
            drop(ours);
            be(theirs, seclude)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            await_up(ours, pid)?;
            Ok(pid)
        }
    }
}

/// Waits in the shim until the init of that pid, at the other end, is up or says why it is not. One that is not up ends: nobody
/// would watch it, and it has the lock.
pub(super) fn await_up(init: UnixStream, pid: i32) -> io::Result<()> {
    hear(init).inspect_err(|_| {
        // It is our child and has not been reaped, so the number is its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    })
}

fn hear(mut init: UnixStream) -> io::Result<()> {
    init.set_read_timeout(Some(SETUP))?;
    init.write_all(&[0])?;
    let mut errno = [0; size_of::<i32>()];
    init.read_exact(&mut errno)?;
    match i32::from_le_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Is the init, in a process that was forked for that. `shim` leads to where [`await_up`] is called; `settle` is what is
/// done when nothing of the node's is needed any more.
pub(super) fn be(mut shim: UnixStream, settle: fn() -> io::Result<()>) -> ! {
    let up = set_up(&mut shim, settle);
    let errno = up.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    let told = shim.write_all(&errno.to_le_bytes());
    drop(shim);
    let served = if errno == 0 { told.and_then(|()| serve()) } else { told };
    sys::exit_now(i32::from(errno != 0 || served.is_err()))
}

/// It never returns to what the shim was doing: its memory is a copy of the shim's, and no descriptor is left to it once the
/// shim has heard of it. A container that may trace it could open each of them anew (`/proc/1/fd`), also for writing: the
/// shim's lock, with the pid in it that `delete` goes by, or the node's `/dev/null`, whose mode is then its to change. So it
/// does not hold the lock, either: `delete` may be done a moment before the kernel has ended it.
fn set_up(shim: &mut UnixStream, settle: fn() -> io::Result<()>) -> io::Result<()> {
    // Blocked for good and taken by sigwait: a signal that is blocked is never ignored, although an
    // init has no default reactions.
    SigSet::all().thread_block()?;
    sys::close_all_but(&[shim.as_raw_fd()])?;
    sys::close_standard()?;
    settle()?;
    // After that: a change of users takes it away (PR_SET_PDEATHSIG(2const)).
    set_pdeathsig(Signal::SIGKILL)?;
    // A shim that died before it could be watched shows here, as the end of the stream.
    shim.read_exact(&mut [0])?;
    Ok(set_name(c"peapod-init")?)
}

/// What an init is there for.
fn serve() -> io::Result<()> {
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGTERM].into_iter().collect();
    loop {
        match signals.wait()? {
            Signal::SIGTERM => return Ok(()),
            _ => reap(),
        }
    }
}

fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
