//! Why a request to a shim failed.

use containerd_shim_protos::ttrpc;
use ttrpc::Code;

/// A failed request, told apart by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such task, exec or sandbox, or its process has ended; or no such program in the container.
    #[error("{0}")]
    NotFound(String),
    /// The kernel does not permit it, such as running a program that is not executable.
    #[error("{0}")]
    PermissionDenied(String),
    /// The id is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The state of the task does not allow the request.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The shim does not offer this.
    #[error("{0}")]
    Unimplemented(String),
    /// The request itself is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// The connection was lost: the shim has ended, or never listened there.
    #[error("the shim is gone: {0}")]
    Closed(String),
    /// The shim could not do it, and says why.
    #[error("{0}")]
    Failed(String),
    /// The shim binary could not be run, or refused; with what it printed.
    #[error("{shim} {action}: {reason}")]
    Binary {
        /// The binary's path.
        shim: String,
        /// The action asked for.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
}

impl From<ttrpc::Error> for Error {
    fn from(error: ttrpc::Error) -> Self {
        let ttrpc::Error::RpcStatus(status) = error else {
            // Every other variant is the transport's. A request of ours carries no deadline, so none of them is a timeout.
            return Self::Closed(error.to_string());
        };
        let kind = match status.code() {
            Code::NOT_FOUND => Self::NotFound,
            Code::PERMISSION_DENIED => Self::PermissionDenied,
            Code::ALREADY_EXISTS => Self::AlreadyExists,
            Code::FAILED_PRECONDITION => Self::FailedPrecondition,
            Code::UNIMPLEMENTED => Self::Unimplemented,
            Code::INVALID_ARGUMENT => Self::InvalidArgument,
            _ => Self::Failed,
        };
        kind(status.message().to_owned())
    }
}
