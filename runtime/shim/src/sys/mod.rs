//! The system calls that have no safe wrapper elsewhere. Nothing above this module is `unsafe`.

#![allow(unsafe_code)]

mod heap;
mod memory;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigHandler, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use heap::{Heap, hollow};
pub use memory::{trim_c_heap, trim_stack, unmap_program};

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the child's pid.
    Parent(i32),
}

/// Forks this process, which must have one thread only: the child goes on with everything the
/// parent had in memory, and with one thread no lock can be left taken in it.
///
/// `flags` are further `CLONE_NEW*` flags (clone(2)). libc's `fork` is not used because it cannot
/// make a namespace with the child, and unsharing first would send every later child there too.
pub fn fork(flags: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    let no_stack: libc::c_long = 0;
    // SAFETY: without CLONE_VM and without a stack, clone behaves as fork: the child gets a copy of
    // the whole address space and returns here. The unused pointers are null, and no CLONE flag that reads them is set.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, no_stack, no_stack, no_stack, no_stack) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))),
    }
}

/// Ends the process at once, without running what the parent had registered for its own end.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Standard input. The standard library's would keep a buffer of 8 KiB for as long as the process lives.
pub fn stdin() -> BorrowedFd<'static> {
    // SAFETY: the standard descriptors are open from the start to the end (the standard library sees to that), and are
    // nobody's OwnedFd.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Gives a signal its default action.
pub fn default_action(signal: Signal) -> io::Result<()> {
    // SAFETY: no handler is installed.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    Ok(())
}

/// Closes every descriptor from 3 on that is not in `keep`.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Closes the standard descriptors, of a process that has no more use for any. What is opened next gets their numbers.
pub fn close_standard() -> io::Result<()> {
    close_range(0, 2)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closing descriptors touches no memory. The callers are freshly forked processes which
    // leave without dropping the owners of these descriptors.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor of a process (pidfd_open(2)); readable once the process has ended.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a new descriptor out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends any signal the kernel knows, real-time ones included (pidfd_send_signal(2)).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means what kill(2) would send.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reaps the child behind a pidfd. `None` while it lives; else its exit status as a shell tells it.
pub fn reap_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info = waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, libc::WEXITED)?;
    Ok(info.map(|info| info.status))
}

/// Reaps the child of that pid, if it has ended.
pub fn reap_pid(pid: i32) -> io::Result<()> {
    waitid(libc::P_PID, pid as libc::id_t, libc::WEXITED).map(|_| ())
}

/// The pid of a child that has ended and has not been reaped, if any; leaves it so.
pub fn any_zombie() -> io::Result<Option<i32>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOWAIT) {
        Ok(info) => Ok(info.map(|info| info.pid)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Ended {
    pid: i32,
    status: u32,
}

/// waitid(2), without blocking. `__WALL`: a child made by clone without SIGCHLD is a child too.
fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<Ended>> {
    let flags = flags | libc::WNOHANG | libc::__WALL;
    // SAFETY: siginfo_t is plain data, for which all zeroes is a value; the kernel writes into it.
    let info = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(kind, id, &mut info, flags) != 0 {
            return Err(io::Error::last_os_error());
        }
        info
    };
    // SAFETY: after waitid these are the fields in use; si_pid stays 0 when nothing has ended.
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = if info.si_code == libc::CLD_EXITED { value } else { 128 + value };
    Ok(Some(Ended { pid, status: status as u32 }))
}

/// The user namespace that a namespace belongs to (ioctl_ns(2)).
pub fn owner_of_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument; a new descriptor comes out.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the size of a terminal, in characters (ioctl_tty(2)).
pub fn set_window_size(terminal: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes standard descriptor `number` (0, 1 or 2) refer to `file`.
pub fn replace_standard(number: RawFd, file: &File) -> io::Result<()> {
    // SAFETY: the standard descriptors are nobody's OwnedFd.
    let done = unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) };
    if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a program that is to be started begin in these namespaces.
pub fn start_in<'a>(command: &mut Command, namespaces: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    let copies: Vec<OwnedFd> = namespaces.map(|fd| duplicate_above(fd, 6)).collect::<io::Result<_>>()?;
    if copies.is_empty() {
        return Ok(());
    }
    let enter = move || {
        for copy in &copies {
            // SAFETY: setns is a plain system call and touches no memory; the caller is the forked child.
            if unsafe { libc::setns(copy.as_raw_fd(), 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only setns is called; this process has one thread.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Has a program that is to be started find copies of these at 3, 4 and 5.
pub fn give_descriptors(command: &mut Command, given: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    // Copies above the places: one may lie where another is to be put. They end with the program's start.
    let copies = given.map(|fd| duplicate_above(fd, 6));
    let copies: Vec<OwnedFd> = copies.into_iter().collect::<io::Result<_>>()?;
    let place = move || {
        // The shim blocks the signals it reads; a program that inherited that could not be asked to end.
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        for (number, copy) in (3..).zip(&copies) {
            // SAFETY: dup2 is async-signal-safe and touches no memory; what it replaces is the child's alone.
            if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only sigprocmask and dup2 are called; this process has one thread.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// A copy of a descriptor, numbered `lowest` or higher, that does not outlive an exec.
fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a new descriptor out.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes over descriptors received in a message.
pub fn adopt(fds: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: SCM_RIGHTS made these descriptors for the receiver of the message, which is the only caller.
    fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Puts a descriptor into the event loop.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and stays the same descriptor, for as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
