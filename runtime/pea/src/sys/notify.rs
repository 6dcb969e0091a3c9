//! Descriptors that tell of something: eventfd(2).

use std::io;
use std::os::fd::OwnedFd;

use super::{check, own};

/// A counter that the kernel adds to; reading it takes all, and never waits.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into()).map(own)
}
