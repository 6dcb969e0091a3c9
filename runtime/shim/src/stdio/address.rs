//! Where a stream goes.

use std::path::PathBuf;

use crate::error::Error;

/// The address of a stream.
///
/// | address | meaning |
/// | --- | --- |
/// | *empty*, `/dev/null` | nowhere |
/// | `/path` | a FIFO, or a file to append to |
/// | `file:///path` | a file to append to |
/// | `file:///path?format=cri` | a file to append to, in the CRI log format |
/// | `binary:///path?key=value` | a program that reads it, with `key` and `value` as arguments |
/// | `binary-v2:///path?key=value` | the same, and it must say when it is ready |
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Address {
    Null,
    Path(PathBuf),
    File(PathBuf),
    CriLog(PathBuf),
    Binary(Binary),
}

/// A program that takes output.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Binary {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Without a word of its being ready it is taken to have failed.
    pub(super) must_say_ready: bool,
}

/// The schemes of programs, and whether they must say that they are ready.
const PROGRAMS: &[(&str, bool)] = &[("binary://", false), ("binary-v2://", true)];

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text == "/dev/null" {
            return Ok(Self::Null);
        }
        if text.starts_with('/') {
            return Ok(Self::Path(text.into()));
        }
        let program = PROGRAMS.iter().find_map(|(scheme, ready)| Some((text.strip_prefix(scheme)?, *ready)));
        if let Some((program, must_say_ready)) = program {
            return Binary::parse(program, must_say_ready).map(Self::Binary).ok_or_else(|| no_path(text));
        }
        let Some(file) = text.strip_prefix("file://") else {
            let reason =
                "a path, file:///path, file:///path?format=cri, binary:///path and binary-v2:///path are served";
            return Err(Error::unimplemented(format!("stream address {text:?}: {reason}")));
        };
        let (path, query) = file.split_once('?').unwrap_or((file, ""));
        let path = decode(path).filter(|path| path.starts_with('/'));
        let path = path.ok_or_else(|| no_path(text))?;
        match query {
            "" => Ok(Self::File(path.into())),
            "format=cri" => Ok(Self::CriLog(path.into())),
            _ => Err(Error::invalid(format!("stream address {text:?}: the only query is format=cri"))),
        }
    }
}

impl Binary {
    /// Reads what comes after the scheme; `None` when there is no absolute path.
    fn parse(text: &str, must_say_ready: bool) -> Option<Self> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let path = decode(path).filter(|path| path.starts_with('/'))?;
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(&key.replace('+', " "))?, decode(&value.replace('+', " "))?);
            // Of several values of one key the first counts, as with containerd's own shim.
            if pairs.iter().all(|(known, _)| *known != key) {
                pairs.push((key, value));
            }
        }
        // A key without a value is an argument by itself.
        let arguments = pairs.into_iter().flat_map(|(key, value)| [Some(key), (!value.is_empty()).then_some(value)]);
        Some(Self { path: path.into(), arguments: arguments.flatten().collect(), must_say_ready })
    }
}

fn no_path(text: &str) -> Error {
    Error::invalid(format!("stream address {text:?} has no absolute path"))
}

/// Undoes percent-encoding (RFC 3986, 2.1). `None` when what it hides is not text.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_understood() {
        for (text, address) in [
            ("", Address::Null),
            ("/dev/null", Address::Null),
            ("/run/fifo", Address::Path("/run/fifo".into())),
            ("file:///var/log/x", Address::File("/var/log/x".into())),
            ("file:///var/log/a%20b", Address::File("/var/log/a b".into())),
            ("file:///var/log/x?format=cri", Address::CriLog("/var/log/x".into())),
        ] {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
    }

    #[test]
    fn a_program_gets_keys_and_values_as_arguments() {
        let binary = |text: &str| match Address::parse(text).unwrap() {
            Address::Binary(binary) => binary,
            other => panic!("{text} is {other:?}"),
        };
        let plain = binary("binary:///bin/x");
        assert_eq!((plain.path, plain.arguments, plain.must_say_ready), ("/bin/x".into(), vec![], false));
        let full = binary("binary-v2:///bin/a%20b?--file=%2Ftmp%2Fx&-v&--file=other&id=a+b");
        assert_eq!(full.path, PathBuf::from("/bin/a b"));
        assert_eq!(full.arguments, ["--file", "/tmp/x", "-v", "id", "a b"]);
        assert!(full.must_say_ready);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for text in ["pipe:///bin/x", "binary://relative", "relative", "file://relative", "file:///x?format=json"] {
            assert!(Address::parse(text).unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
