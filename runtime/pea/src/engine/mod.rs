//! The engine that builds a container's surroundings: libcontainer. No other module knows it.

mod listener;

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::{Hook, Spec};

use self::listener::Listener;
use crate::error::{Error, ErrorKind};
use crate::hooks;
use crate::process::{Launch, Plan, confine};
use crate::socket;
use crate::state::State;
use crate::sys;

/// What a container is built from.
pub struct Build {
    pub id: String,
    /// The engine's own directory, empty.
    pub dir: PathBuf,
    pub spec: Spec,
    /// What the specification names by descriptor, to be kept open until the container stands.
    pub joined: Vec<File>,
    pub plan: Plan,
    /// As the startContainer hooks get it.
    pub state: State,
    pub start_hooks: Vec<Hook>,
    pub stdio: [Option<OwnedFd>; 3],
    pub console_socket: Option<PathBuf>,
    pub no_pivot: bool,
    pub preserve_fds: u32,
    /// Descriptors of this process that the init must not keep until it executes the program.
    pub close_in_init: Vec<RawFd>,
}

/// Builds the container and returns the pid of its init, which is this process's child and waits for [`start`].
pub fn build(build: Build) -> Result<i32, Error> {
    let bundle = build.dir.join("bundle");
    write_bundle(&bundle, &build.spec)?;
    let result = socket::listen(&build.dir.join(RESULT_SOCKET)).map_err(|error| Error::io("make a socket", error))?;
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (failure, report) = pipe2(flags).map_err(|error| Error::io("make a pipe", error))?;
    let (log, tell_log) = pipe2(flags).map_err(|error| Error::io("make a pipe", error))?;
    Listener::install(File::from(tell_log));
    let proc = socket::open_dir(Path::new("/proc")).map_err(|error| Error::io("open /proc", error))?;
    let workload = Workload(Rc::new(Init {
        plan: build.plan,
        proc,
        report: File::from(report),
        close: build.close_in_init,
        result,
        state: build.state,
        start_hooks: build.start_hooks,
        launch: RefCell::new(None),
    }));
    let preserve = i32::try_from(build.preserve_fds).unwrap_or(i32::MAX);
    let mut builder = ContainerBuilder::new(build.id, SyscallType::default())
        .with_root_path(build.dir)
        .map_err(|error| engine_error(&error))?
        .with_executor(workload)
        .with_preserved_fds(preserve)
        .with_console_socket(build.console_socket);
    let [stdin, stdout, stderr] = build.stdio;
    builder.stdin = stdin;
    builder.stdout = stdout;
    builder.stderr = stderr;
    // The intermediate process is reaped by the engine, the init is ours: see `Runtime::create` for whose it becomes.
    let built = builder.as_init(bundle).with_systemd(false).with_detach(true).with_no_pivot(build.no_pivot).build();
    drop(build.joined);
    match built {
        Ok(container) => match container.pid() {
            Some(pid) => Ok(pid.as_raw()),
            None => Err(Error::internal("the engine built a container without an init")),
        },
        Err(error) => Err(own_error(failure).unwrap_or_else(|| failed(&error, &read_pipe(log)))),
    }
}

/// What the engine says of itself, which helps nobody.
const PHRASES: [&str; 4] = [
    "failed to create container: ",
    "exec process failed with error ",
    "error in executing process : ",
    "intermediate process error ",
];

/// The engine's error, with the first cause it logged, and where that does not name it, the system call's error.
fn failed(error: &dyn StdError, log: &[u8]) -> Error {
    let log = String::from_utf8_lossy(log);
    let mut lines = log.lines().map(|line| line.split_once(listener::SEPARATOR).unwrap_or((line, "")));
    let mut text = PHRASES.iter().fold(engine_error(error).to_string(), |text, phrase| text.replace(phrase, ""));
    let errno = |text: &str| text.contains("os error");
    if let Some((message, fields)) = lines.next().filter(|_| !errno(&text)) {
        let details = [fields].into_iter().chain(lines.map(|(_, fields)| fields)).find(|fields| !fields.is_empty());
        if !text.contains(message) {
            text = format!("{text}: {message}");
        }
        if !errno(message) {
            text += details.unwrap_or("");
        }
    }
    Error::internal(format!("create the container: {text}"))
}

fn write_bundle(bundle: &Path, spec: &Spec) -> Result<(), Error> {
    fs::create_dir_all(bundle).map_err(|error| Error::io(format!("make directory {}", bundle.display()), error))?;
    spec.save(bundle.join("config.json"))
        .map_err(|error| Error::internal(format!("write the engine's bundle: {error}")))
}

/// What our part of the init said before it failed: more than what the engine makes of it.
fn own_error(failure: OwnedFd) -> Option<Error> {
    serde_json::from_slice(&read_pipe(failure)).ok()
}

/// What is in a non-blocking pipe now.
fn read_pipe(pipe: OwnedFd) -> Vec<u8> {
    let mut text = Vec::new();
    // Ends with WouldBlock when nobody has written; what was read until then stays.
    let _ = File::from(pipe).read_to_end(&mut text);
    text
}

/// The engine's error with all its causes, each said once.
fn engine_error(error: &dyn StdError) -> Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    Error::internal(text)
}

/// Lets the program of a built container begin, and waits until it has, or has failed to.
pub fn start(dir: &Path, id: &str) -> Result<(), Error> {
    let gone = |error: std::io::Error| match error.kind() {
        // The init listens until it has been started, or has ended.
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::InvalidState, format!("container \"{id}\" does not wait to be started"))
        }
        _ => Error::io("connect to the container's init", error),
    };
    // Connected first: the init accepts it only after it was let go.
    let mut result = socket::connect(&dir.join(RESULT_SOCKET)).map_err(gone)?;
    let mut notify = socket::connect(&dir.join(id).join("notify.sock")).map_err(gone)?;
    notify.write_all(b"start container").map_err(gone)?;
    drop(notify);
    let mut text = Vec::new();
    result.set_read_timeout(Some(START_DEADLINE)).map_err(|error| Error::io("set a timeout", error))?;
    // End of file: the program runs. Time out: a startContainer hook takes its time. Reset: killed meanwhile.
    let _ = result.read_to_end(&mut text);
    match serde_json::from_slice::<Error>(&text) {
        Ok(error) => Err(error),
        Err(_) => Ok(()),
    }
}

/// A socket in the engine's directory on which the init tells how the start went.
const RESULT_SOCKET: &str = "result.sock";

/// How long `start` waits to hear of it.
const START_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// Our part in the engine's init process, which calls `validate` when the surroundings stand, and `exec` after
/// the start signal.
struct Init {
    plan: Plan,
    proc: File,
    report: File,
    close: Vec<RawFd>,
    result: UnixListener,
    state: State,
    start_hooks: Vec<Hook>,
    launch: RefCell<Option<Launch>>,
}

#[derive(Clone)]
struct Workload(Rc<Init>);

impl Init {
    fn prepare(&self) -> Result<(), Error> {
        for number in &self.close {
            let number = *number as u32;
            sys::close_range(number, number).map_err(|error| Error::io("close a descriptor", error))?;
        }
        let _ = nix::sys::prctl::set_name(c"pea:init");
        if let (true, Some(size)) = (self.plan.terminal, self.plan.console_size) {
            sys::tty::set_size(std::io::stdin(), size).map_err(|error| Error::io("set the terminal's size", error))?;
        }
        *self.launch.borrow_mut() = Some(confine(&self.plan, self.proc.as_fd())?);
        Ok(())
    }

    fn run(&self) -> Error {
        if let Err(error) = hooks::run("startContainer", &self.start_hooks, &self.state, Some(&self.plan)) {
            return error;
        }
        match self.launch.take() {
            Some(launch) => launch.run(),
            None => Error::internal("a bug: the init was started before it was prepared"),
        }
    }
}

impl Executor for Workload {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.0.prepare().map_err(|error| {
            let _ = (&self.0.report).write_all(&serde_json::to_vec(&error).unwrap_or_default());
            ExecutorValidationError::ArgValidationError(error.to_string())
        })
    }

    /// The environment is handed to execve as the specification has it, and not by way of a map.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let listener = self.0.result.accept();
        let error = self.0.run();
        if let Ok((mut starter, _)) = listener {
            let _ = starter.write_all(&serde_json::to_vec(&error).unwrap_or_default());
        }
        Err(ExecutorError::Execution(error.to_string().into()))
    }
}
