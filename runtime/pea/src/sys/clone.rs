//! clone3(2): a process born into its namespaces and its cgroup.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;

use super::{check, own};

/// CLONE_NEWTIME, which has no name in the libraries (time_namespaces(7)).
pub const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// Which side of the clone this is.
pub enum Clone {
    /// The new process.
    Child,
    /// The process that made it, with the child's pid as seen here, and its pidfd.
    Parent(i32, OwnedFd),
}

/// `struct clone_args` of linux/sched.h, all of version 2.
#[repr(C, align(8))]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a child in the new namespaces that `namespaces` (CLONE_NEW*) says, and in the cgroup (a directory of the
/// unified hierarchy) if one is given. With `sibling` it becomes a child of this process's parent (CLONE_PARENT).
///
/// In the child nobody listens; see [`stop_listening`].
///
/// The caller has made sure that this process has one thread.
///
/// # Errors
///
/// clone3(2)'s. Where that call is not to be had, which a cgroup needs, [`is_refused`] says so of the error.
pub fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>, sibling: bool) -> io::Result<Clone> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let mut arguments = Arguments {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        // A sibling ends with the signal that this process ends with; the kernel refuses another.
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        ..Arguments::default()
    };
    if sibling {
        arguments.flags |= libc::CLONE_PARENT as u64;
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with no stack given the child goes on with a copy of all memory, as after fork(2);
    // with a single thread no lock is held by anybody else. The arguments and `pidfd` outlive the call.
    let made = match check(unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<Arguments>()) }) {
        Err(error) if cgroup.is_none() && is_refused(&error) => {
            let flags = arguments.flags | arguments.exit_signal;
            // SAFETY: as above; the third argument is where the pidfd goes, on every architecture we build for.
            check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?
        }
        made => made?,
    };
    match made {
        0 => {
            stop_listening();
            Ok(Clone::Child)
        }
        pid => Ok(Clone::Parent(pid as i32, own(pidfd.into()))),
    }
}

/// From now on nobody hears what this process tells (`tracing`). For one that enters a container, where the path of a
/// log means another file.
pub fn stop_listening() {
    std::mem::forget(tracing::dispatcher::set_default(&tracing::Dispatch::none()));
}

/// Whether clone3 itself may be what is refused: filters of system calls that do not know it, or cannot look into its
/// arguments, answer so, and so within other containers.
pub fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}
