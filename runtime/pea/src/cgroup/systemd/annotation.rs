//! Properties of the unit that the specification's annotations name: `org.systemd.property.NAME`, with a value in
//! GVariant's text format, as runc and crun have it.

use std::collections::HashMap;

use super::datum::Datum;
use crate::error::Error;

const PREFIX: &str = "org.systemd.property.";

/// The properties given, sorted by name.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Vec<(String, Datum)>, Error> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let wrong = |why: &str| Error::spec(format!("config.json: annotations: {key}: {text:?}: {why}"));
        if !is_name(name) {
            return Err(wrong("not the name of a property of systemd"));
        }
        let datum = parse(text).ok_or_else(|| wrong("not a value in GVariant's text format"))?;
        properties.push(match name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
            // Units are written with seconds; systemd itself counts microseconds.
            Some(stem) => {
                (format!("{stem}USec"), microseconds(&datum).ok_or_else(|| wrong("not a number of seconds"))?)
            }
            None => (name.to_owned(), datum),
        });
    }
    properties.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(properties)
}

fn is_name(name: &str) -> bool {
    name.len() >= 3
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|c| c.is_ascii_alphanumeric())
}

fn microseconds(seconds: &Datum) -> Option<Datum> {
    let number = match *seconds {
        Datum::Byte(number) => f64::from(number),
        Datum::I16(number) => f64::from(number),
        Datum::U16(number) => f64::from(number),
        Datum::I32(number) => f64::from(number),
        Datum::U32(number) => f64::from(number),
        Datum::I64(number) => number as f64,
        Datum::U64(number) => number as f64,
        Datum::Double(number) => number,
        _ => return None,
    };
    (number >= 0.0).then(|| Datum::U64((number * 1e6).min(u64::MAX as f64) as u64))
}

/// A whole text: `true`, `'words'`, `12`, `uint64 12`, `['a', 'b']`.
fn parse(text: &str) -> Option<Datum> {
    let (datum, rest) = value(text)?;
    rest.trim_start().is_empty().then_some(datum)
}

/// Types that a number can be said to be of, before it; a number alone is an int32, or a double if it has a fraction.
fn typed(word: &str, number: &str) -> Option<Datum> {
    Some(match word {
        "byte" => Datum::Byte(number.parse().ok()?),
        "int16" => Datum::I16(number.parse().ok()?),
        "uint16" => Datum::U16(number.parse().ok()?),
        "int32" => Datum::I32(number.parse().ok()?),
        "uint32" => Datum::U32(number.parse().ok()?),
        "int64" => Datum::I64(number.parse().ok()?),
        "uint64" => Datum::U64(number.parse().ok()?),
        "double" => Datum::Double(number.parse().ok()?),
        _ => return None,
    })
}

fn value(text: &str) -> Option<(Datum, &str)> {
    let text = text.trim_start();
    match text.bytes().next()? {
        b'\'' | b'"' => quoted(text).map(|(words, rest)| (Datum::Text(words), rest)),
        b'[' => array(&text[1..]),
        _ => {
            let (word, rest) = word(text)?;
            match word {
                "true" => Some((Datum::Bool(true), rest)),
                "false" => Some((Datum::Bool(false), rest)),
                "string" => quoted(rest.trim_start()).map(|(words, rest)| (Datum::Text(words), rest)),
                "objectpath" => quoted(rest.trim_start()).map(|(words, rest)| (Datum::Path(words), rest)),
                number if number.contains(['.', 'e']) && !number.starts_with(char::is_alphabetic) => {
                    Some((typed("double", number)?, rest))
                }
                number if !number.starts_with(char::is_alphabetic) => Some((typed("int32", number)?, rest)),
                kind => {
                    let (number, rest) = self::word(rest.trim_start())?;
                    Some((typed(kind, number)?, rest))
                }
            }
        }
    }
}

/// Up to a space, a comma or the end of the list.
fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '[' | '\'' | '"')).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut words = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => words.push(letters.next()?.1),
            letter if letter == quote => return Some((words, &text[at + 1..])),
            letter => words.push(letter),
        }
    }
    None
}

/// After the bracket; its elements are of one type, and there is at least one.
fn array(mut text: &str) -> Option<(Datum, &str)> {
    const BASIC: [&str; 12] = ["y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g"];
    let mut all = Vec::new();
    loop {
        let (datum, rest) = value(text)?;
        all.push(datum);
        text = rest.trim_start();
        if let Some(rest) = text.strip_prefix(']') {
            let first = all.first()?.signature();
            let element = BASIC.into_iter().find(|basic| *basic == first)?;
            let alike = all.iter().all(|each| each.signature() == element);
            return alike.then_some((Datum::Array(element, all), rest));
        }
        text = text.strip_prefix(',')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_types() {
        for (text, expected) in [
            ("true", Datum::Bool(true)),
            ("'mixed'", Datum::text("mixed")),
            (r#""a \"b\"""#, Datum::text("a \"b\"")),
            ("-12", Datum::I32(-12)),
            ("uint64 123456789012", Datum::U64(123_456_789_012)),
            (" 1.5 ", Datum::Double(1.5)),
            ("['a.service', 'b.service']", Datum::Array("s", vec![Datum::text("a.service"), Datum::text("b.service")])),
            ("[uint32 1,uint32 2]", Datum::Array("u", vec![Datum::U32(1), Datum::U32(2)])),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in
            ["", "words", "'open", "uint64", "uint64 -1", "int32 99999999999", "[]", "['a', 1]", "1 2", "[1", "[[1]]"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    fn of(name: &str, text: &str) -> Result<Vec<(String, Datum)>, Error> {
        properties(&HashMap::from([(format!("{PREFIX}{name}"), text.to_owned()), ("other".to_owned(), "x".to_owned())]))
    }

    #[test]
    fn seconds_become_microseconds() {
        assert_eq!(of("TimeoutStopSec", "5").expect("5"), [("TimeoutStopUSec".to_owned(), Datum::U64(5_000_000))]);
        assert_eq!(of("TimeoutStopSec", "0.5").expect("0.5")[0].1, Datum::U64(500_000));
        assert_eq!(of("TimeoutStopUSec", "uint64 7").expect("7"), [("TimeoutStopUSec".to_owned(), Datum::U64(7))]);
        of("TimeoutStopSec", "'5'").expect_err("not a number");
        of("TimeoutStopSec", "-1").expect_err("negative");
    }

    #[test]
    fn what_cannot_be_a_property_is_refused_by_its_name() {
        for name in ["", "ab", "collectMode", "Collect.Mode", "Collect Mode"] {
            let error = of(name, "true").expect_err(name).to_string();
            assert!(error.contains(&format!("annotations: {PREFIX}{name}: ")), "{error}");
        }
        of("CollectMode", "inactive").expect_err("no quotes");
    }
}
