//! Just enough of protobuf to speak to containerd's CRI plugin: messages written and read by field number.

/// A message under construction. Field numbers are those of CRI's `api.proto`.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn text(self, number: u64, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    pub fn texts(self, number: u64, texts: &[&str]) -> Self {
        texts.iter().fold(self, |message, text| message.text(number, text))
    }

    pub fn message(self, number: u64, inner: Message) -> Self {
        self.bytes(number, &inner.0)
    }

    /// An entry of a map of strings.
    pub fn entry(self, number: u64, key: &str, value: &str) -> Self {
        self.message(number, Message::new().text(1, key).text(2, value))
    }

    pub fn number(mut self, number: u64, value: u64) -> Self {
        self.varint(number << 3);
        self.varint(value);
        self
    }

    pub fn bytes(mut self, number: u64, bytes: &[u8]) -> Self {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// This and what is in another.
    pub fn and(mut self, other: &Message) -> Self {
        self.0.extend(&other.0);
        self
    }

    pub fn encoded(&self) -> &[u8] {
        &self.0
    }
}

/// A message that has arrived.
#[derive(Clone, Debug, Default)]
pub struct Reply(pub Vec<u8>);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Reply {
    pub fn text(&self, path: &[u64]) -> String {
        String::from_utf8(self.bytes(path)).unwrap()
    }

    /// The bytes of the last field at that path; none are empty.
    pub fn bytes(&self, path: &[u64]) -> Vec<u8> {
        match self.find(path) {
            Some(Value::Bytes(bytes)) => bytes.to_vec(),
            _ => Vec::new(),
        }
    }

    pub fn number(&self, path: &[u64]) -> u64 {
        match self.find(path) {
            Some(Value::Number(value)) => value,
            _ => 0,
        }
    }

    fn find(&self, path: &[u64]) -> Option<Value<'_>> {
        let (last, outer) = path.split_last().unwrap();
        let mut bytes = self.0.as_slice();
        for number in outer {
            match fields(bytes).filter(|(of, _)| of == number).last() {
                Some((_, Value::Bytes(inner))) => bytes = inner,
                _ => return None,
            }
        }
        fields(bytes).filter(|(of, _)| of == last).map(|(_, value)| value).last()
    }
}

/// Every message of that number.
pub fn messages(bytes: &[u8], number: u64) -> Vec<Reply> {
    let all = fields(bytes).filter(|(of, _)| *of == number);
    all.filter_map(|(_, value)| match value {
        Value::Bytes(bytes) => Some(Reply(bytes.to_vec())),
        Value::Number(_) => None,
    })
    .collect()
}

fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(value)
            }
            kind => panic!("a field of kind {kind}"),
        };
        Some((tag >> 3, value))
    })
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}
