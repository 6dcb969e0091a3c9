//! System calls that have no safe wrapper elsewhere: each a thin typed function.
//!
//! This is the only place of the crate with unsafe code.
#![allow(unsafe_code)]

pub mod bpf;
pub mod capability;
pub mod clone;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod entry;
pub mod mount;
pub mod notify;
pub mod passing;
pub mod process;
pub mod sched;
pub mod seccomp;
pub mod tty;
pub mod uts;
pub mod xattr;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Turns the kernel's "-1 and errno" into a result.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes ownership of a descriptor that a system call has just returned.
fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the caller has it from the kernel this moment; nobody else knows the number.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// A copy of `fd` at number `lowest` or above, closed on exec.
pub fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())?;
    Ok(own(copy))
}

/// Makes descriptor `number` (one of 0, 1, 2) refer to what `fd` does.
pub fn set_stdio(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: plain integers; 0, 1 and 2 are never owned by a value that closes them.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Makes descriptor `number` refer to what `fd` does, until the next execve.
///
/// Only for a forked child that will never run the destructor of a value which owns `number`.
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: plain integers; see the function's condition.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) }.into()).map(drop)
}

/// Whether this process has a descriptor of that number that a program executed gets too.
pub fn is_inheritable(number: RawFd) -> bool {
    // SAFETY: asks only.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Closes every descriptor from `first` to `last`.
///
/// Only for a forked child that will never run the destructors of the values which own them.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: see the function's condition; the numbers are not used again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Closes every descriptor from `lowest` on but those of `keep`; see [`close_range`] for when that is allowed.
pub fn close_all_from(lowest: u32, keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|number| *number as u32).collect();
    keep.sort_unstable();
    let mut first = lowest;
    for number in keep.into_iter().chain([u32::MAX]) {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number.saturating_add(1));
    }
    Ok(())
}

/// Has every descriptor from `first` on closed by the next execve.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: sets a flag only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// The kind of namespace behind `fd`, as its CLONE_NEW* flag (ioctl_ns(2)).
pub fn namespace_type(fd: &File) -> io::Result<i32> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) }.into()).map(|kind| kind as i32)
}
