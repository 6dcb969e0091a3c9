//! The shim's own errors, and the ttrpc code each travels under.

use std::io;

use containerd_shim_protos::protobuf::Enum;
use containerd_shim_protos::ttrpc;
use ttrpc::Code;

/// A failed request: the code for the client's program, the text for the person.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
}

impl Error {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// No such task, exec or sandbox; or its process has ended.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, message)
    }

    /// The id is taken.
    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(Code::ALREADY_EXISTS, message)
    }

    /// The state does not allow it.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, message)
    }

    /// The request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, message)
    }

    /// Not offered (yet).
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::UNIMPLEMENTED, message)
    }

    /// Called off while it was under way.
    pub fn aborted(message: impl Into<String>) -> Self {
        Self::new(Code::ABORTED, message)
    }

    /// Nothing the client can change.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, message)
    }

    /// A system call's failure; `doing` names the operation and its object: "open FIFO /run/x".
    pub fn io(doing: impl std::fmt::Display, source: impl Into<io::Error>) -> Self {
        Self::internal(format!("{doing}: {}", source.into()))
    }

    /// Text that is not the JSON it should be.
    pub fn json(doing: impl std::fmt::Display, source: serde_json::Error) -> Self {
        Self::internal(format!("{doing}: {source}"))
    }

    /// An outcome as bytes, for the process that [`from_report`](Self::from_report) reads it in.
    pub(crate) fn report(outcome: &Result<(), Self>) -> Vec<u8> {
        let (code, message) = match outcome {
            Ok(()) => (Code::OK, ""),
            Err(error) => (error.code, error.message.as_str()),
        };
        [&code.value().to_le_bytes(), message.as_bytes()].concat()
    }

    /// The outcome that was reported; `None` when the bytes are no report.
    pub(crate) fn from_report(report: &[u8]) -> Option<Result<(), Self>> {
        let (code, message) = report.split_first_chunk()?;
        Some(match Code::from_i32(i32::from_le_bytes(*code))? {
            Code::OK => Ok(()),
            code => Err(Self::new(code, String::from_utf8_lossy(message))),
        })
    }

    /// The ttrpc code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether the object was not there.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NOT_FOUND
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        ttrpc::Error::RpcStatus(ttrpc::get_status(error.code, error.message))
    }
}

impl From<pea::Error> for Error {
    fn from(error: pea::Error) -> Self {
        use pea::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::NotFound | Kind::NotRunning => Code::NOT_FOUND,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::InvalidState | Kind::Busy => Code::FAILED_PRECONDITION,
            Kind::InvalidSpec | Kind::InvalidArgument => Code::INVALID_ARGUMENT,
            // What a shell says with 127 and 126: a client that runs commands tells its person the same.
            Kind::CommandNotFound => Code::NOT_FOUND,
            Kind::CommandNotExecutable | Kind::Permission => Code::PERMISSION_DENIED,
            Kind::Unsupported => Code::UNIMPLEMENTED,
            _ => Code::UNKNOWN,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use pea::ErrorKind as Kind;

    use super::*;

    #[test]
    fn what_pea_says_travels_under_the_code_that_clients_go_by() {
        for (kind, code) in [
            (Kind::NotFound, Code::NOT_FOUND),
            (Kind::NotRunning, Code::NOT_FOUND),
            (Kind::CommandNotFound, Code::NOT_FOUND),
            (Kind::AlreadyExists, Code::ALREADY_EXISTS),
            (Kind::InvalidState, Code::FAILED_PRECONDITION),
            (Kind::Busy, Code::FAILED_PRECONDITION),
            (Kind::InvalidSpec, Code::INVALID_ARGUMENT),
            (Kind::InvalidArgument, Code::INVALID_ARGUMENT),
            (Kind::CommandNotExecutable, Code::PERMISSION_DENIED),
            (Kind::Permission, Code::PERMISSION_DENIED),
            (Kind::Unsupported, Code::UNIMPLEMENTED),
            (Kind::Internal, Code::UNKNOWN),
        ] {
            let error = Error::from(pea::Error::new(kind, "words"));
            assert_eq!((error.code(), error.to_string().as_str()), (code, "words"), "{kind:?}");
        }
    }

    #[test]
    fn an_outcome_comes_back_from_another_process_as_it_was() {
        assert!(matches!(Error::from_report(&Error::report(&Ok(()))), Some(Ok(()))));
        let failed = Error::from_report(&Error::report(&Err(Error::precondition("words"))));
        let failed = failed.unwrap().unwrap_err();
        assert_eq!((failed.code(), failed.to_string().as_str()), (Code::FAILED_PRECONDITION, "words"));
        for none in [&b""[..], b"abc", &[0xff; 8]] {
            assert!(Error::from_report(none).is_none(), "{none:?}");
        }
    }
}
