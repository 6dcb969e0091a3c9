//! System call filters (seccomp(2), Documentation/userspace-api/seccomp_filter.rst).

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;

use super::{check, own};

/// One instruction of a filter (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip when the comparison holds.
    pub jt: u8,
    /// How many to skip when it does not.
    pub jf: u8,
    pub k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// The longest program the kernel takes (`BPF_MAXINSNS`).
pub const LONGEST: usize = 4096;

const SET_MODE_FILTER: libc::c_uint = libc::SECCOMP_SET_MODE_FILTER;

/// The flags of `SECCOMP_SET_MODE_FILTER`.
pub mod flag {
    pub const TSYNC: u64 = 1 << 0;
    pub const LOG: u64 = 1 << 1;
    pub const SPEC_ALLOW: u64 = 1 << 2;
    pub const NEW_LISTENER: u64 = 1 << 3;
    pub const TSYNC_ESRCH: u64 = 1 << 4;
    pub const WAIT_KILLABLE_RECV: u64 = 1 << 5;
}

/// Installs a filter for the calling process; with [`flag::NEW_LISTENER`] returns the descriptor, closed on exec, at
/// which its questions arrive.
pub fn install(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: the kernel copies `length` instructions, which the slice has; both outlive the call.
    let result = check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) })?;
    if flags & flag::NEW_LISTENER != 0 {
        return Ok(Some(own(result)));
    }
    match result {
        0 => Ok(None),
        // With TSYNC: the thread that has filters of its own.
        thread => Err(io::Error::other(format!("thread {thread} has other filters"))),
    }
}

/// Whether the kernel knows that action (a `SECCOMP_RET_*` value without data).
pub fn has_action(action: u32) -> bool {
    const GET_ACTION_AVAIL: libc::c_uint = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the kernel reads four bytes of `action`.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Whether the kernel knows these flags: it looks at them before it reads the program, of which there is none.
pub fn has_flags(flags: u64) -> bool {
    let none = ptr::null::<Program>();
    // SAFETY: a null program is refused, after the flags.
    let result = check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, none) });
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT))
}
