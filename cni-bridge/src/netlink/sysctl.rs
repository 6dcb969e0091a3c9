//! `/proc/sys/net`: always that of the calling thread's network namespace.

use std::fs;
use std::io::ErrorKind;

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
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| Error::io(format!("set {path} to {value}"), source))
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
