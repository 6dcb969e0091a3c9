//! Descriptors that tell of something: eventfd(2), inotify(7).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{check, own};

/// A counter that the kernel adds to; reading it takes all, and never waits.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into()).map(own)
}

/// A queue of what happens to files; reading it never waits.
pub fn inotify() -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }.into()).map(own)
}

/// Has the queue told each time the file is modified.
pub fn watch_modified(inotify: BorrowedFd<'_>, file: &Path) -> io::Result<()> {
    let path = CString::new(file.as_os_str().as_bytes())?;
    // SAFETY: the path is terminated and outlives the call.
    check(unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), libc::IN_MODIFY) }.into()).map(drop)
}
