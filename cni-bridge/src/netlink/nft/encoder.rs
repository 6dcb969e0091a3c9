//! Messages and attributes, as nf_tables wants them written.
//!
//! Source: `include/uapi/linux/netlink.h`, `include/uapi/linux/netfilter/nfnetlink.h`. Numbers inside attributes
//! are in network byte order, those of the headers in the machine's.

use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_core::NLM_F_REQUEST;

/// The length of `struct nfgenmsg`: family, version, resource id.
pub const GENERIC_HEADER: usize = 4;
/// Where `nlmsg_flags` is in `struct nlmsghdr`.
const FLAGS: usize = 6;
/// The type of a comment in the user data of a table, chain, rule or element: libnftnl's numbers (all 0, but for
/// sets), by which `nft` shows it.
const COMMENT: u8 = 0;
/// The longest comment that fits: one byte of length, one terminating zero, 256 bytes of user data in all.
pub const COMMENT_MAX: usize = 250;

/// Writes attributes.
pub struct Attributes<'a>(pub &'a mut Vec<u8>);

impl Attributes<'_> {
    /// `NLA_F_NESTED`
    pub const NESTED: u16 = 0x8000;

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        // An attribute's length does not fit its field only if a caller builds one of 64 KiB.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat());
    }

    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn signed(&mut self, kind: u16, value: i32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let mut value = Vec::new();
        inner(&mut Attributes(&mut value));
        self.bytes(kind | Attributes::NESTED, &value);
    }

    /// A comment as user data; an empty one is none, one that is too long is cut.
    pub fn comment(&mut self, kind: u16, comment: &str) {
        if comment.is_empty() {
            return;
        }
        let cut = comment.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= COMMENT_MAX).last();
        let text = comment.get(..cut.unwrap_or(0)).unwrap_or_default();
        let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
        self.bytes(kind, &[&[COMMENT, length], text.as_bytes(), b"\0"].concat());
    }
}

/// The comment in user data; empty where there is none.
pub fn read_comment(user_data: &[u8]) -> String {
    let mut rest = user_data;
    while let [kind, length, tail @ ..] = rest {
        let (value, next) = tail.split_at_checked(usize::from(*length)).unwrap_or((tail, &[]));
        if *kind == COMMENT {
            return String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        }
        rest = next;
    }
    String::new()
}

/// A sequence number that no earlier message of this process has: an answer that comes late is never taken for
/// another request's.
pub fn next_sequence() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

/// Appends a message; returns its sequence number.
pub fn message(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    header: [u8; GENERIC_HEADER],
    write: impl FnOnce(&mut Attributes<'_>),
) -> u32 {
    let sequence = next_sequence();
    let start = buffer.len();
    buffer.extend([0; 4]);
    buffer.extend(kind.to_ne_bytes());
    // Refusals come back with or without NLM_F_ACK, and batches are acknowledged at their last change.
    buffer.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    buffer.extend(sequence.to_ne_bytes());
    buffer.extend([0; 4]);
    buffer.extend(header);
    write(&mut Attributes(buffer));
    let length = u32::try_from(buffer.len() - start).unwrap_or(u32::MAX);
    buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    sequence
}

/// Adds flags to the message that starts at `start`.
pub fn add_flags(buffer: &mut [u8], start: usize, flags: u16) {
    if let Some([low, high]) = buffer.get_mut(start + FLAGS..start + FLAGS + 2) {
        [*low, *high] = (u16::from_ne_bytes([*low, *high]) | flags).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_reads_back_and_a_long_one_is_cut_at_a_character() {
        let written = |comment: &str| {
            let mut buffer = Vec::new();
            Attributes(&mut buffer).comment(1, comment);
            buffer
        };
        let read = |comment: &str| read_comment(written(comment).get(4..).unwrap_or_default());
        assert_eq!(read("podnet abc eth0"), "podnet abc eth0");
        assert!(written("").is_empty());
        let long = "ü".repeat(200);
        assert_eq!(read(&long), "ü".repeat(COMMENT_MAX / 2));
    }

    #[test]
    fn a_comment_is_found_after_other_user_data_and_broken_data_has_none() {
        assert_eq!(read_comment(&[5, 1, 9, COMMENT, 3, b'a', b'b', 0]), "ab");
        assert_eq!(read_comment(&[5, 200, 9]), "");
        assert_eq!(read_comment(&[5]), "");
    }
}
