//! The steps from a privileged process inside the container to the user's program.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat, major, minor, umask};
use nix::unistd::{Gid, Uid, execve, fchown, setgroups, setresgid, setresuid};

use super::capability::{self, SYS_ADMIN, Sets};
use super::memory::MemoryPolicy;
use super::plan::{Limit, Plan};
use super::scheduler::{self, IoPriority};
use super::{home, lookup};
use crate::error::{Error, ErrorKind};
use crate::rootfs::{enter_directory, make_directory};
use crate::seccomp::{Filter, Notice};
use crate::sys::capability as kernel;
use crate::sys::process;

/// The process that confines itself.
struct Init<'a> {
    plan: &'a Plan,
    /// The machine's /proc; the container's own could be anything.
    proc: BorrowedFd<'a>,
    /// Those asked for, as far as there are any to give: the specification wants a warning of others, not a failure.
    capabilities: Sets,
    inside_cwd: bool,
}

type Step = fn(&mut Init) -> Result<(), Error>;

/// In this order. Each step needs privileges that a later one takes away.
const STEPS: [(&str, Step); 15] = [
    ("set the processors", set_affinity),
    ("set the scheduler", set_scheduler),
    ("set the I/O priority", set_io_priority),
    ("set the memory policy", set_memory_policy),
    ("set the personality", set_personality),
    ("set the security label", set_label),
    ("enter the working directory", enter_cwd),
    ("hand over the standard streams", own_stdio),
    ("limit the bounding set", limit_bounding),
    ("change the user", change_user),
    ("enter the working directory", enter_cwd),
    ("check the working directory", check_cwd),
    ("set the umask", set_umask),
    ("set no_new_privs", set_no_new_privs),
    ("set the capabilities", set_capabilities),
];

/// Does everything but to install the seccomp filter and to execute the program, which is looked up.
pub fn confine(plan: &Plan, proc: BorrowedFd<'_>) -> Result<Launch, Error> {
    let held = kernel::permitted().map_err(|error| Error::io("read the capabilities", error))?;
    let mut init = Init { plan, proc, capabilities: plan.capabilities.granted_by(held), inside_cwd: false };
    for (name, step) in STEPS {
        step(&mut init).map_err(|error| Error::new(error.kind(), format!("{name}: {error}")))?;
    }
    let mut env = plan.env.clone();
    if plan.variable("HOME").is_none_or(<[u8]>::is_empty) {
        env.push(home::variable(plan.uid));
    }
    Ok(Launch {
        program: lookup::program(plan)?,
        args: plan.args.clone(),
        env,
        capabilities: init.capabilities,
        no_new_privileges: plan.no_new_privileges,
        filter: plan.filter.clone(),
        notice: plan.listener.as_ref().map(|listener| listener.notice(own_pid(proc)?)).transpose()?,
        limits: plan.limits.clone(),
    })
}

/// This process's number as the runtime's machine counts.
fn own_pid(proc: BorrowedFd<'_>) -> Result<i32, Error> {
    let link = readlinkat(proc, "self").map_err(|error| Error::io("read /proc/self", error))?;
    let pid = link.to_str().and_then(|text| text.parse().ok());
    pid.ok_or_else(|| Error::internal(format!("/proc/self is {link:?}")))
}

/// Before the scheduler: a process with a deadline must be free to run anywhere (sched(7)).
fn set_affinity(init: &mut Init) -> Result<(), Error> {
    init.plan.affinity.apply_final()
}

fn set_scheduler(init: &mut Init) -> Result<(), Error> {
    init.plan.scheduler.map_or(Ok(()), scheduler::apply)
}

fn set_io_priority(init: &mut Init) -> Result<(), Error> {
    init.plan.io_priority.map_or(Ok(()), IoPriority::apply)
}

fn set_memory_policy(init: &mut Init) -> Result<(), Error> {
    init.plan.memory_policy.as_ref().map_or(Ok(()), MemoryPolicy::apply)
}

fn set_personality(init: &mut Init) -> Result<(), Error> {
    match init.plan.personality {
        Some(domain) => process::set_personality(domain).map_err(|error| Error::io("personality", error)),
        None => Ok(()),
    }
}

/// The label applies from the execve on.
fn set_label(init: &mut Init) -> Result<(), Error> {
    let labels = [
        (&init.plan.apparmor, "exec ", &["thread-self/attr/apparmor/exec", "thread-self/attr/exec"][..]),
        (&init.plan.selinux, "", &["thread-self/attr/exec"][..]),
    ];
    for (label, prefix, files) in labels {
        let Some(label) = label else { continue };
        let open = |file: &&str| openat(init.proc, *file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).ok();
        let Some(fd) = files.iter().find_map(open) else {
            return Err(Error::new(ErrorKind::Unsupported, format!("{label:?}: no security module takes labels")));
        };
        let written = fs::File::from(fd).write_all(format!("{prefix}{label}").as_bytes());
        written.map_err(|error| Error::io(format!("{label:?}"), error))?;
    }
    Ok(())
}

/// Tried as root first, for a user may start in a directory he could not enter; then as the user, for root may be the
/// one who cannot (a network file system).
fn enter_cwd(init: &mut Init) -> Result<(), Error> {
    if init.inside_cwd {
        return Ok(());
    }
    let path = &init.plan.cwd;
    let root = Uid::effective().is_root();
    let mut entered = enter_directory(path);
    if entered == Err(Errno::ENOENT) && init.plan.make_cwd && root {
        make_directory(path).map_err(|error| Error::io(format!("make directory {}", path.display()), error))?;
        entered = enter_directory(path);
    }
    match entered {
        Ok(()) => init.inside_cwd = true,
        Err(Errno::EACCES | Errno::EPERM) if root && init.plan.uid != 0 => {}
        Err(error) => return Err(Error::io(format!("chdir to {}", path.display()), error)),
    }
    Ok(())
}

/// A directory that was reached through a descriptor from outside shows here (the class of CVE-2024-21626).
fn check_cwd(_: &mut Init) -> Result<(), Error> {
    match process::is_inside_root() {
        Ok(true) => Ok(()),
        _ => Err(Error::spec("process.cwd: this is outside of the container's root")),
    }
}

/// So that the user can open /dev/stdout again. Where nothing is to be owned (sockets, read-only files) so be it.
fn own_stdio(init: &mut Init) -> Result<(), Error> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(stat) = fstat(fd) else { continue };
        let null = (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
        if stat.st_uid != init.plan.uid && !null {
            let _ = fchown(fd, Some(Uid::from_raw(init.plan.uid)), None);
        }
    }
    Ok(())
}

fn limit_bounding(init: &mut Init) -> Result<(), Error> {
    for number in capability::numbers(!init.plan.capabilities.bounding) {
        match kernel::drop_bounding(number) {
            // There are no more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            dropped => dropped.map_err(|error| Error::io(format!("capability {number}"), error))?,
        }
    }
    Ok(())
}

/// The permitted set survives the change, for the last steps.
fn change_user(init: &mut Init) -> Result<(), Error> {
    let plan = init.plan;
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    let groups: Vec<Gid> = plan.groups.iter().copied().map(Gid::from_raw).collect();
    nix::sys::prctl::set_keepcaps(true).map_err(|error| Error::io("keep the capabilities", error))?;
    match setgroups(&groups) {
        // A user namespace made without privilege may forbid it (user_namespaces(7)); there is nothing to set then.
        Err(Errno::EPERM) if groups.is_empty() && setgroups_denied(init.proc) => {}
        Err(error) => return Err(Error::io(format!("set the groups {:?}", plan.groups), error)),
        Ok(()) => {}
    }
    setresgid(gid, gid, gid).map_err(|error| Error::io(format!("become group {gid}"), error))?;
    setresuid(uid, uid, uid).map_err(|error| Error::io(format!("become user {uid}"), error))?;
    nix::sys::prctl::set_keepcaps(false).map_err(|error| Error::io("stop keeping the capabilities", error))
}

fn setgroups_denied(proc: BorrowedFd<'_>) -> bool {
    let file = openat(proc, "thread-self/setgroups", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    file.map(fs::File::from).is_ok_and(|file| std::io::read_to_string(file).is_ok_and(|text| text.trim() == "deny"))
}

fn set_umask(init: &mut Init) -> Result<(), Error> {
    if let Some(mask) = init.plan.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    Ok(())
}

fn set_no_new_privs(init: &mut Init) -> Result<(), Error> {
    if init.plan.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(|error| Error::io("prctl", error))?;
    }
    Ok(())
}

/// Exactly the sets given; only the right to install the filter stays for as long as it is needed.
fn set_capabilities(init: &mut Init) -> Result<(), Error> {
    let sets = init.capabilities;
    let keep = if init.plan.filter.is_some() && !init.plan.no_new_privileges { SYS_ADMIN } else { 0 };
    kernel::set(sets.effective | keep, sets.permitted | keep, sets.inheritable)
        .map_err(|error| Error::io("capset", error))?;
    kernel::clear_ambient().map_err(|error| Error::io("clear the ambient set", error))?;
    for number in capability::numbers(sets.ambient) {
        match kernel::raise_ambient(number) {
            // Not permitted, or not inheritable: then it is not held. Configurations as runc's own `spec` used to write
            // them have such ones.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            raised => raised.map_err(|error| Error::io(format!("ambient capability {number}"), error))?,
        }
    }
    Ok(())
}

/// A confined process, ready for its program.
pub struct Launch {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    capabilities: Sets,
    no_new_privileges: bool,
    filter: Option<Filter>,
    notice: Option<Notice>,
    limits: Vec<Limit>,
}

/// What an init calls from when it is ready to when the program runs, where there are no hooks.
const UNTIL_EXECUTION: [&str; 14] = [
    "accept4",
    "brk",
    "capset",
    "close",
    "execve",
    "exit_group",
    "getpid",
    "mmap",
    "munmap",
    "prlimit64",
    "recvfrom",
    "sendmsg",
    "sendto",
    "write",
];

impl Launch {
    /// Applies the limits, installs the filter and executes the program; comes back only with an error.
    ///
    /// The filter is the last thing before the program, so it need not allow what the steps above do.
    pub fn run(&self) -> Error {
        let limited = self.limits.iter().try_for_each(Limit::apply);
        if let Err(error) = limited.and_then(|()| self.install_filter()) {
            return error;
        }
        let Err(error) = execve(&self.program, &self.args, &self.env);
        execution_error(&self.program, error)
    }

    /// Installs a filter that asks already now, in the init, so that who is asked hears of the container when it is
    /// created. Not where the filter could stop what is still to be done until the program runs.
    pub fn install_early(&mut self) -> Result<(), Error> {
        if self.filter.as_ref().is_some_and(|filter| filter.asks() && filter.lets(&UNTIL_EXECUTION)) {
            self.install_filter()?;
            self.filter = None;
        }
        Ok(())
    }

    /// The descriptors that must be there until [`run`](Self::run).
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.notice.iter().map(Notice::descriptor).collect()
    }

    fn install_filter(&self) -> Result<(), Error> {
        let Some(filter) = &self.filter else { return Ok(()) };
        if filter.asks() && self.notice.is_none() {
            return Err(Error::internal("a bug: the seccomp filter asks, and nobody listens"));
        }
        if let (Some(descriptor), Some(notice)) = (filter.load()?, &self.notice) {
            notice.send(&descriptor)?;
            // Closed by the execve: the fewer system calls here, the fewer the filter has to allow.
            std::mem::forget(descriptor);
        }
        let sets = self.capabilities;
        // The right to install the filter was lent for just that, unless it is given anyway.
        if self.no_new_privileges || sets.effective & sets.permitted & SYS_ADMIN != 0 {
            return Ok(());
        }
        kernel::set(sets.effective, sets.permitted, sets.inheritable)
            .map_err(|error| Error::io("set the capabilities (does the seccomp filter allow capset?)", error))
    }
}

fn execution_error(program: &CStr, error: Errno) -> Error {
    let kind = match error {
        Errno::ENOENT | Errno::ENOTDIR => ErrorKind::CommandNotFound,
        Errno::EACCES | Errno::ENOEXEC | Errno::EPERM | Errno::EISDIR => ErrorKind::CommandNotExecutable,
        _ => ErrorKind::Internal,
    };
    let text = crate::error::reason(&error.into());
    Error::new(kind, format!("exec {:?}: {text}", program.to_string_lossy()))
}
