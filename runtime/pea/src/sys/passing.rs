//! Descriptors in messages of Unix sockets (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::own;

/// Receives a message: the length of its text, and the descriptor that comes with it. No length is the end.
pub fn receive(socket: BorrowedFd<'_>, text: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut data = [IoSliceMut::new(text)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            message => break message?,
        }
    };
    let mut fds = message.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // The kernel made it for this message; there is space for one only.
    Ok((message.bytes, fds.next().map(|fd| own(fd.into()))))
}
