//! The line between the helper and the init it makes: a socket pair whose messages are whole or absent.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::error::{Error, ErrorKind};

/// More than this an error does not say.
const LONGEST_TEXT: usize = 4096;

/// What the two tell each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// To the init: the ids of its user namespace are mapped.
    Mapped,
    /// To the init: it is in its cgroup, and has its network devices.
    Placed,
    /// To the init: the hooks of the runtime's namespaces have run.
    HooksRan,
    /// To the init: the container is on record; from here on it lives without the helper.
    Recorded,
    /// From a process in between: the init's pid.
    Cloned(i32),
    /// From the init: it is in those of its cgroups that it could enter by itself.
    Entered,
    /// From the init: the mounts are there and the root is still the old one; the hooks may run.
    HooksDue,
    /// From the init: all is done but to be started.
    Ready,
    /// From the init: it could not go on, and has ended.
    Failed(Error),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let plain = |letter: u8| vec![letter];
        match self {
            Self::Mapped => plain(b'm'),
            Self::Placed => plain(b'p'),
            Self::HooksRan => plain(b'r'),
            Self::Recorded => plain(b'c'),
            Self::HooksDue => plain(b'd'),
            Self::Ready => plain(b'y'),
            Self::Entered => plain(b'e'),
            Self::Cloned(pid) => [b"i".as_slice(), &pid.to_ne_bytes()].concat(),
            Self::Failed(error) => {
                let text: String = error.to_string().chars().take(LONGEST_TEXT).collect();
                let json = serde_json::to_vec(&Error::new(error.kind(), text)).unwrap_or_default();
                [b"f".as_slice(), &json].concat()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (letter, rest) = bytes.split_first()?;
        Some(match letter {
            b'm' => Self::Mapped,
            b'p' => Self::Placed,
            b'r' => Self::HooksRan,
            b'c' => Self::Recorded,
            b'd' => Self::HooksDue,
            b'y' => Self::Ready,
            b'e' => Self::Entered,
            b'i' => Self::Cloned(i32::from_ne_bytes(rest.try_into().ok()?)),
            b'f' => Self::Failed(serde_json::from_slice(rest).ok()?),
            _ => return None,
        })
    }
}

/// One end of the line.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends: the helper's and the init's.
    pub fn pair() -> Result<(Self, Self), Error> {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map(|(ours, theirs)| (Self(ours), Self(theirs)))
            .map_err(|error| Error::io("make a socket pair", error))
    }

    /// Says something. The other side may have ended; that shows in what it said last.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        send(self.0.as_raw_fd(), &message.encode(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message; `None` when the other side has ended.
    pub fn receive(&self) -> Result<Option<Message>, Error> {
        self.take(MsgFlags::empty())
    }

    /// What the other side has said already, if anything.
    pub fn said(&self) -> Option<Message> {
        self.take(MsgFlags::MSG_DONTWAIT).ok().flatten()
    }

    fn take(&self, flags: MsgFlags) -> Result<Option<Message>, Error> {
        // Most messages are a letter; how much more this one is, is asked for first.
        let length = self.receive_into(&mut [], flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
        let mut bytes = vec![0; length];
        if length > 0 {
            self.receive_into(&mut bytes, MsgFlags::MSG_DONTWAIT)?;
        }
        match bytes.as_slice() {
            [] => Ok(None),
            bytes => Message::decode(bytes).map(Some).ok_or_else(|| {
                Error::new(ErrorKind::Internal, "a bug: the helper and the init do not understand each other")
            }),
        }
    }
}

impl Channel {
    /// The length of the next message; 0 when the other side has ended.
    fn receive_into(&self, bytes: &mut [u8], flags: MsgFlags) -> Result<usize, Error> {
        loop {
            match recv(self.0.as_raw_fd(), bytes, flags) {
                Err(nix::Error::EINTR) => {}
                // It ended with something of ours unread.
                Err(nix::Error::ECONNRESET) => return Ok(0),
                received => return received.map_err(|error| Error::io("receive a message", error)),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent_then_the_end() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let long = Error::new(ErrorKind::InvalidSpec, "\u{1}".repeat(2 * LONGEST_TEXT));
        let cut = Error::new(ErrorKind::InvalidSpec, "\u{1}".repeat(LONGEST_TEXT));
        let plain = [Message::Mapped, Message::Placed, Message::HooksRan, Message::Recorded, Message::HooksDue];
        let letters = [Message::Ready, Message::Entered, Message::Cloned(70_000), Message::Failed(cut)];
        let messages = plain.into_iter().chain(letters);
        assert_eq!(ours.said(), None);
        for message in messages {
            theirs.send(&message).expect("sent");
            assert_eq!(ours.receive(), Ok(Some(message)));
        }
        theirs.send(&Message::Failed(long)).expect("what is too long is cut");
        assert!(matches!(ours.receive(), Ok(Some(Message::Failed(_)))));
        drop(theirs);
        assert_eq!(ours.receive(), Ok(None));
        ours.send(&Message::Ready).expect_err("nobody there, and no SIGPIPE");
    }
}
