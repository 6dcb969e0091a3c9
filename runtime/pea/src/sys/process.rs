//! Processes: forking, handles, signals, limits, session keyrings.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use super::{check, own};

/// Which side of a fork this is.
pub enum Fork {
    Child,
    Parent(i32),
}

/// fork(2). The caller has made sure that this process has one thread.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: with a single thread no lock can be held by anybody else, so the child may do all the parent may.
    match check(unsafe { libc::fork() }.into())? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Forks a child into namespaces of its own (CLONE_NEW* flags).
pub fn fork_into(namespaces: i32) -> io::Result<Fork> {
    let flags = namespaces | libc::SIGCHLD;
    // SAFETY: as above.
    match check(unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_long, 0, 0, 0, 0) })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Ends this process at once: no destructors, no atexit handlers of the program that was forked.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// A handle of a process. It stays that process's even after its number is given to another.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(own)
}

/// Sends any signal (real-time ones too) to the process behind the handle.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means "as kill(2)".
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) }).map(drop)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exit {
    pub pid: i32,
    /// The exit code, or 128 and the signal's number, as shells have it.
    pub code: i32,
}

/// waitpid(2): `Ok(None)` when `block` is false and no such child has ended yet.
///
/// nix's own wrapper fails for children killed by real-time signals.
pub fn wait(pid: i32, block: bool) -> io::Result<Option<Exit>> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: `status` outlives the call.
        match check(unsafe { libc::waitpid(pid, &mut status, flags) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) => return Ok(None),
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some(Exit { pid: pid as i32, code: 128 + libc::WTERMSIG(status) }));
            }
            Ok(pid) => return Ok(Some(Exit { pid: pid as i32, code: libc::WEXITSTATUS(status) })),
        }
    }
}

/// Whether this process has children, living ones or such as wait to be reaped.
pub fn has_children() -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the kernel writes `info`, which outlives the call and is not read.
    check(unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) }.into()).is_ok()
}

/// Waits until a child that was told to stop has stopped, or ended; it is not reaped. Until then it may still fork.
pub fn wait_stopped(pid: i32) {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
    loop {
        // SAFETY: the kernel writes `info`, which outlives the call and is not read.
        let done = check(unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, info.as_mut_ptr(), flags) }.into());
        // Any other failure: it is no child any more, for somebody has reaped it.
        if !done.is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            return;
        }
    }
}

/// Has the program killed when its caller dies, however that happens.
pub fn die_with_caller(command: &mut Command) {
    let caller = std::process::id() as libc::pid_t;
    let tie = move || {
        // SAFETY: numbers alone are given; both are allowed between fork and execve (signal-safety(7)).
        let (tied, parent) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        check(tied.into())?;
        // Died before it was tied.
        if parent == caller { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(tie) };
}

/// Becomes root of a user namespace, by the kernel alone: the C library's functions wait for threads that the test had,
/// and that its forked child has not.
#[cfg(test)]
pub fn become_root() -> io::Result<()> {
    for number in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: numbers alone are given.
        check(unsafe { libc::syscall(number, 0, 0, 0) })?;
    }
    Ok(())
}

/// The set of all signals blocked now; [`restore_signals`] takes it back.
pub struct SignalMask(libc::sigset_t);

/// Blocks every signal, so that a fork's child cannot run the parent's handlers.
pub fn block_signals() -> io::Result<SignalMask> {
    let mut all = MaybeUninit::uninit();
    let mut old = MaybeUninit::uninit();
    // SAFETY: both sets are written before they are read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        check(libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()).into())?;
        Ok(SignalMask(old.assume_init()))
    }
}

/// Puts the signal mask back.
pub fn restore_signals(mask: &SignalMask) -> io::Result<()> {
    // SAFETY: the set was filled by the kernel.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &mask.0, ptr::null_mut()) }.into()).map(drop)
}

/// Gives every signal its default action, then unblocks all: what a new program expects to find.
///
/// Ignored signals survive execve; Rust's own start-up ignores SIGPIPE, which no container wants.
pub fn default_signals() -> io::Result<()> {
    /// The kernel's own `struct sigaction`: handler, flags, restorer, mask. All zero is the default action.
    const DEFAULT: [libc::c_ulong; 4] = [0; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads 32 bytes and calls nothing. The C library's wrapper would leave out the two
        // signals it keeps for itself. It fails for SIGKILL and SIGSTOP, which have no other action.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), 0, 8) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: filled before it is read.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()).into()).map(drop)
    }
}

/// What the process of a command needs of its surroundings: children that can be waited for (where their end is ignored,
/// which is inherited, the kernel reaps them itself; sigaction(2)), an error instead of a signal where nobody reads any
/// more, and something open at 0, 1 and 2, which nothing else that is opened may become.
pub fn settle() -> io::Result<()> {
    const DEFAULT: [libc::c_ulong; 4] = [0; 4];
    const IGNORE: [libc::c_ulong; 4] = [libc::SIG_IGN as libc::c_ulong, 0, 0, 0];
    for (signal, action) in [(libc::SIGCHLD, DEFAULT), (libc::SIGPIPE, IGNORE)] {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0, 8) };
    }
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three structures, that outlive the call.
    check(unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) }.into())?;
    for _ in streams.iter().filter(|stream| stream.revents & libc::POLLNVAL != 0) {
        // The lowest number that is free is the one that is missing.
        // SAFETY: the path is terminated.
        check(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }.into())?;
    }
    Ok(())
}

/// A resource limit of this process, soft and hard (getrlimit(2)).
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::prlimit64(0, resource, ptr::null(), &mut limit) }.into())?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets a resource limit of this process (setrlimit(2)).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call; the old value is not asked for.
    check(unsafe { libc::prlimit64(0, resource, &limit, ptr::null_mut()) }.into()).map(drop)
}

/// Joins the session keyring of that name, making it when there is none, and lets its owner search it
/// so that a later process of the container can join it too (keyctl(2)).
pub fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    const KEYCTL_SETPERM: libc::c_long = 5;
    /// The possessor may do all; the owner may view, read and search.
    const PERMISSIONS: libc::c_long = 0x3f0b_0000;
    // SAFETY: the name is terminated and outlives the call.
    let key = check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, PERMISSIONS) }).map(drop)
}

/// Whether the working directory is one that its path leads to from this process's root (getcwd(2)).
///
/// The libraries do not say: where the kernel answers "(unreachable)", they may search for a path by themselves, and find one.
pub fn is_inside_root() -> io::Result<bool> {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes no more than the length it is told.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

/// Sets the execution domain (personality(2)).
pub fn set_personality(domain: libc::c_ulong) -> io::Result<()> {
    // SAFETY: plain integer.
    check(unsafe { libc::personality(domain) }.into()).map(drop)
}
