//! Expressions: what a rule is made of, one by one, as the kernel has them.
//!
//! Most callers want [`super::Rule`], which puts them together. Source of the numbers:
//! `include/uapi/linux/netfilter/nf_tables.h`.

use super::encoder::Attributes;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// `NFT_REG_1`: the first 16 bytes of registers.
const FIRST_REGISTER: u32 = 1;
/// `NFT_REG32_00`: the first register of 4 bytes; 16 of them, the first four lie in `NFT_REG_1`.
const FIRST_WORD: u32 = 8;
/// `NFT_REG_VERDICT`
const VERDICT_REGISTER: u32 = 0;
/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// The header that an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Ethernet's.
    Link = 0,
    /// IPv4's or IPv6's.
    Network = 1,
    /// TCP's, UDP's or SCTP's.
    Transport = 2,
}

/// What is loaded into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Data of the packet beside its bytes: one of `NFT_META_*`.
    Meta(u32),
    /// Data of its connection: one of `NFT_CT_*`.
    Connection(u32),
    /// Bytes of a header.
    Bytes {
        /// Counted from its start,
        header: Header,
        /// in bytes.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// The type of the destination address (`RTN_LOCAL`, ...), as the routing tables have it.
    DestinationType,
}

/// A register, as the number of its first word of 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        // nft writes the first one so, and reads concatenations back only in its own writing.
        if self.0 == 0 { FIRST_REGISTER } else { FIRST_WORD + self.0 }
    }
}

/// Where the packet goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On, past this base chain.
    Accept,
    /// Nowhere.
    Drop,
    /// Back to the rule after the jump.
    Return,
    /// To a chain, and back.
    Jump(String),
    /// To a chain, not back to this one.
    Goto(String),
}

impl Verdict {
    /// Writes the attribute's data (`NFTA_DATA_VERDICT`), for a rule or an element of a map.
    pub(super) fn write(&self, data: &mut Attributes<'_>) {
        let (code, chain) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        data.nest(DATA_VERDICT, |verdict| {
            verdict.signed(1, code);
            if let Some(chain) = chain {
                verdict.text(2, chain);
            }
        });
    }
}

/// Which address is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// The source.
    Source = 0,
    /// The destination.
    Destination = 1,
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a register.
    Load(Source, Register),
    /// Loads a register with these bytes.
    Value(Vec<u8>, Register),
    /// Sets a register to itself `and` the first `xor` the second; both of the same length.
    Bits(Register, Vec<u8>, Vec<u8>),
    /// Goes on with the rule only if the register compares so.
    Compare(Register, Is, Vec<u8>),
    /// Sets the packet's mark from a register.
    SetMark(Register),
    /// Sets the connection's mark from a register.
    SetConnectionMark(Register),
    /// Goes on only if the key that starts at the register is (or, inverted, is not) in the set.
    In {
        /// The set's name.
        set: String,
        /// Where its key starts.
        key: Register,
        /// Whether it must not be in it.
        inverted: bool,
    },
    /// Goes on only if the key is in the map, with its data from the register on; without one, the data is the verdict.
    Map {
        /// The map's name.
        map: String,
        /// Where the key starts.
        key: Register,
        /// Where the data goes.
        data: Option<Register>,
    },
    /// Translates to the address and port in the registers. For connections as a whole.
    Translate {
        /// Which of the packet's two.
        what: Translation,
        /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
        family: u8,
        /// Where the address is.
        address: Register,
        /// Where the port is, in network byte order; none = kept.
        port: Option<Register>,
    },
    /// The packet leaves with the address of the interface it leaves by.
    Masquerade,
    /// Counts packets and bytes.
    Counter,
    /// Ends the rule.
    Decide(Verdict),
}

fn named(list: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(LIST_ELEMENT, |expression| {
        expression.text(EXPRESSION_NAME, name);
        expression.nest(EXPRESSION_DATA, data);
    });
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl Source {
    fn write(self, list: &mut Attributes<'_>, register: Register) {
        let register = register.number();
        match self {
            Source::Meta(key) => named(list, "meta", |data| {
                data.number(1, register);
                data.number(2, key);
            }),
            Source::Connection(key) => named(list, "ct", |data| {
                data.number(1, register);
                data.number(2, key);
            }),
            Source::Bytes { header, offset, length } => named(list, "payload", |data| {
                data.number(1, register);
                data.number(2, header as u32);
                data.number(3, offset);
                data.number(4, length);
            }),
            Source::DestinationType => named(list, "fib", |data| {
                data.number(1, register);
                data.number(2, FIB_ADDRESS_TYPE);
                data.number(3, FIB_OF_DESTINATION);
            }),
        }
    }
}

impl Expression {
    pub(super) fn write(&self, list: &mut Attributes<'_>) {
        match self {
            Expression::Load(source, register) => source.write(list, *register),
            Expression::Value(value, register) => named(list, "immediate", |data| {
                data.number(1, register.number());
                data.nest(2, |data| data.bytes(DATA_VALUE, value));
            }),
            Expression::Bits(register, and, xor) => named(list, "bitwise", |data| {
                data.number(1, register.number());
                data.number(2, register.number());
                data.number(3, length(and));
                data.nest(4, |data| data.bytes(DATA_VALUE, and));
                data.nest(5, |data| data.bytes(DATA_VALUE, xor));
            }),
            Expression::Compare(register, is, value) => named(list, "cmp", |data| {
                data.number(1, register.number());
                data.number(2, *is as u32);
                data.nest(3, |data| data.bytes(DATA_VALUE, value));
            }),
            // The register is attribute 3 of one and 4 of the other.
            Expression::SetMark(register) => named(list, "meta", |data| {
                data.number(2, libc::NFT_META_MARK.cast_unsigned());
                data.number(3, register.number());
            }),
            Expression::SetConnectionMark(register) => named(list, "ct", |data| {
                data.number(2, libc::NFT_CT_MARK.cast_unsigned());
                data.number(4, register.number());
            }),
            Expression::In { set, key, inverted } => named(list, "lookup", |data| {
                data.text(1, set);
                data.number(2, key.number());
                data.number(5, if *inverted { LOOKUP_INVERTED } else { 0 });
            }),
            Expression::Map { map, key, data: to } => named(list, "lookup", |data| {
                data.text(1, map);
                data.number(2, key.number());
                data.number(3, to.map_or(VERDICT_REGISTER, Register::number));
            }),
            Expression::Translate { what, family, address, port } => named(list, "nat", |data| {
                data.number(1, *what as u32);
                data.number(2, u32::from(*family));
                data.number(3, address.number());
                if let Some(port) = port {
                    data.number(5, port.number());
                }
            }),
            Expression::Masquerade => named(list, "masq", |_| {}),
            Expression::Counter => named(list, "counter", |_| {}),
            Expression::Decide(verdict) => named(list, "immediate", |data| {
                data.number(1, VERDICT_REGISTER);
                data.nest(2, |data| verdict.write(data));
            }),
        }
    }
}
