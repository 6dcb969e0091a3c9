//! The one error type of the library.
//!
//! An error often crosses a process border (from the helper child, or from inside
//! the container) before anybody reads it, so it is plain data: a kind for
//! programs and one sentence for people.

use std::fmt::Display;
use std::io;

use serde::{Deserialize, Serialize};

/// What sort of failure it was; callers decide by this and never by the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No container of that id.
    NotFound,
    /// A container of that id is there already.
    AlreadyExists,
    /// The container (or its process) has ended, or never started.
    NotRunning,
    /// The container exists but its state does not allow the operation.
    InvalidState,
    /// The bundle, its `config.json` or the process given cannot be served.
    InvalidSpec,
    /// An argument of the call is wrong (an id, a signal).
    InvalidArgument,
    /// The program to run does not exist in the container (a shell would say 127).
    CommandNotFound,
    /// The program to run is there but cannot be executed (a shell would say 126).
    CommandNotExecutable,
    /// The kernel refused for lack of privilege.
    Permission,
    /// A feature the kernel, the machine or this runtime does not have.
    Unsupported,
    /// Somebody else held the container's lock until the deadline, or has processes in its cgroup.
    Busy,
    /// Anything else, with the cause in the text.
    Internal,
}

/// A failed operation: its kind and one sentence that says what was being done,
/// to what, and why it did not work.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of that kind with that text.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A system call's failure: `doing` is what was being done and to what, for
    /// instance "open /run/pea/x/state.json".
    pub(crate) fn io(doing: impl Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let kind = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ErrorKind::Permission,
            Some(libc::ENOSYS) => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, format!("{doing}: {}", reason(&error)))
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn spec(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSpec, message)
    }

    /// The phrase containerd and podman look for in the text.
    pub(crate) fn does_not_exist(id: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("container \"{id}\" does not exist"))
    }

    /// The phrase containerd looks for in the text.
    pub(crate) fn not_running(id: &str) -> Self {
        Self::new(ErrorKind::NotRunning, format!("container not running: \"{id}\""))
    }
}

/// The kernel's reason in the words of errno(3), in lower case and without Rust's "(os error 2)":
/// container engines search these texts for "no such file or directory" and "permission denied".
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}
