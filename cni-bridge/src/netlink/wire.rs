//! Netlink's framing: messages in a datagram, attributes in a message, acknowledgements.
//!
//! Source: `include/uapi/linux/netlink.h`. All numbers are in the machine's byte order.

use std::net::IpAddr;

use nix::errno::Errno;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

/// The length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// The flag of an acknowledgement that attributes follow (`NLM_F_ACK_TLVS`).
const ACK_TLVS: u16 = 0x200;
/// The attribute of an acknowledgement with the kernel's words (`NLMSGERR_ATTR_MSG`).
const ACK_MESSAGE: u16 = 1;
/// The bits of an attribute's type that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_FLAGS: u16 = 0xc000;

/// One message of a datagram.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// All of it, header included.
    pub bytes: &'a [u8],
}

/// A message of the kernel's: an object it was asked for. Whoever asked knows its fixed header and its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its type (`RTM_NEWLINK`, ...).
    pub kind: u16,
    /// All but netlink's header.
    pub body: Vec<u8>,
}

impl Answer {
    pub(super) fn of(message: Message<'_>) -> Answer {
        Answer { kind: message.kind, body: message.bytes.get(HEADER..).unwrap_or_default().to_vec() }
    }

    /// A byte of the fixed header; 0 where the message ends before it.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or_default()
    }

    /// Four bytes of the fixed header; 0 where the message ends before them.
    pub(super) fn number(&self, at: usize) -> u32 {
        u32_at(&self.body, at).unwrap_or_default()
    }

    /// The attributes after a fixed header of that length.
    pub(super) fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(header..).unwrap_or_default())
    }
}

/// The text of an attribute, without the zero that ends it.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// The number of an attribute of four bytes.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    u32_at(value, 0)
}

/// The address of an attribute, by its length.
pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of a datagram; a malformed rest is left out.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let bytes = datagram.get(..length).filter(|_| length >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)?, bytes })
    })
}

/// The attributes of a message or of a nest, by type.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !TYPE_FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The failure that ended a dump early, which its last message has: answers may have come before.
pub(super) fn end_of_dump(message: Message<'_>) -> Option<Errno> {
    errno(u32_at(message.bytes, HEADER)?)
}

/// The error the kernel writes as a negative number; 0 is none.
fn errno(number: u32) -> Option<Errno> {
    (number != 0).then(|| Errno::from_raw(number.cast_signed().wrapping_neg()))
}

/// The outcome of one request.
pub(super) struct Ack {
    pub sequence: u32,
    /// None when it was done.
    pub errno: Option<Errno>,
    /// The kernel's words, with a leading separator; mostly empty.
    pub note: String,
}

impl Ack {
    /// Reads an acknowledgement; none when the message is something else.
    pub fn read(message: Message<'_>) -> Option<Ack> {
        if message.kind != NLMSG_ERROR {
            return None;
        }
        // struct nlmsgerr: the negative error, then the request's header (no more of it, see NETLINK_CAP_ACK).
        let errno = errno(u32_at(message.bytes, HEADER)?);
        let tail =
            message.bytes.get(HEADER + 4 + HEADER..).filter(|_| message.flags & ACK_TLVS != 0).unwrap_or_default();
        let words = attributes(tail).find(|(kind, _)| *kind == ACK_MESSAGE).map(|(_, words)| words);
        let note = words
            .map_or_else(String::new, |words| format!(" ({})", String::from_utf8_lossy(words).trim_end_matches('\0')));
        Some(Ack { sequence: message.sequence, errno, note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_failed_half_way_says_so_in_its_last_message() {
        let mut datagram = vec![0u8; 20];
        (datagram[0], datagram[4]) = (20, 3);
        assert_eq!(messages(&datagram).find_map(end_of_dump), None);
        datagram[16..].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(messages(&datagram).find_map(end_of_dump), Some(Errno::ENODEV));
    }

    #[test]
    fn a_cut_off_datagram_gives_no_message_and_no_panic() {
        let mut datagram = vec![0u8; 36];
        datagram[0] = 36;
        datagram[4] = 2;
        datagram[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        let ack = messages(&datagram).find_map(Ack::read).unwrap();
        assert_eq!(ack.errno, Some(Errno::EEXIST));
        for length in 0..36 {
            assert_eq!(messages(&datagram[..length]).count(), 0);
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "an attribute shorter than its header");
    }
}
