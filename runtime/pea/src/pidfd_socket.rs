//! A Unix socket that is told of a process by a handle instead of a number: no later process can be mistaken for it.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::error::Error;

/// The socket, connected before there is a process, so that one nobody listens on fails early.
#[derive(Debug)]
pub struct PidfdSocket(UnixStream);

impl PidfdSocket {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let connected = crate::socket::connect(path);
        connected.map(Self).map_err(|error| Error::io(format!("connect to pidfd socket {}", path.display()), error))
    }

    /// Sends the process's pidfd (pidfd_open(2)), with the message "pidfd".
    pub fn send(&self, pidfd: BorrowedFd<'_>) -> Result<(), Error> {
        let fds = [pidfd.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(b"pidfd")], &message, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .map_err(|error| Error::io("send the process's pidfd to the pidfd socket", error))
    }
}
