//! `/proc/sys/net`: always that of the calling thread's network namespace.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};

use super::Error;

/// Sets a key below `/proc/sys/net`, such as `ipv4/ip_forward`, unless it already has that value.
///
/// Reading first keeps a value that may be read-only (a node run in a container) from being an error
/// when it is as wanted.
///
/// # Errors
/// When the key cannot be written.
pub fn ensure(key: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{key}");
    if is(key, value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| Error::io(format!("set {path} to {value}"), source))
}

/// Whether a key has that value; one that cannot be read has not. No value set here is longer than a few digits, so
/// one read is enough.
pub fn is(key: &str, value: &str) -> bool {
    let mut now = [0; 64];
    let length = File::open(format!("/proc/sys/net/{key}")).and_then(|mut file| file.read(&mut now));
    length.is_ok_and(|length| now.get(..length).is_some_and(|now| now.trim_ascii() == value.as_bytes()))
}

/// Sets a key that is likely to have another value, as those of a new interface are: without reading it first.
///
/// # Errors
/// When the key cannot be written and has another value.
pub fn set(key: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{key}");
    let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.or_else(|_| ensure(key, value))
}

/// As [`ensure`], but a key that does not exist is no error: the kernel lacks the feature (IPv6 switched off).
///
/// # Errors
/// When the key exists and cannot be written.
pub fn ensure_if_present(key: &str, value: &str) -> Result<(), Error> {
    match ensure(key, value) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
