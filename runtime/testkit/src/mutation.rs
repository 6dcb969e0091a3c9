//! Texts that are almost right: JSON documents with something changed in them. The same seed makes the same changes.

use serde_json::{Map, Value, json};

/// Numbers without any pattern (Marsaglia's xorshift64*), the same for the same seed.
pub struct Random(u64);

impl Random {
    /// The numbers of that seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize) % end
    }

    /// One time in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of the list, which is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Strings at which somebody once stumbled.
const ODD: &[&str] = &[
    "",
    "/",
    ".",
    "..",
    "../../..",
    "a\0b",
    "\u{10ffff}",
    "%s%n",
    " ",
    "-",
    ",",
    ":",
    "::",
    "a:b:c",
    "=",
    "0",
    "-1",
    "0-4294967295",
    "0-18446744073709551615",
    "4294967295-0",
    "18446744073709551616",
    "1e999",
    "max",
    "/dev/zero",
    "/dev/tty",
    "/proc/self/ns/user",
    "/proc/self/fd",
    "/proc/kmsg",
    "/proc/self/exe",
    "rbind",
    "tmpcopyup",
    "idmap=0-0-1",
    "idmap=uids=0-1-4294967295#4294967295-0-2;gids=",
    "size=99999999999999999999k",
    "SCMP_ACT_NOTIFY",
    "CAP_NONE",
    "0.0.0.0/0",
    "10.0.0.0/31",
    "10.0.0.1/33",
    "255.255.255.255",
    "::/0",
    "::ffff:10.0.0.1/128",
    "fe80::1%eth0",
    "ff:ff:ff:ff:ff:ff",
    "host-local",
    "eth%d",
    "9.9.9",
    "cni.dev/valid-attachments",
];

fn odd(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(*random.pick(&[u64::MAX, u64::from(u32::MAX), 1 << 63, 1 << 31, 1 << 16, 4096])),
        5 => json!(*random.pick(&[i64::MIN, i64::from(i32::MIN), -2, -1001])),
        6 => json!(*random.pick(&[0.5, -1e308, 1e308])),
        7 => json!([]),
        8 => json!({}),
        9 => json!(random.pick(ODD).repeat(1 << random.below(13))),
        _ => json!(random.pick(ODD)),
    }
}

/// A part of the document, chosen by walking down from its top.
fn part<'a>(document: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let length = match &*document {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if length == 0 || random.once_in(6) {
        return document;
    }
    let index = random.below(length);
    match document {
        Value::Array(list) => part(&mut list[index], random),
        Value::Object(map) => match map.values_mut().nth(index) {
            Some(value) => part(value, random),
            None => unreachable!("shorter than it is"),
        },
        _ => unreachable!("has no parts"),
    }
}

/// Changes one part of the document, sometimes for one of `other`.
pub fn change(document: &mut Value, other: &mut Value, random: &mut Random) {
    let donor = part(other, random).clone();
    let target = part(document, random);
    match (random.below(6), &mut *target) {
        (0, _) => *target = donor,
        (1, Value::Array(list)) if !list.is_empty() => {
            let element = list[random.below(list.len())].clone();
            list.extend(std::iter::repeat_n(element, random.below(20)));
        }
        (1, Value::Object(map)) => rename(map, random),
        (2, Value::Array(list)) if !list.is_empty() => drop(list.remove(random.below(list.len()))),
        (2, Value::Object(map)) if !map.is_empty() => {
            let name = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            map.remove(&name);
        }
        (3, Value::Number(number)) => {
            let near = number.as_i64().unwrap_or(0).wrapping_add(*random.pick(&[-1, 1, 1000, i64::MAX]));
            *target = json!(near);
        }
        (3, Value::String(text)) => text.push_str(ODD[random.below(ODD.len())]),
        _ => *target = odd(random),
    }
}

fn rename(map: &mut Map<String, Value>, random: &mut Random) {
    if map.is_empty() {
        return;
    }
    let name = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
    if let Some(value) = map.remove(&name) {
        map.insert((*random.pick(ODD)).to_owned(), value);
    }
}

/// Changes bytes, whatever they mean: overwritten, left out, or doubled.
pub fn spoil(text: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if text.is_empty() {
            return;
        }
        let at = random.below(text.len());
        let length = random.below(16).min(text.len() - at);
        match random.below(3) {
            0 => text[at] = *random.pick(b"\0\"{}[],:-9e\\\xff\x80"),
            1 => drop(text.drain(at..at + length)),
            _ => text.extend_from_within(at..at + length),
        }
    }
}

/// Changes a JSON document of `size` bytes at the beginning of `data` in place; returns its new size. Now and then, and
/// where it is none, or would get longer than `longest`, nothing is done.
pub fn change_text(data: &mut [u8], size: usize, longest: usize, seed: u32) -> Option<usize> {
    let mut random = Random::new(seed.into());
    let mut document: Value = serde_json::from_slice(&data[..size]).ok().filter(|_| !random.once_in(4))?;
    let mut other = document.clone();
    change(&mut document, &mut other, &mut random);
    let text = serde_json::to_vec(&document).ok().filter(|text| text.len() <= longest.min(data.len()))?;
    data[..text.len()].copy_from_slice(&text);
    Some(text.len())
}
