//! The init of a shared PID namespace: it holds the namespace, reaps what its processes leave
//! behind, and ends on SIGTERM, taking all of them with it.

use std::fs::File;
use std::io;

use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::sys::{self, Fork};

/// Forks the init into a PID namespace of its own. It is the shim's child, and dies with it.
pub(super) fn spawn() -> io::Result<i32> {
    match sys::fork(libc::CLONE_NEWPID)? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let status = i32::from(run().is_err());
            sys::exit_now(status)
        }
    }
}

/// Everything an init does. It never returns to what the shim was doing: its memory is a copy of
/// the shim's, and none of the shim's descriptors is left to it.
fn run() -> io::Result<()> {
    // Blocked for good and taken by sigwait: a signal that is blocked is never ignored, although an
    // init has no default reactions.
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGTERM].into_iter().collect();
    SigSet::all().thread_block()?;
    set_pdeathsig(Signal::SIGKILL)?;
    set_name(c"peapod-init")?;
    sys::close_all_but(&[])?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        sys::replace_standard(standard, &null)?;
    }
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
