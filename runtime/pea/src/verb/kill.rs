//! `kill`: a signal to the init, or to every process.

use std::os::fd::AsFd;

use crate::cgroup;
use crate::error::{Error, ErrorKind};
use crate::store::Container;
use crate::sys::process;

/// Sends the signal.
///
/// With `all`, a container whose init has ended may still have processes: one that shares another's pid namespace.
pub fn kill(container: &Container, signal: i32, all: bool) -> Result<(), Error> {
    if !(0..=libc::SIGRTMAX()).contains(&signal) {
        return Err(Error::new(ErrorKind::InvalidArgument, format!("{signal} is not a signal")));
    }
    let record = container.record()?;
    if all {
        return cgroup::signal_tree(&record.cgroup, signal);
    }
    let not_running = || Error::not_running(container.id());
    let init = record.init.ok_or_else(not_running)?;
    let handle = process::pidfd_open(init.pid).map_err(|_| not_running())?;
    // Only now it is certain whose handle this is.
    if !init.is_alive() {
        return Err(not_running());
    }
    send(&handle, signal, init.pid)?;
    if signal == libc::SIGKILL {
        // A v1 freezer would keep it from dying.
        cgroup::thaw(&record.cgroup)?;
    }
    Ok(())
}

fn send(handle: &impl AsFd, signal: i32, pid: i32) -> Result<(), Error> {
    match process::pidfd_send_signal(handle.as_fd(), signal) {
        // Ended in between, which is what most signals are sent for.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        sent => sent.map_err(|error| Error::io(format!("send signal {signal} to process {pid}"), error)),
    }
}
