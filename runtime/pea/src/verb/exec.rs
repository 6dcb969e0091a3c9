//! `exec`: one more process in a running container, confined like the first.
//!
//! ```text
//! caller ── helper             stays outside: pid file, outcome
//!             ├─ joiner        enters cgroups and namespaces, forks, ends
//!             └─ process       (a sibling of the joiner) inside the pid namespace: terminal, confinement, program
//! ```

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{chroot, fchdir, pipe2, setsid};
use oci_spec::runtime::Process;

use crate::cgroup;
use crate::error::{Error, ErrorKind};
use crate::helper::{self, Kept};
use crate::options::ExecOptions;
use crate::pending::Pending;
use crate::process::{Plan, confine, connect, open_console};
use crate::socket::open_dir;
use crate::state::Status;
use crate::store::{Container, Record, replace};
use crate::sys;
use crate::sys::process::{self, Fork};
use crate::verb::create::join_keyring;
use crate::verb::query;

/// Namespaces by their file in /proc/PID/ns. The flag of time namespaces has no name in the libraries.
const NAMESPACES: [(&str, CloneFlags); 8] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", CloneFlags::from_bits_retain(0x80)),
];

/// Begins the execution in a helper child.
pub fn exec(container: Container, process: &Process, options: ExecOptions) -> Result<Pending, Error> {
    let request = Request {
        container,
        process: process.clone(),
        console_socket: options.console_socket,
        pid_file: options.pid_file,
    };
    let kept = Kept { stdio: [options.stdin, options.stdout, options.stderr], preserve: options.preserve_fds };
    helper::spawn(kept, move |kept| request.run(kept))
}

struct Request {
    container: Container,
    process: Process,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
}

/// Everything opened from outside, before the container can have a say in what a path means.
struct Door {
    init: i32,
    pidfd: OwnedFd,
    namespaces: CloneFlags,
    root: File,
    proc: File,
    console: Option<UnixStream>,
}

/// The pipes between the helper and the processes it forks. All close on exec.
struct Pipes {
    /// A failure's text; the end of file means that the program runs.
    status: (File, File),
    /// The process's pid, from the joiner.
    pid: (File, File),
    /// One byte: the helper has done its part.
    go: (File, File),
}

impl Request {
    fn run(&self, kept: Kept) -> Result<i32, Error> {
        let record = self.container.record()?;
        self.check(&record)?;
        let spec = self.container.spec()?;
        let linux = spec.linux().as_ref();
        let mut plan = Plan::new(&self.process, linux, Some(&self.container.filters_dir()))?;
        plan.connect_listener(linux, query::state(&self.container)?)?;
        let door = self.open(&record, plan.terminal)?;
        let pipes = Pipes { status: pipe()?, pid: pipe()?, go: pipe()? };
        let result = self.launch(&record, &plan, &door, pipes, &kept);
        result.map_err(|error| {
            helper::end_children();
            // What fails in a container that is coming to its end fails for that, wherever it showed.
            let ending = record.init.is_none_or(|init| init.is_ending());
            if ending && error.kind() == ErrorKind::Internal { self.not_running() } else { error }
        })
    }

    fn not_running(&self) -> Error {
        let text = format!("cannot exec in container \"{}\": container not running", self.container.id());
        Error::new(ErrorKind::NotRunning, text)
    }

    fn check(&self, record: &Record) -> Result<(), Error> {
        let id = self.container.id();
        match query::status(&self.container, record) {
            Status::Created | Status::Running => Ok(()),
            Status::Paused => {
                Err(Error::new(ErrorKind::InvalidState, format!("cannot exec in container \"{id}\": it is paused")))
            }
            Status::Creating | Status::Stopped => Err(self.not_running()),
        }
    }

    fn open(&self, record: &Record, terminal: bool) -> Result<Door, Error> {
        let not_running = || self.not_running();
        let init = record.init.ok_or_else(not_running)?;
        let pidfd = process::pidfd_open(init.pid).map_err(|_| not_running())?;
        let root = open_dir(Path::new(&format!("/proc/{}/root", init.pid)));
        let namespaces = differing(init.pid).map_err(|_| not_running())?;
        // If it still lives, all of the above were its own.
        if !init.is_alive() {
            return Err(not_running());
        }
        let console = match (terminal, &self.console_socket) {
            (true, Some(path)) => Some(connect(path)?),
            (true, None) => {
                let text = "process.terminal is true: a console socket is needed to hand over the terminal";
                return Err(Error::new(ErrorKind::InvalidArgument, text));
            }
            (false, _) => None,
        };
        Ok(Door {
            init: init.pid,
            pidfd,
            namespaces,
            root: root.map_err(|error| Error::io("open the container's root", error))?,
            proc: open_dir(Path::new("/proc")).map_err(|error| Error::io("open /proc", error))?,
            console,
        })
    }

    fn launch(&self, record: &Record, plan: &Plan, door: &Door, pipes: Pipes, kept: &Kept) -> Result<i32, Error> {
        let Pipes { status: (mut status, tell_status), pid: (mut pid, tell_pid), go: (wait_go, mut go) } = pipes;
        let inside = Inside { record, plan, door, kept };
        let joiner = match process::fork().map_err(|error| Error::io("fork", error))? {
            Fork::Child => {
                // Only their ends are to stay open in the children, or no end of file would ever come.
                drop((status, pid, go));
                inside.join(tell_status, tell_pid, wait_go)
            }
            Fork::Parent(joiner) => joiner,
        };
        drop((tell_status, tell_pid));
        let mut bytes = [0; 4];
        if pid.read_exact(&mut bytes).is_err() {
            return Err(failure(&mut status)
                .unwrap_or_else(|| Error::internal("the process joining the container ended without a word")));
        }
        let pid = i32::from_ne_bytes(bytes);
        let _ = process::wait(joiner, true);
        if let Some(pid_file) = &self.pid_file {
            replace(&env::current_dir().unwrap_or_default().join(pid_file), pid.to_string().as_bytes())?;
        }
        // Nobody may be left to read it; the status tells why then. With the reading end kept until now, that is no
        // SIGPIPE, which would end this helper.
        let _ = go.write_all(b"g");
        drop(wait_go);
        match failure(&mut status) {
            None => Ok(pid),
            Some(error) => {
                if let Some(pid_file) = &self.pid_file {
                    let _ = fs::remove_file(pid_file);
                }
                Err(error)
            }
        }
    }
}

/// Waits until the process executes its program or fails to.
fn failure(status: &mut File) -> Option<Error> {
    let mut text = Vec::new();
    if let Err(error) = status.read_to_end(&mut text) {
        return Some(Error::io("read the process's status", error));
    }
    if text.is_empty() {
        return None;
    }
    let broken = |error| Error::internal(format!("the process's status makes no sense: {error}"));
    Some(serde_json::from_slice(&text).unwrap_or_else(broken))
}

fn pipe() -> Result<(File, File), Error> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| Error::io("make a pipe", error))?;
    Ok((read.into(), write.into()))
}

/// The namespaces of a process that are not ours: joining one's own fails for some, and means nothing for any.
fn differing(pid: i32) -> std::io::Result<CloneFlags> {
    let mut flags = CloneFlags::empty();
    for (name, flag) in NAMESPACES {
        let (own, theirs) = (format!("/proc/self/ns/{name}"), format!("/proc/{pid}/ns/{name}"));
        let Ok(own) = fs::metadata(own) else { continue };
        let theirs = fs::metadata(theirs)?;
        if (own.dev(), own.ino()) != (theirs.dev(), theirs.ino()) {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// What happens in the children.
struct Inside<'a> {
    record: &'a Record,
    plan: &'a Plan,
    door: &'a Door,
    kept: &'a Kept,
}

impl Inside<'_> {
    /// The joiner: becomes a member of the container, then forks, for only children enter a pid namespace.
    fn join(&self, mut status: File, mut pid: File, go: File) -> ! {
        match self.enter().and_then(|()| process::fork_sibling().map_err(|error| Error::io("fork", error))) {
            Ok(Fork::Child) => {
                drop(pid);
                let error = self.become_program(go);
                tell(&mut status, &error);
                process::exit_now(match error.kind() {
                    ErrorKind::CommandNotFound => 127,
                    ErrorKind::CommandNotExecutable => 126,
                    _ => 255,
                })
            }
            Ok(Fork::Parent(child)) => {
                let _ = pid.write_all(&child.to_ne_bytes());
                process::exit_now(0)
            }
            Err(error) => {
                tell(&mut status, &error);
                process::exit_now(1)
            }
        }
    }

    fn enter(&self) -> Result<(), Error> {
        // A process that is being moved in must not be open to those who are there already.
        nix::sys::prctl::set_dumpable(false).map_err(|error| Error::io("become undumpable", error))?;
        self.plan.raise_limits()?;
        self.plan.adjust_oom_score()?;
        join_keyring(&self.record.id)?;
        self.plan.affinity.apply_initial()?;
        cgroup::join(&self.record.cgroup, self.door.init)?;
        // All in one call, so that joining the user namespace does not take away the right to join the others.
        setns(self.door.pidfd.as_fd(), self.door.namespaces).map_err(|error| {
            Error::io(format!("join the namespaces of process {} ({:?})", self.door.init, self.door.namespaces), error)
        })?;
        // The root of the mount namespace is not the container's where it was made without pivot_root.
        fchdir(&self.door.root).map_err(|error| Error::io("enter the container's root", error))?;
        chroot(".").map_err(|error| Error::io("change to the container's root", error))
    }

    /// The process: returns only what went wrong.
    fn become_program(&self, mut go: File) -> Error {
        let mut byte = [0];
        if go.read_exact(&mut byte).is_err() {
            return Error::internal("the helper ended before the process could start");
        }
        match self.set_up() {
            Err(error) => error,
            Ok(launch) => launch.run(),
        }
    }

    fn set_up(&self) -> Result<crate::process::Launch, Error> {
        setsid().map_err(|error| Error::io("make a session", error))?;
        match &self.door.console {
            Some(socket) => open_console(socket.as_fd(), self.plan.console_size).map(drop)?,
            None => self.set_stdio()?,
        }
        let launch = confine(self.plan, self.door.proc.as_fd())?;
        sys::close_on_exec_from(3 + self.kept.preserve).map_err(|error| Error::io("close descriptors", error))?;
        Ok(launch)
    }

    fn set_stdio(&self) -> Result<(), Error> {
        for (number, fd) in self.kept.stdio.iter().enumerate() {
            let Some(fd) = fd else { continue };
            let fd: BorrowedFd<'_> = fd.as_fd();
            sys::set_stdio(fd, number as i32).map_err(|error| Error::io("set a standard stream", error))?;
        }
        Ok(())
    }
}

fn tell(status: &mut File, error: &Error) {
    let _ = status.write_all(&serde_json::to_vec(error).unwrap_or_default());
}
