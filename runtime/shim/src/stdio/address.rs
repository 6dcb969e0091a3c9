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
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Address {
    Null,
    Path(PathBuf),
    File(PathBuf),
    CriLog(PathBuf),
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text == "/dev/null" {
            return Ok(Self::Null);
        }
        if text.starts_with('/') {
            return Ok(Self::Path(text.into()));
        }
        let Some(file) = text.strip_prefix("file://") else {
            let reason = "a path, file:///path or file:///path?format=cri is served";
            return Err(Error::unimplemented(format!("stream address {text:?}: {reason}")));
        };
        let (path, query) = file.split_once('?').unwrap_or((file, ""));
        let path = decode(path).filter(|path| path.starts_with('/'));
        let path = path.ok_or_else(|| Error::invalid(format!("stream address {text:?} has no absolute path")))?;
        match query {
            "" => Ok(Self::File(path.into())),
            "format=cri" => Ok(Self::CriLog(path.into())),
            _ => Err(Error::invalid(format!("stream address {text:?}: the only query is format=cri"))),
        }
    }
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
    fn what_is_not_served_is_refused_by_name() {
        for text in ["binary:///bin/x", "relative", "file://relative", "file:///x?format=json"] {
            assert!(Address::parse(text).unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
