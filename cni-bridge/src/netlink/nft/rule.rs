//! Rules, put together in the words of `nft`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Family;
use super::expression::{Expression, Header, Is, Register, Source};

/// The length of an interface's name in a register (`IFNAMSIZ`).
pub const INTERFACE_NAME: usize = 16;
pub(super) const FIRST: Register = Register(0);
/// `RTN_LOCAL` of `include/uapi/linux/rtnetlink.h`.
const LOCAL: u32 = 2;
/// `NFT_META_*` in the enumeration's own type here.
pub(super) const fn meta(key: i32) -> Source {
    Source::Meta(key.cast_unsigned())
}
const fn connection(key: i32) -> Source {
    Source::Connection(key.cast_unsigned())
}

/// States of a connection, as `ct state` matches them (`NF_CT_STATE_BIT`).
pub mod state {
    /// Nothing conntrack could make sense of.
    pub const INVALID: u32 = 1;
    /// Of a connection that saw packets both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Of one that belongs to another: an ICMP error.
    pub const RELATED: u32 = 4;
    /// The first packet.
    pub const NEW: u32 = 8;
}

/// Bits of `ct status` (`enum ip_conntrack_status`).
pub mod status {
    /// The source was translated.
    pub const SOURCE_TRANSLATED: u32 = 1 << 4;
    /// The destination was translated.
    pub const DESTINATION_TRANSLATED: u32 = 1 << 5;
}

/// A part of the key of a set or map; several make a concatenation, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The source address (families `ip` and `ip6`).
    Source,
    /// The destination address (families `ip` and `ip6`).
    Destination,
    /// The protocol above IP: one byte.
    Protocol,
    /// TCP's, UDP's or SCTP's destination port: two bytes.
    DestinationPort,
    /// The name of the interface it came in by: 16 bytes.
    In,
    /// The name of the interface it leaves by: 16 bytes.
    Out,
    /// Ethernet's source address: 6 bytes.
    LinkSource,
}

impl Key {
    /// Where it is, and how many bytes.
    fn source(self, family: Family) -> (Source, usize) {
        let address = |source: bool| {
            let (offset, length) = if family == Family::Ip6 { (8, 16) } else { (12, 4) };
            let offset = if source { offset } else { offset + length };
            (Source::Bytes { header: Header::Network, offset, length }, length as usize)
        };
        match self {
            Key::Source => address(true),
            Key::Destination => address(false),
            Key::Protocol => (meta(libc::NFT_META_L4PROTO), 1),
            Key::DestinationPort => (Source::Bytes { header: Header::Transport, offset: 2, length: 2 }, 2),
            Key::In => (meta(libc::NFT_META_IIFNAME), INTERFACE_NAME),
            Key::Out => (meta(libc::NFT_META_OIFNAME), INTERFACE_NAME),
            Key::LinkSource => (Source::Bytes { header: Header::Link, offset: 6, length: 6 }, 6),
        }
    }
}

/// An interface's name as a register holds it.
pub fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME, 0);
    bytes
}

/// The interface whose name a register, or the key of a set, holds.
pub fn interface_name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// An address as a header has it.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A rule: matches from left to right, and what is done with a packet that they let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) family: Family,
    pub(super) expressions: Vec<Expression>,
    pub(super) comment: String,
    /// Whether a match before says which IP family it is.
    of_one_version: bool,
}

impl Rule {
    /// A rule for a chain of a table of this family, without matches.
    pub fn new(family: Family) -> Rule {
        let of_one_version = matches!(family, Family::Ip | Family::Ip6);
        Rule { family, expressions: Vec::new(), comment: String::new(), of_one_version }
    }

    /// What `nft list ruleset` shows behind it, and what it can be found by; cut at [`super::COMMENT_MAX`] bytes.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Rule {
        Rule { comment: comment.into(), ..self }
    }

    pub(super) fn with(mut self, expressions: impl IntoIterator<Item = Expression>) -> Rule {
        self.expressions.extend(expressions);
        self
    }

    /// The bytes of `source` compare so with `value`.
    #[must_use]
    pub fn compare(self, source: Source, is: Is, value: impl Into<Vec<u8>>) -> Rule {
        self.with([Expression::Load(source, FIRST), Expression::Compare(FIRST, is, value.into())])
    }

    /// The bytes of `source` and `mask`, compare so with `value`.
    #[must_use]
    pub fn compare_masked(self, source: Source, mask: Vec<u8>, is: Is, value: impl Into<Vec<u8>>) -> Rule {
        let none = vec![0; mask.len()];
        let masked = Expression::Bits(FIRST, mask, none);
        self.with([Expression::Load(source, FIRST), masked, Expression::Compare(FIRST, is, value.into())])
    }

    /// The packet is of this IP family. Said once, and only where the table's family does not say it.
    #[must_use]
    pub fn ip_version(self, ip: IpAddr) -> Rule {
        if self.of_one_version {
            return self;
        }
        let rule = match (self.family, ip) {
            (Family::Bridge | Family::Netdev, IpAddr::V4(_)) => self.ether_type(libc::ETH_P_IP),
            (Family::Bridge | Family::Netdev, IpAddr::V6(_)) => self.ether_type(libc::ETH_P_IPV6),
            (_, IpAddr::V4(_)) => self.of_protocol_family(libc::NFPROTO_IPV4),
            (_, IpAddr::V6(_)) => self.of_protocol_family(libc::NFPROTO_IPV6),
        };
        Rule { of_one_version: true, ..rule }
    }

    fn of_protocol_family(self, family: i32) -> Rule {
        let family = u8::try_from(family).unwrap_or_default();
        self.compare(meta(libc::NFT_META_NFPROTO), Is::Equal, [family])
    }

    /// The frame is of this type (`ETH_P_*`).
    #[must_use]
    pub fn ether_type(self, kind: i32) -> Rule {
        let kind = u16::try_from(kind).unwrap_or_default();
        self.compare(meta(libc::NFT_META_PROTOCOL), Is::Equal, kind.to_be_bytes())
    }

    /// The source address is (not) in the subnet.
    #[must_use]
    pub fn source(self, is: Is, subnet: IpNetwork) -> Rule {
        self.address(true, is, subnet)
    }

    /// The destination address is (not) in the subnet.
    #[must_use]
    pub fn destination(self, is: Is, subnet: IpNetwork) -> Rule {
        self.address(false, is, subnet)
    }

    /// The destination is no group of this IP family: not in 224.0.0.0/4, not in ff00::/8.
    #[must_use]
    pub fn no_multicast(self, ip: IpAddr) -> Rule {
        let (offset, mask, value) = match ip {
            IpAddr::V4(_) => (16, vec![0xf0, 0, 0, 0], vec![0xe0, 0, 0, 0]),
            IpAddr::V6(_) => {
                let mut first = vec![0; 16];
                first[0] = 0xff;
                (24, first.clone(), first)
            }
        };
        let length = u32::try_from(mask.len()).unwrap_or_default();
        let at = Source::Bytes { header: Header::Network, offset, length };
        self.ip_version(ip).compare_masked(at, mask, Is::NotEqual, value)
    }

    /// Offsets: RFC 791 section 3.1, RFC 8200 section 3.
    fn address(self, source: bool, is: Is, subnet: IpNetwork) -> Rule {
        let (offset, length) = match (subnet, source) {
            (IpNetwork::V4(_), true) => (12, 4),
            (IpNetwork::V4(_), false) => (16, 4),
            (IpNetwork::V6(_), true) => (8, 16),
            (IpNetwork::V6(_), false) => (24, 16),
        };
        let rule = self.ip_version(subnet.ip());
        let at = Source::Bytes { header: Header::Network, offset, length };
        let value = octets(subnet.network());
        // A whole address without a mask: nft shows it as it is written by people.
        if u32::from(subnet.prefix()) == length * 8 {
            return rule.compare(at, is, value);
        }
        rule.compare_masked(at, octets(subnet.mask()), is, value)
    }

    /// Ethernet's source address is (not) this one.
    #[must_use]
    pub fn link_source(self, is: Is, mac: [u8; 6]) -> Rule {
        self.compare(Source::Bytes { header: Header::Link, offset: 6, length: 6 }, is, mac)
    }

    /// It came in by the interface of this name, or not.
    #[must_use]
    pub fn input(self, is: Is, name: &str) -> Rule {
        self.compare(meta(libc::NFT_META_IIFNAME), is, interface(name))
    }

    /// It leaves by the interface of this name, or not.
    #[must_use]
    pub fn output(self, is: Is, name: &str) -> Rule {
        self.compare(meta(libc::NFT_META_OIFNAME), is, interface(name))
    }

    /// It came in by the interface of this index, or not.
    #[must_use]
    pub fn input_index(self, is: Is, index: u32) -> Rule {
        self.compare(meta(libc::NFT_META_IIF), is, index.to_ne_bytes())
    }

    /// The protocol above IP (`IPPROTO_*`).
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Rule {
        self.compare(meta(libc::NFT_META_L4PROTO), Is::Equal, [protocol])
    }

    /// The protocol and its destination port.
    #[must_use]
    pub fn destination_port(self, protocol: u8, port: u16) -> Rule {
        let at = Source::Bytes { header: Header::Transport, offset: 2, length: 2 };
        self.protocol(protocol).compare(at, Is::Equal, port.to_be_bytes())
    }

    /// The connection is in one of these states ([`state`]).
    #[must_use]
    pub fn state(self, any: u32) -> Rule {
        self.any_bit(connection(libc::NFT_CT_STATE), any)
    }

    /// The connection has one of these bits of status ([`status`]).
    #[must_use]
    pub fn status(self, any: u32) -> Rule {
        self.any_bit(connection(libc::NFT_CT_STATUS), any)
    }

    fn any_bit(self, source: Source, any: u32) -> Rule {
        self.compare_masked(source, any.to_ne_bytes().into(), Is::NotEqual, [0; 4])
    }

    /// The packet's mark and `mask`, compare so with `value`.
    #[must_use]
    pub fn mark(self, mask: u32, is: Is, value: u32) -> Rule {
        let mask = mask.to_ne_bytes().into();
        self.compare_masked(meta(libc::NFT_META_MARK), mask, is, value.to_ne_bytes())
    }

    /// The connection's mark and `mask`, compare so with `value`.
    #[must_use]
    pub fn connection_mark(self, mask: u32, is: Is, value: u32) -> Rule {
        let mask = mask.to_ne_bytes().into();
        self.compare_masked(connection(libc::NFT_CT_MARK), mask, is, value.to_ne_bytes())
    }

    /// The destination address is one of the node's own.
    #[must_use]
    pub fn destination_is_local(self) -> Rule {
        self.compare(Source::DestinationType, Is::Equal, LOCAL.to_ne_bytes())
    }

    /// Loads a key, part by part, each from a word of its own on.
    pub(super) fn load(self, keys: &[Key]) -> Rule {
        let mut word = 0;
        let family = self.family;
        let loads = keys.iter().map(|key| {
            let (source, length) = key.source(family);
            let load = Expression::Load(source, Register(word));
            word += u32::try_from(length.div_ceil(4)).unwrap_or_default();
            load
        });
        let loads: Vec<_> = loads.collect();
        self.with(loads)
    }

    /// The key is in the set.
    #[must_use]
    pub fn is_in(self, keys: &[Key], set: &str) -> Rule {
        self.load(keys).with([Expression::In { set: set.into(), key: FIRST, inverted: false }])
    }

    /// The source address is in the set; for tables of both IP families, of which `version` is one's.
    #[must_use]
    pub fn source_in(self, version: IpAddr, set: &str) -> Rule {
        self.address_in(if version.is_ipv4() { (12, 4) } else { (8, 16) }, version, set)
    }

    /// The destination address is in the set, as [`Rule::source_in`].
    #[must_use]
    pub fn destination_in(self, version: IpAddr, set: &str) -> Rule {
        self.address_in(if version.is_ipv4() { (16, 4) } else { (24, 16) }, version, set)
    }

    fn address_in(self, (offset, length): (u32, u32), version: IpAddr, set: &str) -> Rule {
        let at = Source::Bytes { header: Header::Network, offset, length };
        let found = Expression::In { set: set.into(), key: FIRST, inverted: false };
        self.ip_version(version).with([Expression::Load(at, FIRST), found])
    }

    /// The key is not in the set.
    #[must_use]
    pub fn is_not_in(self, keys: &[Key], set: &str) -> Rule {
        self.load(keys).with([Expression::In { set: set.into(), key: FIRST, inverted: true }])
    }
}
