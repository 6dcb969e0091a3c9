//! nf_tables: transactions over netlink.
//!
//! The messages are written here, by about a hundred lines, and not by the
//! `netlink-bindings` crate (0.3.5), which was tried: the kernel description it
//! is generated from has no `masq` expression, so the one rule wanted could not be
//! written with it, and it checks its own batches with assertions, where a plugin
//! must answer with an error. `rustables` is GPL, `nftnl` needs C libraries, `nftables` starts `nft`.
//!
//! Source of the numbers: `include/uapi/linux/netfilter/nf_tables.h`. All
//! numbers of nf_tables are in network byte order.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use super::Error;
use super::socket::{prepare, receive, send};
use super::wire::{Ack, HEADER, NLMSG_ERROR, attributes, messages};

/// `struct nfgenmsg`: family, version, resource id.
const GENERIC_HEADER: usize = 4;
const NESTED: u16 = 0x8000;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
/// The type of a comment in a table's user data (libnftnl's `NFTNL_UDATA_TABLE_COMMENT`); `nft` shows it.
const COMMENT: u8 = 0;
/// The longest comment that fits: one byte of length, one terminating zero, 256 bytes of user data in all.
pub const COMMENT_MAX: usize = 250;

/// Writes attributes.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        // An attribute's length does not fit its field only if a caller builds one of 64 KiB.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat());
    }

    fn number(&mut self, kind: u16, value: i32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let mut value = Vec::new();
        inner(&mut Attributes(&mut value));
        self.bytes(kind | NESTED, &value);
    }
}

/// Where a header's field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// An expression of a rule. All comparisons go through register 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// The packet is of this family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    Family(u8),
    /// The bytes of the network header at `offset`, masked, compare so with `value`.
    Network {
        /// From the start of the header, in bytes.
        offset: i32,
        /// Which bits count.
        mask: Vec<u8>,
        /// How they compare.
        is: Is,
        /// What with; of the mask's length.
        value: Vec<u8>,
    },
    /// The packet leaves with the address of the interface it leaves by.
    Masquerade,
}

const REGISTER: i32 = 1;

fn compare(list: &mut Attributes<'_>, is: Is, value: &[u8]) {
    element(list, "cmp", |data| {
        data.number(1, REGISTER);
        data.number(2, is as i32);
        data.nest(3, |data| data.bytes(DATA_VALUE, value));
    });
}

fn element(list: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(LIST_ELEMENT, |expression| {
        expression.text(EXPRESSION_NAME, name);
        expression.nest(EXPRESSION_DATA, data);
    });
}

impl Expression {
    fn write(&self, list: &mut Attributes<'_>) {
        match self {
            Expression::Family(family) => {
                element(list, "meta", |data| {
                    data.number(1, REGISTER);
                    data.number(2, libc::NFT_META_NFPROTO);
                });
                compare(list, Is::Equal, &[*family]);
            }
            Expression::Network { offset, mask, is, value } => {
                let length = i32::try_from(mask.len()).unwrap_or(0);
                element(list, "payload", |data| {
                    data.number(1, REGISTER);
                    data.number(2, libc::NFT_PAYLOAD_NETWORK_HEADER);
                    data.number(3, *offset);
                    data.number(4, length);
                });
                element(list, "bitwise", |data| {
                    data.number(1, REGISTER);
                    data.number(2, REGISTER);
                    data.number(3, length);
                    data.nest(4, |data| data.bytes(DATA_VALUE, mask));
                    data.nest(5, |data| data.bytes(DATA_VALUE, &vec![0; mask.len()]));
                });
                compare(list, *is, value);
            }
            Expression::Masquerade => element(list, "masq", |_| {}),
        }
    }
}

/// A transaction: all of it happens, or nothing.
pub struct Batch {
    buffer: Vec<u8>,
    doing: String,
    sequence: u32,
    /// Where the last message starts.
    last: usize,
}

impl Batch {
    /// An empty transaction; `doing` is what it does, after "cannot".
    pub fn new(doing: impl Into<String>) -> Batch {
        let mut batch = Batch { buffer: Vec::new(), doing: doing.into(), sequence: 0, last: 0 };
        batch.boundary(libc::NFNL_MSG_BATCH_BEGIN);
        batch
    }

    fn boundary(&mut self, kind: i32) {
        let header = [libc::AF_UNSPEC as u8, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
        self.message(kind as u16, 0, header, |_| {});
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: [u8; GENERIC_HEADER],
        write: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.sequence += 1;
        self.last = self.buffer.len();
        message(&mut self.buffer, kind, flags, self.sequence, header, write);
    }

    /// Asks for an acknowledgement of the last message.
    fn acknowledge(&mut self) {
        // The flags of `struct nlmsghdr`, after the length and the type.
        if let Some([low, high]) = self.buffer.get_mut(self.last + 6..self.last + 8) {
            [*low, *high] = (u16::from_ne_bytes([*low, *high]) | NLM_F_ACK).to_ne_bytes();
        }
    }

    fn tables(&mut self, kind: i32, flags: u16, write: impl FnOnce(&mut Attributes<'_>)) {
        self.message(tables_kind(kind), flags, INET, write);
    }

    /// Makes sure the table exists, in the family `inet`; its comment is set if it is made.
    pub fn add_table(&mut self, table: &str, comment: &str) {
        self.tables(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, |attributes| {
            attributes.text(TABLE_NAME, table);
            if !comment.is_empty() && comment.len() <= COMMENT_MAX {
                let length = u8::try_from(comment.len() + 1).unwrap_or(0);
                attributes.bytes(TABLE_USERDATA, &[&[COMMENT, length], comment.as_bytes(), b"\0"].concat());
            }
        });
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self, table: &str) {
        self.tables(libc::NFT_MSG_DELTABLE, 0, |attributes| attributes.text(TABLE_NAME, table));
    }

    /// Adds a chain of type `nat` at the hook `postrouting`, priority `srcnat`.
    pub fn add_postrouting(&mut self, table: &str, chain: &str) {
        self.tables(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, |attributes| {
            attributes.text(CHAIN_TABLE, table);
            attributes.text(CHAIN_NAME, chain);
            attributes.nest(CHAIN_HOOK, |hook| {
                hook.number(HOOK_NUMBER, libc::NF_INET_POST_ROUTING);
                hook.number(HOOK_PRIORITY, libc::NF_IP_PRI_NAT_SRC);
            });
            attributes.text(CHAIN_TYPE, "nat");
        });
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, table: &str, chain: &str, expressions: &[Expression]) {
        self.tables(libc::NFT_MSG_NEWRULE, NLM_F_CREATE | libc::NLM_F_APPEND as u16, |attributes| {
            attributes.text(RULE_TABLE, table);
            attributes.text(RULE_CHAIN, chain);
            attributes.nest(RULE_EXPRESSIONS, |list| expressions.iter().for_each(|expression| expression.write(list)));
        });
    }
}

const INET: [u8; GENERIC_HEADER] = [libc::NFPROTO_INET as u8, 0, 0, 0];

fn tables_kind(kind: i32) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | kind) as u16
}

fn message(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    header: [u8; GENERIC_HEADER],
    write: impl FnOnce(&mut Attributes<'_>),
) {
    let start = buffer.len();
    buffer.extend([0; 4]);
    buffer.extend(kind.to_ne_bytes());
    // Refusals come back with or without NLM_F_ACK, and batches are acknowledged at their last change (see `commit`).
    buffer.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    buffer.extend(sequence.to_ne_bytes());
    buffer.extend([0; 4]);
    buffer.extend(header);
    write(&mut Attributes(buffer));
    let length = u32::try_from(buffer.len() - start).unwrap_or(u32::MAX);
    buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// A socket to nf_tables in the network namespace that was current when it was opened.
pub struct NftSocket {
    socket: Socket,
}

impl NftSocket {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<NftSocket, Error> {
        let open = || {
            let socket = Socket::new(NETLINK_NETFILTER)?;
            prepare(&socket)?;
            Ok(socket)
        };
        Ok(NftSocket { socket: open().map_err(|source| Error::io("open a netfilter netlink socket", source))? })
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// Its first refusal; then nothing was changed.
    pub fn commit(&mut self, mut batch: Batch) -> Result<(), Error> {
        // Of the last change, not of the boundaries: kernels before 6.10 answer these with nothing.
        batch.acknowledge();
        let last = batch.sequence;
        batch.boundary(libc::NFNL_MSG_BATCH_END);
        send(&self.socket, &batch.buffer, &batch.doing)?;
        loop {
            let datagram = receive(&self.socket, &batch.doing)?;
            for ack in messages(&datagram).filter_map(Ack::read) {
                if let Some(errno) = ack.errno {
                    let note = advise(errno, ack.note);
                    return Err(Error::Refused { doing: batch.doing, errno, note });
                }
                if ack.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// The comment of a table in the family `inet`; none where there is no such table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn table_comment(&mut self, table: &str) -> Result<Option<String>, Error> {
        let doing = format!("look up the nftables table inet {table}");
        let mut buffer = Vec::new();
        message(&mut buffer, tables_kind(libc::NFT_MSG_GETTABLE), 0, 1, INET, |attributes| {
            attributes.text(TABLE_NAME, table)
        });
        send(&self.socket, &buffer, &doing)?;
        let datagram = receive(&self.socket, &doing)?;
        for answer in messages(&datagram) {
            match Ack::read(answer) {
                Some(Ack { errno: Some(Errno::ENOENT), .. }) => return Ok(None),
                Some(Ack { errno: Some(errno), note, .. }) => return Err(Error::Refused { doing, errno, note }),
                _ if answer.kind == NLMSG_ERROR => {}
                _ => return Ok(Some(comment(answer.bytes.get(HEADER + GENERIC_HEADER..).unwrap_or_default()))),
            }
        }
        Err(Error::Answer { doing, reason: "no table in it".into() })
    }
}

/// The kernel has no words of its own for a family it was built without.
fn advise(errno: Errno, note: String) -> String {
    match errno {
        Errno::EOPNOTSUPP if note.is_empty() => " (is the kernel built with CONFIG_NF_TABLES_INET?)".into(),
        _ => note,
    }
}

fn comment(table: &[u8]) -> String {
    let Some((_, data)) = attributes(table).find(|(kind, _)| *kind == TABLE_USERDATA) else { return String::new() };
    match data {
        [COMMENT, length, text @ ..] => {
            let text = text.get(..usize::from(*length)).unwrap_or_default();
            String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_family_is_named_unless_it_spoke_itself() {
        assert!(advise(Errno::EOPNOTSUPP, String::new()).contains("CONFIG_NF_TABLES_INET"));
        assert_eq!(advise(Errno::EOPNOTSUPP, ": no".into()), ": no");
        assert_eq!(advise(Errno::EPERM, String::new()), "");
    }
}
