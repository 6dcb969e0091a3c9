//! What is to become of a process: everything computed before the first fork.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxSeccomp, PosixRlimitType, Process};

use super::affinity::Affinity;
use super::capability::Sets;
use super::memory::MemoryPolicy;
use super::personality;
use super::scheduler::{self, IoPriority};
use crate::error::{Error, ErrorKind, reason};
use crate::seccomp::{Filter, Listener};
use crate::state::State;
use crate::sys::process;
use crate::sys::sched::Attributes;
use crate::sys::tty::Size;

/// Of this process: its badness for the out-of-memory killer (proc_pid_oom_score_adj(5)).
pub const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// One resource limit, as prlimit(2) takes it.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    kind: PosixRlimitType,
    soft: u64,
    hard: u64,
}

/// A size beyond what a terminal can have is as large as it can have.
fn console_size(size: oci_spec::runtime::Box) -> Size {
    let cut = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
    Size { rows: cut(size.height()), columns: cut(size.width()) }
}

impl Limit {
    fn raise(&self) -> Result<(), Error> {
        let (soft, hard) = process::limit(resource(self.kind)).map_err(|error| self.failure(error))?;
        if self.hard <= hard {
            return Ok(());
        }
        process::set_limit(resource(self.kind), soft, self.hard).map_err(|error| self.failure(error))
    }

    /// Applies it to this process.
    pub fn apply(&self) -> Result<(), Error> {
        process::set_limit(resource(self.kind), self.soft, self.hard).map_err(|error| self.failure(error))
    }

    fn failure(&self, error: std::io::Error) -> Error {
        Error::io(format!("process.rlimits: set {} to {} (hard {})", self.kind, self.soft, self.hard), error)
    }
}

/// How a process of a container is to be set up.
#[derive(Clone, Debug)]
pub struct Plan {
    pub args: Vec<CString>,
    /// In the order given; duplicates stay.
    pub env: Vec<CString>,
    pub cwd: PathBuf,
    /// Make the working directory when it is not there (the first process only).
    pub make_cwd: bool,
    pub terminal: bool,
    /// The terminal's size from the start: a program may ask for it before anybody could set it.
    pub console_size: Option<Size>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: Sets,
    pub no_new_privileges: bool,
    pub filter: Option<Filter>,
    /// Who answers where the filter asks; see [`connect_listener`](Self::connect_listener).
    pub listener: Option<Listener>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub personality: Option<libc::c_ulong>,
    pub affinity: Affinity,
    pub scheduler: Option<Attributes>,
    pub io_priority: Option<IoPriority>,
    pub memory_policy: Option<MemoryPolicy>,
    pub limits: Vec<Limit>,
    pub oom_score_adj: Option<i32>,
}

impl Plan {
    /// The plan for `process` in a container of that specification. Compiled filters are kept in the directory
    /// `filters`, if any.
    pub fn new(process: &Process, linux: Option<&Linux>, filters: Option<&Path>) -> Result<Self, Error> {
        crate::spec::check_process(process)?;
        let user = process.user();
        let filter = seccomp(linux).map(|seccomp| Filter::compile(seccomp, filters)).transpose()?;
        Ok(Self {
            args: strings("process.args", process.args().iter().flatten())?,
            env: strings("process.env", process.env().iter().flatten())?,
            cwd: process.cwd().clone(),
            make_cwd: false,
            terminal: process.terminal().unwrap_or(false),
            console_size: process.console_size().map(console_size),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            capabilities: Sets::new(process.capabilities().as_ref()),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            filter,
            listener: None,
            apparmor: apparmor(process)?,
            selinux: selinux(process),
            personality: linux.and_then(|linux| linux.personality().as_ref()).map(personality::value).transpose()?,
            affinity: Affinity::new(process.exec_cpu_affinity().as_ref())?,
            scheduler: process.scheduler().as_ref().map(scheduler::attributes).transpose()?,
            io_priority: process.io_priority().map(IoPriority::new).transpose()?,
            memory_policy: linux.and_then(|linux| linux.memory_policy().as_ref()).map(MemoryPolicy::new).transpose()?,
            limits: limits(process)?,
            oom_score_adj: process.oom_score_adj(),
        })
    }

    /// Connects to whom the seccomp filter asks, if it asks anybody; to be done outside of the container.
    ///
    /// `state` is the container's as the listener shall see it; a pid of 0 in it stands for the process itself.
    pub fn connect_listener(&mut self, linux: Option<&Linux>, state: State) -> Result<(), Error> {
        if let (Some(filter), Some(seccomp)) = (&self.filter, seccomp(linux))
            && filter.asks()
        {
            self.listener = Some(Listener::connect(seccomp, state)?);
        }
        Ok(())
    }

    /// The value of an environment variable: the last one given counts, as for getenv in most programs.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        let value = |entry: &'_ CString| -> Option<usize> {
            let rest = entry.to_bytes().strip_prefix(name.as_bytes())?;
            rest.starts_with(b"=").then_some(name.len() + 1)
        };
        self.env.iter().rev().find_map(|entry| value(entry).map(|start| &entry.to_bytes()[start..]))
    }

    /// Raises this process's hard limits to what the container shall have, where they are lower.
    ///
    /// To be done outside of the container: raising takes a privilege of the machine. The limits themselves, which
    /// could hinder the set-up, are applied just before the program.
    pub fn raise_limits(&self) -> Result<(), Error> {
        self.limits.iter().try_for_each(|limit| limit.raise())
    }

    /// Sets this process's badness for the out-of-memory killer, which its children inherit.
    ///
    /// Lowering takes CAP_SYS_RESOURCE. Where that is missing, the container keeps the value of its creator rather
    /// than not to start at all: it is then killed no later than asked for.
    pub fn adjust_oom_score(&self) -> Result<(), Error> {
        let Some(wanted) = self.oom_score_adj else { return Ok(()) };
        let Err(error) = fs::write(OOM_SCORE, wanted.to_string()) else { return Ok(()) };
        let now = fs::read_to_string(OOM_SCORE).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let refused = matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM));
        if refused && now.is_some_and(|now| wanted < now) {
            return Ok(());
        }
        Err(Error::spec(format!("process.oomScoreAdj: write {wanted} to {OOM_SCORE}: {}", reason(&error))))
    }
}

fn strings<'a>(what: &str, texts: impl Iterator<Item = &'a String>) -> Result<Vec<CString>, Error> {
    let convert = |text: &String| {
        CString::new(text.as_bytes()).map_err(|_| Error::spec(format!("{what}: {text:?} has a NUL byte in it")))
    };
    texts.map(convert).collect()
}

fn seccomp(linux: Option<&Linux>) -> Option<&LinuxSeccomp> {
    linux.and_then(|linux| linux.seccomp().as_ref())
}

fn apparmor(process: &Process) -> Result<Option<String>, Error> {
    let profile = process.apparmor_profile().clone().filter(|profile| !profile.is_empty());
    let Some(profile) = profile else { return Ok(None) };
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    if enabled {
        return Ok(Some(profile));
    }
    let text =
        format!("process.apparmorProfile: {profile:?} is asked for, but AppArmor is not enabled on this machine");
    Err(Error::new(ErrorKind::Unsupported, text))
}

/// A label on a machine without SELinux is ignored, as everywhere.
fn selinux(process: &Process) -> Option<String> {
    let label = process.selinux_label().clone().filter(|label| !label.is_empty())?;
    Path::new("/sys/fs/selinux/enforce").exists().then_some(label)
}

fn limits(process: &Process) -> Result<Vec<Limit>, Error> {
    let mut limits: Vec<Limit> = Vec::new();
    for given in process.rlimits().iter().flatten() {
        if limits.iter().any(|limit| limit.kind == given.typ()) {
            return Err(Error::spec(format!("process.rlimits: {} is there twice", given.typ())));
        }
        if given.soft() > given.hard() {
            return Err(Error::spec(format!("process.rlimits: {}: soft is more than hard", given.typ())));
        }
        limits.push(Limit { kind: given.typ(), soft: given.soft(), hard: given.hard() });
    }
    Ok(limits)
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
