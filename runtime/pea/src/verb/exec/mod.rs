//! `exec`: one more process in a running container, confined like the first.
//!
//! ```text
//! caller ── helper         opens all it needs, enters the container's namespaces, forks once, tells the outcome
//!             └─ process   in the pid namespace and the cgroup from its birth: terminal, confinement, program
//! ```
//!
//! The helper is no member of the container's pid namespace and cgroup, so whatever the container does, nobody in it can
//! reach or stop the helper.

mod door;
mod inside;
mod template;

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::Process;

pub use template::Template;

use crate::cgroup::{self, Entry, Subgroups};
use crate::error::{Error, ErrorKind};
use crate::helper::{self, Kept};
use crate::options::ExecOptions;
use crate::pending::Pending;
use crate::pidfd_socket::PidfdSocket;
use crate::process::{Plan, connect};
use crate::store::{Container, Record};
use crate::sys::clone::{Clone as Cloned, stop_listening};
use crate::sys::process;
use crate::verb::create::join_keyring;
use crate::verb::query;
use door::{Door, Inner, Opened};
use inside::Inside;

/// Begins the execution in a helper child. Without a template the helper reads it.
pub fn exec(
    container: Container,
    process: Process,
    template: Option<Template>,
    options: ExecOptions,
) -> Result<Pending, Error> {
    let here = || env::current_dir().map_err(|error| Error::io("find the working directory", error));
    let pid_file = options.pid_file.map(|file| Ok::<_, Error>(here()?.join(file))).transpose()?;
    let request = Request {
        container,
        process,
        template,
        console_socket: options.console_socket,
        pidfd_socket: options.pidfd_socket,
        subgroups: Subgroups::parse(&options.cgroup)?,
        ignore_paused: options.ignore_paused,
    };
    let kept = Kept {
        stdio: [options.stdin, options.stdout, options.stderr],
        preserve: options.preserve_fds,
        ..Kept::default()
    };
    Ok(helper::spawn(kept, move |kept| request.run(kept))?.with_pid_file(pid_file))
}

struct Request {
    container: Container,
    process: Process,
    template: Option<Template>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    subgroups: Subgroups,
    ignore_paused: bool,
}

/// Everything computed and opened before the container is entered.
struct Prepared {
    record: Record,
    plan: Plan,
    door: Door,
    inner: Inner,
    entry: Entry,
    pidfd_socket: Option<PidfdSocket>,
}

impl Request {
    fn run(mut self, kept: Kept) -> Result<i32, Error> {
        let record = self.container.record()?;
        let plan = self.plan()?;
        let init = record.init.ok_or_else(|| self.not_running())?;
        let (opened, watch) = door::open(init)?.ok_or_else(|| self.not_running())?;
        self.prepare(record, plan, opened).and_then(|prepared| launch(prepared, &kept)).map_err(|error| {
            // What fails in a container that is coming to its end fails for that, wherever it showed.
            if error.kind() == ErrorKind::Internal && watch.is_ending() { self.not_running() } else { error }
        })
    }

    fn not_running(&self) -> Error {
        let text = format!("cannot exec in container \"{}\": container not running", self.container.id());
        Error::new(ErrorKind::NotRunning, text)
    }

    fn plan(&mut self) -> Result<Plan, Error> {
        let template = match self.template.take() {
            Some(template) => template,
            None => Template::read(&self.container)?,
        };
        template.complete(&mut self.process);
        let linux = Some(&template.linux);
        let mut plan = Plan::new(&self.process, linux, Some(&self.container.filters_dir()))?;
        if plan.filter.as_ref().is_some_and(|filter| filter.asks()) {
            plan.connect_listener(linux, query::state(&self.container)?)?;
        }
        if plan.terminal && self.console_socket.is_none() {
            let text = "process.terminal is true: a console socket is needed to hand over the terminal";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        Ok(plan)
    }

    fn prepare(&self, record: Record, plan: Plan, opened: Opened) -> Result<Prepared, Error> {
        let Opened { door, cgroup_namespace, proc, cgroup } = opened;
        if !self.ignore_paused && cgroup::is_frozen(&record.cgroup) {
            let id = self.container.id();
            let text =
                format!("container \"{id}\": cannot exec in a paused container (use --ignore-paused to override)");
            return Err(Error::new(ErrorKind::InvalidState, text));
        }
        let entry = Entry::open(&record.cgroup, record.unit.as_ref(), &self.subgroups, &cgroup)?;
        let console = self.console_socket.as_ref().filter(|_| plan.terminal).map(|path| connect(path)).transpose()?;
        let pidfd_socket = self.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
        let inner = Inner { cgroup_namespace, proc, console };
        Ok(Prepared { record, plan, door, inner, entry, pidfd_socket })
    }
}

/// Enters the container, makes the process, and waits until it executes its program.
fn launch(prepared: Prepared, kept: &Kept) -> Result<i32, Error> {
    let Prepared { record, plan, door, inner, entry, pidfd_socket } = prepared;
    let (mut status, tell_status) = pipe()?;
    // There is nothing to wait for where the process is born in its place.
    let go = (entry.is_by_moving() || pidfd_socket.is_some()).then(pipe).transpose()?;
    // Who is on the way in must not be open to those who are there already.
    nix::sys::prctl::set_dumpable(false).map_err(|error| Error::io("become undumpable", error))?;
    plan.raise_limits()?;
    plan.adjust_oom_score()?;
    plan.affinity.apply_initial()?;
    join_keyring(&record.id)?;
    stop_listening();
    door.enter()?;
    let (pid, pidfd) = match entry.fork()? {
        Cloned::Child => {
            Inside { plan: &plan, inner: &inner, entry: &entry, kept }.run(tell_status, go.map(|(wait, _)| wait))
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(tell_status);
    let result = release(&entry, pid, &pidfd, pidfd_socket.as_ref(), go).and_then(|()| outcome(&mut status));
    if result.is_err() {
        let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait(pid, true);
    }
    result.map(|()| pid)
}

/// Does what has to be done about the process before it goes on.
fn release(
    entry: &Entry,
    pid: i32,
    pidfd: &OwnedFd,
    socket: Option<&PidfdSocket>,
    go: Option<(File, File)>,
) -> Result<(), Error> {
    entry.place(pid)?;
    if let Some(socket) = socket {
        socket.send(pidfd.as_fd())?;
    }
    if let Some((_kept, mut go)) = go {
        // Nobody may be left to read it; the status tells why then. With the reading end kept until now, that is no
        // SIGPIPE, which would end this helper.
        let _ = go.write_all(b"g");
    }
    Ok(())
}

/// Waits until the process executes its program, or fails to: then it has said why.
fn outcome(status: &mut File) -> Result<(), Error> {
    let mut text = Vec::new();
    status.read_to_end(&mut text).map_err(|error| Error::io("read the process's status", error))?;
    if text.is_empty() {
        return Ok(());
    }
    let broken = |error| Error::internal(format!("the process's status makes no sense: {error}"));
    Err(serde_json::from_slice(&text).unwrap_or_else(broken))
}

/// Both ends close on exec.
fn pipe() -> Result<(File, File), Error> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|error| Error::io("make a pipe", error))?;
    Ok((read.into(), write.into()))
}
