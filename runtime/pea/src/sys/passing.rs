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
    let fds = message.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    // The kernel made them for this message. Space for one has room for two, for it is aligned: all are taken, to be closed.
    let fds: Vec<OwnedFd> = fds.flatten().map(|fd| own(fd.into())).collect();
    Ok((message.bytes, fds.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollFd, PollFlags, poll};
    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};

    use super::*;

    #[test]
    fn of_several_descriptors_one_is_received_and_none_stays_open() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let null = File::open("/dev/null").expect("null");
        let fds = [null.as_raw_fd(), writer.as_raw_fd()];
        let with = [ControlMessage::ScmRights(&fds)];
        sendmsg::<UnixAddr>(theirs.as_raw_fd(), &[IoSlice::new(b"two")], &with, MsgFlags::empty(), None).expect("sent");
        drop(writer);
        let mut text = [0; 8];
        let (length, received) = receive(ours.as_fd(), &mut text).expect("a message");
        assert!(length == 3 && received.is_some());
        // Children of other tests may have it until they execute something.
        let mut end = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut end, 10_000_u16), Ok(1), "nobody can write any more");
    }
}
