//! Sets and maps: what a rule looks a key up in, in constant time.

use super::encoder::Attributes;
use super::expression::Verdict;

const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
const DATA_VALUE: u16 = 1;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
/// libnftnl's types of a set's user data (`NFTNL_UDATA_SET_KEYBYTEORDER`, `..._DATABYTEORDER`), and nft's two values.
const KEY_ORDER: u8 = 0;
const DATA_ORDER: u8 = 1;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;
/// `NFT_SET_MAP`
const MAP: u32 = 8;
/// `NFT_DATA_VERDICT`
const VERDICT: u32 = 0xffff_ff00;
/// Bits of one type in the number of a concatenation.
const TYPE_BITS: u32 = 6;

/// What a part of a key or of data is. The kernel only keeps the number, for `nft`, whose `enum datatypes` it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ether_addr`
    Mac,
    /// `inet_proto`
    Protocol,
    /// `inet_service`: a port, in network byte order.
    Port,
    /// `mark`, in the machine's byte order.
    Mark,
    /// `ifname`: 16 bytes.
    Interface,
}

impl Type {
    const fn number_and_length(self) -> (u32, usize) {
        match self {
            Type::Ipv4 => (7, 4),
            Type::Ipv6 => (8, 16),
            Type::Mac => (9, 6),
            Type::Protocol => (12, 1),
            Type::Port => (13, 2),
            Type::Mark => (19, 4),
            Type::Interface => (41, 16),
        }
    }
}

/// The byte order of a key or of data, as `nft` needs it to show them; a concatenation has that of its parts.
fn byte_order(kind: u8, types: &[Type]) -> Vec<u8> {
    let order = match types {
        [Type::Mark | Type::Interface] => HOST_ORDER,
        _ => NETWORK_ORDER,
    };
    [&[kind, 4][..], &order.to_ne_bytes()].concat()
}

/// The number and the length of a concatenation; a single type is as long as it is, of several each fills whole words.
fn concatenation(types: &[Type]) -> (u32, u32) {
    let (number, length) = types.iter().fold((0, 0), |(number, length), one| {
        let (one, bytes) = one.number_and_length();
        let bytes = if types.len() > 1 { bytes.next_multiple_of(4) } else { bytes };
        (number << TYPE_BITS | one, length + bytes)
    });
    (number, u32::try_from(length).unwrap_or(u32::MAX))
}

/// The bytes of a concatenated key or of data: each part filled up to whole words.
pub fn concatenate(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(part);
        if parts.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// What a map has for each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds<'a> {
    /// Nothing: it is a set.
    Nothing,
    /// Data of these types.
    Data(&'a [Type]),
    /// A verdict.
    Verdicts,
}

/// A named set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set<'a> {
    /// Its name, alone among the sets and maps of its table.
    pub name: &'a str,
    /// What its keys are.
    pub key: &'a [Type],
    /// What it has for them.
    pub holds: Holds<'a>,
}

impl Set<'_> {
    pub(super) fn write(&self, set: &mut Attributes<'_>, id: u32) {
        let (key_type, key_length) = concatenation(self.key);
        set.number(SET_FLAGS, if self.holds == Holds::Nothing { 0 } else { MAP });
        set.number(SET_KEY_TYPE, key_type);
        set.number(SET_KEY_LENGTH, key_length);
        match self.holds {
            Holds::Nothing => {}
            Holds::Verdicts => set.number(SET_DATA_TYPE, VERDICT),
            Holds::Data(types) => {
                let (data_type, data_length) = concatenation(types);
                set.number(SET_DATA_TYPE, data_type);
                set.number(SET_DATA_LENGTH, data_length);
            }
        }
        set.number(SET_ID, id);
        let mut user_data = byte_order(KEY_ORDER, self.key);
        if let Holds::Data(types) = self.holds {
            user_data.extend(byte_order(DATA_ORDER, types));
        }
        set.bytes(SET_USERDATA, &user_data);
    }
}

/// What an element of a map has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Held {
    /// It is an element of a set.
    #[default]
    Nothing,
    /// Bytes ([`concatenate`]).
    Data(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// An element of a set or map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its key ([`concatenate`]).
    pub key: Vec<u8>,
    /// What a map has for it.
    pub held: Held,
    /// What `nft list ruleset` shows behind it; cut at [`super::COMMENT_MAX`] bytes.
    pub comment: String,
}

impl Element {
    /// An element of a set, or the key of one to be removed.
    pub fn of(key: Vec<u8>) -> Element {
        Element { key, ..Element::default() }
    }

    pub(super) fn write(&self, list: &mut Attributes<'_>) {
        list.nest(ELEMENT, |element| {
            element.nest(ELEMENT_KEY, |key| key.bytes(DATA_VALUE, &self.key));
            match &self.held {
                Held::Nothing => {}
                Held::Data(data) => element.nest(ELEMENT_DATA, |value| value.bytes(DATA_VALUE, data)),
                Held::Verdict(verdict) => element.nest(ELEMENT_DATA, |value| verdict.write(value)),
            }
            element.comment(ELEMENT_USERDATA, &self.comment);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concatenation_fills_words_and_a_single_type_does_not() {
        assert_eq!(concatenation(&[Type::Protocol, Type::Port]), (12 << 6 | 13, 8));
        assert_eq!(concatenation(&[Type::Port]), (13, 2));
        assert_eq!(concatenate(&[&[6], &[31, 144]]), [6, 0, 0, 0, 31, 144, 0, 0]);
        assert_eq!(concatenate(&[&[31, 144]]), [31, 144]);
    }
}
