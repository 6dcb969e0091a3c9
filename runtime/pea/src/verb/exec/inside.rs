//! The process, from its birth inside the container to its program.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sched::{CloneFlags, setns};
use nix::unistd::setsid;

use super::door::Inner;
use crate::cgroup::Entry;
use crate::error::{Error, ErrorKind};
use crate::helper::Kept;
use crate::process::{Launch, Plan, confine, open_console};
use crate::sys;
use crate::sys::process;

/// What the process has been given.
pub struct Inside<'a> {
    pub plan: &'a Plan,
    pub inner: &'a Inner,
    pub entry: &'a Entry,
    pub kept: &'a Kept,
}

impl Inside<'_> {
    /// Becomes the program, or says in `status` why not. With `go` it waits until there is something to read there.
    pub fn run(&self, mut status: File, go: Option<File>) -> ! {
        // First of all: as long as it has one thread, and before the descriptors of the ways are closed.
        let ready = self
            .entry
            .walk()
            .and_then(|()| self.close(&status, go.as_ref()))
            .and_then(|()| wait(go))
            .and_then(|()| self.set_up(&status));
        let error = match ready {
            Ok(launch) => launch.run(),
            Err(error) => error,
        };
        let _ = status.write_all(&serde_json::to_vec(&error).unwrap_or_default());
        process::exit_now(match error.kind() {
            ErrorKind::CommandNotFound => 127,
            ErrorKind::CommandNotExecutable => 126,
            _ => 255,
        })
    }

    /// Closes what came along from the helper: directories and sockets of the machine.
    fn close(&self, status: &File, go: Option<&File>) -> Result<(), Error> {
        for (number, fd) in self.kept.stdio.iter().enumerate() {
            let Some(fd) = fd else { continue };
            sys::set_stdio(fd.as_fd(), number as i32).map_err(|error| Error::io("set a standard stream", error))?;
        }
        let Inner { cgroup_namespace, proc, console } = self.inner;
        let mut keep: Vec<RawFd> = vec![status.as_raw_fd(), proc.as_raw_fd()];
        keep.extend(go.map(AsRawFd::as_raw_fd));
        keep.extend(cgroup_namespace.as_ref().map(AsRawFd::as_raw_fd));
        keep.extend(console.as_ref().map(AsRawFd::as_raw_fd));
        keep.extend(self.plan.listener.as_ref().map(|listener| listener.number()));
        sys::close_all_from(3 + self.kept.preserve, &keep).map_err(|error| Error::io("close descriptors", error))
    }

    fn set_up(&self, status: &File) -> Result<Launch, Error> {
        if let Some(namespace) = &self.inner.cgroup_namespace {
            setns(namespace, CloneFlags::CLONE_NEWCGROUP)
                .map_err(|error| Error::io("join the container's cgroup namespace", error))?;
        }
        setsid().map_err(|error| Error::io("make a session", error))?;
        if let Some(socket) = &self.inner.console {
            open_console(socket.as_fd(), self.plan.console_size)?;
        }
        let launch = confine(self.plan, self.inner.proc.as_fd())?;
        // Closed by the execve would be too late: the program's path could lead through them to the machine's programs.
        let keep: Vec<RawFd> = launch.descriptors().into_iter().chain([status.as_raw_fd()]).collect();
        sys::close_all_from(3 + self.kept.preserve, &keep).map_err(|error| Error::io("close descriptors", error))?;
        Ok(launch)
    }
}

fn wait(go: Option<File>) -> Result<(), Error> {
    let Some(mut go) = go else { return Ok(()) };
    let read = go.read_exact(&mut [0]);
    read.map_err(|_| Error::internal("the helper ended before the process could start"))
}
