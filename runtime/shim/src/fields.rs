//! Reading protobuf messages that no crate of ours has types for, field by field.
//!
//! A few fields are wanted of messages with many (CRI's pod configuration), whose generated code would be
//! larger than this whole program.

use containerd_shim_protos::protobuf::CodedInputStream;
use containerd_shim_protos::protobuf::rt::WireType;

use crate::error::Error;

/// A field's value. Groups and fixed-width numbers do not occur in the messages that are read here and are skipped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// A number, a switch or an enumerator.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(Vec<u8>),
}

/// The fields of one message, in their order; what is in a message twice is there twice.
pub struct Fields(Vec<(u32, Value)>);

impl Fields {
    /// Reads a message.
    ///
    /// # Errors
    /// `InvalidArgument` when the bytes are none; `what` says of what kind it should be.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |error| Error::invalid(format!("{what}: {error}"));
        let mut stream = CodedInputStream::from_bytes(bytes);
        let mut fields = Vec::new();
        while !stream.eof().map_err(wrong)? {
            let tag = stream.read_raw_varint32().map_err(wrong)?;
            let kind = WireType::new(tag & 7).ok_or_else(|| Error::invalid(format!("{what}: no protobuf message")))?;
            let value = match kind {
                WireType::Varint => Value::Number(stream.read_raw_varint64().map_err(wrong)?),
                WireType::LengthDelimited => Value::Bytes(stream.read_bytes().map_err(wrong)?),
                other => {
                    stream.skip_field(other).map_err(wrong)?;
                    continue;
                }
            };
            fields.push((tag >> 3, value));
        }
        Ok(Self(fields))
    }

    /// The last string of that number, which is the one that counts; empty when there is none.
    pub fn text(&self, number: u32) -> String {
        self.bytes(number).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// All strings of that number.
    pub fn texts(&self, number: u32) -> Vec<String> {
        self.all(number).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// The last number; 0 when there is none, as the protocol has it.
    pub fn number(&self, number: u32) -> u64 {
        let mut numbers = self.0.iter().filter_map(|(of, value)| match value {
            Value::Number(value) if *of == number => Some(*value),
            _ => None,
        });
        numbers.next_back().unwrap_or(0)
    }

    /// The last bytes of that number.
    pub fn bytes(&self, number: u32) -> Option<&[u8]> {
        self.all(number).last()
    }

    /// All bytes of that number.
    pub fn all(&self, number: u32) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(move |(of, value)| match value {
            Value::Bytes(value) if *of == number => Some(value.as_slice()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_number_and_the_last_one_counts() {
        // 1: "ab", 2: 5, 2: 300, 1: "c", 3 (fixed32): skipped, 17: 6
        let bytes = [0x0a, 2, b'a', b'b', 0x10, 5, 0x10, 0xac, 0x02, 0x0a, 1, b'c', 0x1d, 1, 2, 3, 4, 0x88, 0x01, 6];
        let fields = Fields::parse("a test", &bytes).unwrap();
        assert_eq!((fields.text(1).as_str(), fields.number(2), fields.number(17)), ("c", 300, 6));
        assert_eq!(fields.texts(1), ["ab", "c"]);
        assert_eq!((fields.text(9).as_str(), fields.number(1), fields.number(3)), ("", 0, 0));
    }

    #[test]
    fn bytes_that_are_no_message_are_refused_by_name() {
        for bytes in [&[0x0a, 9, b'a'][..], &[0x0f, 1], &[0xff]] {
            assert!(Fields::parse("a test", bytes).is_err_and(|error| error.to_string().contains("a test")));
        }
    }
}
