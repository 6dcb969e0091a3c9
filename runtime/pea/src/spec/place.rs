//! The name of a place in a JSON text, for errors: `process.user.uid`, `mounts[2]`.

/// What a reader is in.
enum Level {
    /// With the key it is at; empty before the first.
    Object(String),
    /// With the index it is at.
    Array(usize),
}

/// The value that a reader of correct JSON has come to, or has just left, after these first bytes of it. Empty for the
/// whole.
pub fn after(start: &[u8]) -> String {
    let mut levels = Vec::new();
    let mut bytes = start.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, levels.last_mut()) {
            (b'{', _) => levels.push(Level::Object(String::new())),
            (b'[', _) => levels.push(Level::Array(0)),
            (b'}' | b']', _) => drop(levels.pop()),
            (b',', Some(Level::Object(key))) => key.clear(),
            (b',', Some(Level::Array(index))) => *index += 1,
            (b'"', level) => {
                let text = string(&mut bytes);
                if let Some(Level::Object(key)) = level
                    && key.is_empty()
                {
                    *key = text;
                }
            }
            _ => {}
        }
    }
    let names = levels.iter().map(|level| match level {
        Level::Object(key) if key.is_empty() => String::new(),
        Level::Object(key) => format!(".{key}"),
        Level::Array(index) => format!("[{index}]"),
    });
    names.collect::<String>().trim_start_matches('.').to_owned()
}

/// The rest of a string, with its escapes as they are.
fn string(bytes: &mut impl Iterator<Item = u8>) -> String {
    let mut text = Vec::new();
    while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
        text.push(byte);
        if byte == b'\\' {
            text.extend(bytes.next());
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::after;

    #[test]
    fn a_place_is_named_by_its_keys_and_indexes() {
        for (start, place) in [
            ("", ""),
            (r#"{"a":{"b":"x""#, "a.b"),
            (r#"{"a":{"b":"x"}"#, "a"),
            (r#"{"a":[1,{"b,[\"":{}},[3"#, "a[2][0]"),
            (r#"{"a":[1,{"b,[\"":[0"#, r#"a[1].b,[\"[0]"#),
            (r#"{"a":1,"b":2"#, "b"),
            (r#"{"a":1}"#, ""),
        ] {
            assert_eq!(after(start.as_bytes()), place, "{start}");
        }
    }
}
