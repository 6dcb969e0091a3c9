//! The few rtnetlink(7) requests a runtime needs: a link found, moved and set up, its addresses listed and added.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The loopback device's index: the first link of every network namespace.
pub const LOOPBACK: u32 = 1;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const UP: u32 = libc::IFF_UP as u32;

/// Lengths of linux/netlink.h and linux/rtnetlink.h: `nlmsghdr`, `ifinfomsg`, `ifaddrmsg`.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// As the kernel gives it: family, prefix length and scope in the header, the rest as attributes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    header: [u8; ADDRESS],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Whether it was given to the link (and will not run out) for all the world to see: such an address is kept when
    /// the link moves.
    pub fn is_permanent_and_global(&self) -> bool {
        let [_, _, short_flags, scope, ..] = self.header;
        let long = self.attributes.iter().find(|(kind, _)| *kind == libc::IFA_FLAGS);
        let flags = long.and_then(|(_, value)| number(value)).unwrap_or(u32::from(short_flags));
        flags & libc::IFA_F_PERMANENT != 0 && scope == libc::RT_SCOPE_UNIVERSE
    }

    fn index(&self) -> u32 {
        number(&self.header[4..]).unwrap_or(0)
    }
}

/// A conversation with the kernel about the network namespace it was opened in.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    pub fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).map(Self)
    }

    /// The index of the link of that name.
    pub fn find(&self, name: &str) -> Result<u32, Errno> {
        let body = link(0, 0, 0, &[(libc::IFLA_IFNAME, terminated(name))]);
        let answers = self.ask(libc::RTM_GETLINK, 0, &body)?;
        let index = |message: &Vec<u8>| number(message.get(4..8)?);
        answers.iter().find_map(index).ok_or(Errno::ENODEV)
    }

    /// Sets the link up.
    pub fn set_up(&self, index: u32) -> Result<(), Errno> {
        self.ask(libc::RTM_NEWLINK, ACKNOWLEDGE, &link(index, UP, UP, &[])).map(drop)
    }

    /// Takes the link down and moves it to another network namespace, under that name.
    pub fn give_away(&self, index: u32, to: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        let namespace = (to.as_raw_fd() as u32).to_ne_bytes().to_vec();
        let attributes = [(libc::IFLA_NET_NS_FD, namespace), (libc::IFLA_IFNAME, terminated(name))];
        self.ask(libc::RTM_NEWLINK, ACKNOWLEDGE, &link(index, 0, UP, &attributes)).map(drop)
    }

    /// The addresses of the link.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>, Errno> {
        let messages = self.ask(libc::RTM_GETADDR, DUMP, &[0; ADDRESS])?;
        let addresses = messages.iter().filter_map(|message| {
            let (header, rest) = message.split_first_chunk()?;
            Some(Address { header: *header, attributes: attributes(rest) })
        });
        Ok(addresses.filter(|address| address.index() == index).collect())
    }

    /// Gives the link an address that another had: what it is, and not what became of it.
    pub fn add(&self, index: u32, address: &Address) -> Result<(), Errno> {
        let [family, prefix, flags, scope, ..] = address.header;
        let mut body = vec![family, prefix, flags, scope];
        body.extend(index.to_ne_bytes());
        let kept = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST, libc::IFA_FLAGS];
        for (kind, value) in address.attributes.iter().filter(|(kind, _)| kept.contains(kind)) {
            attribute(&mut body, *kind, value);
        }
        self.ask(libc::RTM_NEWADDR, ACKNOWLEDGE | libc::NLM_F_CREATE as u16 | libc::NLM_F_REPLACE as u16, &body)
            .map(drop)
    }

    /// Sends a request and returns the bodies of the answers, without the acknowledgement.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]); // sequence number and port: one question at a time
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut bodies = Vec::new();
        // Lists come in pieces as large as there is room for; an acknowledgement is 36 bytes, and so is the request in it.
        let mut buffer = vec![0; if flags & DUMP == 0 { 8 } else { 64 } * 1024];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = split(rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(bodies),
                    libc::NLMSG_ERROR => {
                        let error = number(body).map_or(libc::EPROTO, |code| -(code as i32));
                        return if error == 0 { Ok(bodies) } else { Err(Errno::from_raw(error)) };
                    }
                    _ => bodies.push(body.to_vec()),
                }
                rest = next;
            }
            if flags & (DUMP | ACKNOWLEDGE) == 0 {
                return Ok(bodies);
            }
        }
    }
}

/// An `ifinfomsg` with attributes.
fn link(index: u32, flags: u32, change: u32, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::with_capacity(LINK);
    body.extend([libc::AF_UNSPEC as u8, 0, 0, 0]);
    for number in [index, flags, change] {
        body.extend(number.to_ne_bytes());
    }
    for (kind, value) in attributes {
        attribute(&mut body, *kind, value);
    }
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn attributes(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = rest.get(4..length) else { break };
        all.push((u16::from_ne_bytes([c, d]), value.to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// The first message: its type, its body, and what comes after it.
fn split(messages: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(messages)? as usize;
    let kind = u16::from_ne_bytes(messages.get(4..6)?.try_into().ok()?);
    let body = messages.get(HEADER..length)?;
    Some((kind, body, messages.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 3, &terminated("eth0"));
        attribute(&mut bytes, 8, &[1, 2, 3, 4]);
        assert_eq!(bytes.len(), 12 + 8);
        assert_eq!(attributes(&bytes), [(3, b"eth0\0".to_vec()), (8, vec![1, 2, 3, 4])]);
        assert_eq!(attributes(&bytes[..8]), [], "cut off");
    }

    #[test]
    fn messages_that_are_cut_off_are_none() {
        let whole = [20_u32.to_ne_bytes(), [2, 0, 0, 0], [0; 4], [0; 4], 7_u32.to_ne_bytes()].concat();
        assert_eq!(split(&whole), Some((2, 7_u32.to_ne_bytes().as_slice(), [].as_slice())));
        assert_eq!(split(&whole[..19]), None);
        assert_eq!(split(&[]), None);
    }

    #[test]
    fn the_loopback_device_is_the_first_link() {
        let netlink = Netlink::open().expect("a socket");
        assert_eq!(netlink.find("lo"), Ok(LOOPBACK));
        assert_eq!(netlink.find("no-such-link"), Err(Errno::ENODEV));
        netlink.addresses(LOOPBACK).expect("a dump comes to its end");
    }
}
