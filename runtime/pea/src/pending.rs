//! An operation under way in the helper child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::Error;

/// A `create` or `exec` that goes on in the helper child.
///
/// Dropping it before the end kills and reaps the helper.
#[derive(Debug)]
pub struct Pending {
    outcome: OwnedFd,
}

impl Pending {
    /// Becomes readable (or hangs up) when the outcome is known.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.outcome.as_fd()
    }

    /// Waits for the outcome, reaps the helper, and returns the pid of the container's
    /// init (or of the process executed), which is now the caller's child to reap.
    pub fn finish(self) -> Result<i32, Error> {
        Err(Error::internal("not there yet"))
    }
}
