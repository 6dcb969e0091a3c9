//! As much of protocol buffers' encoding (protobuf.dev, "Encoding") as CRIU's messages need: numbers, texts, messages in
//! messages. There are three of them, with a dozen fields in use, so no code is generated and no library needed.

/// How a field is encoded: the last three bits of its tag.
const NUMBER: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// A message in the making.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// With a number, an enumerator or a truth value in that field. No negative ones.
    pub fn number(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field) << 3 | NUMBER);
        self.varint(value);
        self
    }

    /// With a text or a message in that field.
    pub fn bytes(mut self, field: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A field that was received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The number in a field.
pub fn number(message: &[u8], field: u32) -> Option<u64> {
    find(message, field).and_then(|field| if let Field::Number(number) = field { Some(number) } else { None })
}

/// The text or message in a field.
pub fn bytes(message: &[u8], field: u32) -> Option<&[u8]> {
    find(message, field).and_then(|field| if let Field::Bytes(bytes) = field { Some(bytes) } else { None })
}

fn find(mut message: &[u8], wanted: u32) -> Option<Field<'_>> {
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let field = match tag & 7 {
            NUMBER => Some(Field::Number(take_varint(&mut message)?)),
            BYTES => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                Some(Field::Bytes(message.split_off(..length)?))
            }
            FIXED_64 => message.split_off(..8).map(|_| None)?,
            FIXED_32 => message.split_off(..4).map(|_| None)?,
            _ => return None,
        };
        if tag >> 3 == u64::from(wanted) {
            return field;
        }
    }
    None
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let inner = Message::default().bytes(1, "net").bytes(2, "/proc/1/ns/net");
        let message = Message::default().number(1, 2).number(300, 1 << 40).bytes(39, &inner);
        assert_eq!((number(message.as_ref(), 1), number(message.as_ref(), 300)), (Some(2), Some(1 << 40)));
        let found = bytes(message.as_ref(), 39).expect("the message inside");
        assert_eq!(bytes(found, 2), Some(b"/proc/1/ns/net".as_slice()));
        assert_eq!((number(message.as_ref(), 39), bytes(message.as_ref(), 1)), (None, None), "of another kind");
        // As the documentation has it: field 1, 150.
        assert_eq!(Message::default().number(1, 150).as_ref(), [0x08, 0x96, 0x01]);
    }

    #[test]
    fn what_is_not_asked_for_is_passed_over_and_what_is_cut_off_is_not_there() {
        let wanted = Message::default().number(3, 7);
        let message = [&[0x0d, 1, 2, 3, 4, 0x11, 1, 2, 3, 4, 5, 6, 7, 8][..], wanted.as_ref()].concat();
        assert_eq!(number(&message, 3), Some(7));
        assert_eq!((number(&message, 1), number(&message, 4)), (None, None));
        let text = Message::default().bytes(5, "text");
        for length in 0..text.as_ref().len() {
            assert_eq!(bytes(&text.as_ref()[..length], 5), None);
        }
        assert_eq!(number(&[0x08; 1], 1), None);
        assert_eq!(number(&[0xff; 20], 1), None, "longer than any number");
    }
}
