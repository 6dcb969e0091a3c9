//! An operation under way in the helper child.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::error::Error;
use crate::helper;
use crate::store::replace;
use crate::sys::process;

/// A `create` or `exec` that goes on in the helper child.
///
/// Dropping it before the end kills and reaps the helper, and with it what it has started so far.
#[derive(Debug)]
pub struct Pending {
    helper: i32,
    pidfd: OwnedFd,
    report: Option<File>,
    pid_file: Option<PathBuf>,
}

impl Pending {
    pub(crate) fn new(helper: i32, pidfd: OwnedFd, report: File) -> Self {
        Self { helper, pidfd, report: Some(report), pid_file: None }
    }

    /// Has [`finish`](Self::finish) write the pid to that file (an absolute path).
    pub(crate) fn with_pid_file(mut self, pid_file: Option<PathBuf>) -> Self {
        self.pid_file = pid_file;
        self
    }

    /// Becomes readable when the outcome is known (it is the helper's pidfd).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for the outcome, reaps the helper, and returns the pid of the container's init (or of the
    /// process executed).
    ///
    /// That process is the caller's child if the caller is a child subreaper; the caller reaps it.
    pub fn finish(mut self) -> Result<i32, Error> {
        // Somebody who reaps every child there is may have taken this one already; the report tells all the same.
        let exit = process::wait(self.helper, true);
        let mut text = Vec::new();
        if let Some(mut report) = self.report.take() {
            // The container may still hold a copy of the writing end, so there is no end of file to wait for.
            match report.read_to_end(&mut text) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                    return Err(Error::io("read the helper's report", error));
                }
                _ => {}
            }
        }
        if text.is_empty() {
            let end = exit.ok().flatten().map_or("unseen".to_owned(), |exit| format!("with status {}", exit.code));
            return Err(Error::internal(format!("the helper process {} ended {end} and left no report", self.helper)));
        }
        let pid = helper::parse_report(&text)?;
        let written = self.pid_file.take().map_or(Ok(()), |file| replace(&file, pid.to_string().as_bytes()));
        match written {
            Ok(()) => Ok(pid),
            Err(error) => {
                // Nobody would know of it.
                if let Ok(pidfd) = process::pidfd_open(pid) {
                    let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                }
                let _ = process::wait(pid, true);
                Err(error)
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.report.is_none() {
            return;
        }
        // Stopped first, so that it starts nothing more while its children are looked up.
        if process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGSTOP).is_ok() {
            process::wait_stopped(self.helper);
        }
        let children = children_of(self.helper);
        for child in &children {
            if let Ok(pidfd) = process::pidfd_open(*child) {
                let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
        let _ = process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait(self.helper, true);
        for child in children {
            // Ours now if we are a subreaper; otherwise there is nothing to reap.
            let _ = process::wait(child, true);
        }
    }
}

/// The children of a single-threaded process.
pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
