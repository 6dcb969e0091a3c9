//! D-Bus messages as bytes (D-Bus Specification, "Message Protocol"): as much of it as talking to systemd takes.

use super::datum::{Datum, signature};

/// The largest message taken; those of systemd are a few hundred bytes.
pub const LARGEST: usize = 1 << 20;

/// The first part of a message, whose length is fixed.
pub const PREFIX: usize = 16;

/// A type's alignment in a message, by the first letter of its signature.
fn alignment(letter: u8) -> usize {
    match letter {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' => 8,
        _ => 1,
    }
}

/// Bytes in the making. All numbers are in the machine's own order.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.0.extend(bytes);
    }

    /// The length of a message or of what it holds.
    fn length(&mut self, length: usize) {
        self.number(&(length as u32).to_ne_bytes());
    }

    fn string(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn array(&mut self, element: &str, all: &[Datum]) {
        self.length(0);
        let length_at = self.0.len() - 4;
        self.align(alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
        let start = self.0.len();
        all.iter().for_each(|each| self.put(each));
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn put(&mut self, datum: &Datum) {
        match datum {
            Datum::Byte(byte) => self.0.push(*byte),
            Datum::Bool(yes) => self.number(&u32::from(*yes).to_ne_bytes()),
            Datum::I16(number) => self.number(&number.to_ne_bytes()),
            Datum::U16(number) => self.number(&number.to_ne_bytes()),
            Datum::I32(number) => self.number(&number.to_ne_bytes()),
            Datum::U32(number) => self.number(&number.to_ne_bytes()),
            Datum::I64(number) => self.number(&number.to_ne_bytes()),
            Datum::U64(number) => self.number(&number.to_ne_bytes()),
            Datum::Double(number) => self.number(&number.to_ne_bytes()),
            Datum::Text(text) | Datum::Path(text) => self.string(text),
            Datum::Signature(text) => self.signature(text),
            Datum::Array(element, all) => self.array(element, all),
            Datum::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|field| self.put(field));
            }
            Datum::Variant(inner) => {
                self.signature(&inner.signature());
                self.put(inner);
            }
        }
    }
}

#[cfg(target_endian = "little")]
const ORDER: u8 = b'l';
#[cfg(target_endian = "big")]
const ORDER: u8 = b'B';

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Return,
    Error,
    Signal,
    /// Nothing that concerns a client.
    Other,
}

/// A call of a method.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: Vec<Datum>,
}

impl Call<'_> {
    /// As it is sent, with a number to recognise the reply by.
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.body.iter().for_each(|datum| body.put(datum));
        let field = |code, datum: Datum| Datum::Struct(vec![Datum::Byte(code), datum.variant()]);
        let mut fields = vec![
            field(1, Datum::Path(self.path.to_owned())),
            field(2, Datum::text(self.interface)),
            field(3, Datum::text(self.member)),
            field(6, Datum::text(self.destination)),
        ];
        if !self.body.is_empty() {
            fields.push(field(8, Datum::Signature(signature(&self.body))));
        }
        const METHOD_CALL: u8 = 1;
        const VERSION: u8 = 1;
        let mut message = Writer(vec![ORDER, METHOD_CALL, 0, VERSION]);
        message.length(body.0.len());
        message.number(&serial.to_ne_bytes());
        message.array("(yv)", &fields);
        message.align(8);
        message.0.extend(body.0);
        message.0
    }
}

/// A message received.
#[derive(Clone, Debug)]
pub struct Message {
    pub kind: Kind,
    /// The number of the call that it answers.
    pub reply_to: Option<u32>,
    /// A signal's name.
    pub member: Option<String>,
    /// An error's name.
    pub error: Option<String>,
    signature: String,
    body: Vec<u8>,
}

impl Message {
    /// How many bytes follow the [`PREFIX`] of a message; `None` when it is none that we take.
    pub fn rest(prefix: &[u8; PREFIX]) -> Option<usize> {
        let number = |at: usize| Some(u32::from_ne_bytes(prefix[at..at + 4].try_into().ok()?) as usize);
        let (body, fields) = (number(4)?, number(12)?);
        let rest = fields.checked_next_multiple_of(8)?.checked_add(body)?;
        (prefix[0] == ORDER && rest <= LARGEST).then_some(rest)
    }

    /// From its bytes, all of them; `None` when they are not well-formed.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = match bytes.get(1)? {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        let mut message =
            Self { kind, reply_to: None, member: None, error: None, signature: String::new(), body: Vec::new() };
        let mut reader = Reader { bytes, at: PREFIX - 4 };
        let end = reader.u32()? as usize + PREFIX;
        while reader.at < end {
            reader.align(8)?;
            let code = reader.take(1)?[0];
            let value = reader.variant(0)?;
            match (code, value) {
                (3, Datum::Text(name)) => message.member = Some(name),
                (4, Datum::Text(name)) => message.error = Some(name),
                (5, Datum::U32(serial)) => message.reply_to = Some(serial),
                (8, Datum::Signature(signature)) => message.signature = signature,
                _ => {}
            }
        }
        reader.align(8)?;
        message.body = bytes.get(reader.at..)?.to_vec();
        Some(message)
    }

    /// What it says; `None` when that is not well-formed, or of types that nobody here needs (arrays and structures).
    pub fn arguments(&self) -> Option<Vec<Datum>> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        self.signature.bytes().map(|letter| reader.get(letter, 0)).collect()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.align(N)?;
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_ne_bytes)
    }

    fn string(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.take(1)? == [0]).then_some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.take(1)?[0];
        self.string(length.into())
    }

    /// Variants may hold variants; the specification allows 64, nobody needs two.
    fn variant(&mut self, depth: u8) -> Option<Datum> {
        let signature = self.signature()?;
        match signature.as_bytes() {
            [letter] if depth < 8 => self.get(*letter, depth + 1),
            _ => None,
        }
    }

    fn get(&mut self, letter: u8, depth: u8) -> Option<Datum> {
        Some(match letter {
            b'y' => Datum::Byte(self.take(1)?[0]),
            b'b' => Datum::Bool(self.u32()? != 0),
            b'n' => Datum::I16(i16::from_ne_bytes(self.number()?)),
            b'q' => Datum::U16(u16::from_ne_bytes(self.number()?)),
            b'i' => Datum::I32(i32::from_ne_bytes(self.number()?)),
            b'u' => Datum::U32(self.u32()?),
            b'x' => Datum::I64(i64::from_ne_bytes(self.number()?)),
            b't' => Datum::U64(u64::from_ne_bytes(self.number()?)),
            b'd' => Datum::Double(f64::from_ne_bytes(self.number()?)),
            b's' | b'o' => {
                let length = self.u32()?;
                let text = self.string(length as usize)?;
                if letter == b's' { Datum::Text(text) } else { Datum::Path(text) }
            }
            b'g' => Datum::Signature(self.signature()?),
            b'v' => self.variant(depth)?.variant(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: Vec<Datum>) -> Vec<u8> {
        let call = Call { destination: "org.example", path: "/org/example", interface: "a.b", member: "Do", body };
        call.encode(7)
    }

    #[test]
    fn a_message_says_how_long_it_is() {
        for body in [vec![], vec![Datum::text("x")], vec![Datum::U64(1), Datum::text("word")]] {
            let bytes = call(body);
            let prefix = bytes[..PREFIX].try_into().expect("a prefix");
            assert_eq!(Message::rest(prefix), Some(bytes.len() - PREFIX));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let body = vec![
            Datum::Byte(3),
            Datum::Bool(true),
            Datum::I16(-1),
            Datum::I32(-2),
            Datum::text("word"),
            Datum::U64(u64::MAX),
            Datum::Path("/a/b".to_owned()),
            Datum::Signature("a(ss)".to_owned()),
            Datum::Double(0.5),
            Datum::text("inner").variant(),
        ];
        let message = Message::decode(&call(body.clone())).expect("a message");
        assert_eq!((message.kind, message.member.as_deref()), (Kind::Other, Some("Do")));
        assert_eq!(message.arguments(), Some(body));
    }

    /// Byte for byte as in the specification's section "Marshaling", for a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn containers_are_aligned_and_counted() {
        let mut writer = Writer::default();
        writer.put(&Datum::Array("t", vec![Datum::U64(5)]));
        assert_eq!(writer.0, [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        let mut writer = Writer::default();
        writer.put(&Datum::Array("(sv)", Vec::new()));
        assert_eq!(writer.0, [0; 8]);
        let mut writer = Writer::default();
        let pair = Datum::Struct(vec![Datum::text("a"), Datum::U32(1).variant()]);
        assert_eq!(pair.signature(), "(sv)");
        writer.put(&Datum::Array("(sv)", vec![pair]));
        assert_eq!(writer.0, [16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 1, b'u', 0, 0, 0, 0, 1, 0, 0, 0][..]);
    }

    #[test]
    fn no_bytes_make_it_fail_worse_than_by_none() {
        let bytes = call(vec![Datum::text("word"), Datum::text("inner").variant()]);
        for end in 0..bytes.len() {
            if let Some(message) = Message::decode(&bytes[..end]) {
                assert_eq!(message.arguments(), None, "{end}");
            }
        }
        for at in 0..bytes.len() {
            for byte in [0, 1, b'v', 0xff] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                let _ = Message::decode(&changed).and_then(|message| message.arguments());
            }
        }
        let mut large = [0xff; PREFIX];
        large[0] = ORDER;
        assert_eq!(Message::rest(&large), None);
    }

    #[test]
    fn variants_of_variants_have_an_end() {
        let deep = (0..100).fold(Datum::U32(1), |inner, _| inner.variant());
        assert_eq!(Message::decode(&call(vec![deep])).expect("a message").arguments(), None);
    }
}
