//! The error object of the specification, and its codes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Error codes: 1 to 99 are the specification's, 100 and above this plugin's.
pub mod code {
    /// The `cniVersion` of the configuration is not supported, or does not allow the verb.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key of the configuration is not served; the message has key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or invalid; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading stdin or a file failed.
    pub const IO: u32 = 5;
    /// The configuration is not JSON, or a key has a value of the wrong type.
    pub const DECODE: u32 = 6;
    /// The configuration is well-formed but cannot be served.
    pub const INVALID_CONFIG: u32 = 7;
    /// `CNI_NETNS` is the plugin's own network namespace (libcni's `ErrInvalidNetNS`).
    pub const INVALID_NETNS: u32 = 8;
    /// Something transient is in the way; try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: an ADD could not be served now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: an ADD would give limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Every address of the network is leased.
    pub const NO_ADDRESS: u32 = 100;
    /// A CHECK found the attachment other than the ADD left it.
    pub const CHECK_FAILED: u32 = 101;
    /// Another pod has the host port that is to be mapped.
    pub const PORT_TAKEN: u32 = 102;
    /// The kernel refused, or something unforeseen (libcni's `ErrInternal`).
    pub const INTERNAL: u32 = 999;
}

/// What a verb answers when it fails: printed on stdout, with exit status 1.
///
/// Readable by the runtime side as well, from any plugin's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The version of the configuration the plugin was called with; other plugins omit it.
    #[serde(rename = "cniVersion", default, skip_serializing_if = "String::is_empty")]
    pub cni_version: String,
    /// One of [`code`].
    #[serde(default)]
    pub code: u32,
    /// What was being done, to what, and why it failed: one line.
    #[serde(default)]
    pub msg: String,
    /// What the person can do about it, or more of the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error of the given code.
    pub fn new(code: u32, msg: impl Into<String>) -> Error {
        Error { cni_version: String::new(), code, msg: msg.into(), details: String::new() }
    }

    /// The same error with advice.
    pub fn with_details(self, details: impl Into<String>) -> Error {
        Error { details: details.into(), ..self }
    }

    /// An error in the configuration ([`code::INVALID_CONFIG`]).
    pub fn config(msg: impl Into<String>) -> Error {
        Error::new(code::INVALID_CONFIG, msg)
    }

    /// Puts what was being done before the message.
    pub fn context(self, doing: impl fmt::Display) -> Error {
        Error { msg: format!("{doing}: {}", self.msg), ..self }
    }

    /// The same error, whose details say besides that what was to follow it failed too.
    pub fn and_failed(self, what: &str, failure: &Error) -> Error {
        let details = format!("{} and {what} failed: {}", self.details, failure.msg);
        self.with_details(details.trim_start())
    }

    /// Several failures of one teardown as one error; `None` when there was none.
    ///
    /// A teardown does all it can before it reports, so there may be several.
    pub fn all(errors: Vec<Error>) -> Option<Error> {
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        Some(errors.fold(first, |all, next| Error { msg: format!("{}; {}", all.msg, next.msg), ..all }))
    }
}

/// As libcni prints it: the message, then the details.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
