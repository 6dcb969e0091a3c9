//! `create`: from a bundle to an init that waits to be started.

use std::env;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::cgroup::devices::{self, Rules};
use crate::cgroup::swap;
use crate::engine;
use crate::error::{Error, ErrorKind};
use crate::helper::{self, Kept};
use crate::options::{CgroupDriver, CreateOptions};
use crate::pending::Pending;
use crate::pidfd_socket::PidfdSocket;
use crate::process::Plan;
use crate::spec;
use crate::state::{State, Status};
use crate::store::{Container, Init, Lock, Record, replace};
use crate::sys::process;

/// Begins the creation in a helper child.
///
/// The engine's init is the helper's child; when the helper ends, the kernel gives it to the nearest subreaper, the
/// caller. (The engine could make it the caller's child at once, but then its intermediate process as well, for the
/// caller to reap without knowing it.)
pub fn create(
    container: Container,
    driver: CgroupDriver,
    bundle: &Path,
    options: CreateOptions,
) -> Result<Pending, Error> {
    let kept = Kept { stdio: [options.stdin, options.stdout, options.stderr], preserve: options.preserve_fds };
    let request = Request {
        container,
        driver,
        bundle: bundle.to_owned(),
        console_socket: options.console_socket,
        pid_file: options.pid_file,
        config: options.config,
        env: options.env,
        notify_socket: options.notify_socket,
        pidfd_socket: options.pidfd_socket,
        no_pivot: options.no_pivot,
        new_keyring: !options.no_new_keyring,
    };
    helper::spawn(kept, move |kept| request.run(kept))
}

struct Request {
    container: Container,
    driver: CgroupDriver,
    bundle: PathBuf,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    config: Option<PathBuf>,
    env: Vec<String>,
    notify_socket: bool,
    pidfd_socket: Option<PathBuf>,
    no_pivot: bool,
    new_keyring: bool,
}

/// All that is known before anything is made.
struct Prepared {
    spec: Spec,
    text: Vec<u8>,
    plan: Plan,
    devices: Rules,
    record: Record,
}

impl Request {
    fn run(mut self, kept: Kept) -> Result<i32, Error> {
        self.make_absolute()?;
        let prepared = self.prepare()?;
        let lock = self.container.reserve(&prepared.record, &prepared.text)?;
        let cgroup = prepared.record.cgroup.clone();
        let home = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let result = self.build(prepared, kept, &lock);
        if result.is_err() {
            helper::end_children();
            cgroup::leave_uncontrolled(&home);
            // Whatever could not be removed is there for `delete` to report; here the first failure counts.
            let _ = cgroup::remove_tree(&cgroup);
            let _ = self.container.remove();
        }
        result
    }

    /// The helper is about to change its working directory.
    fn make_absolute(&mut self) -> Result<(), Error> {
        self.bundle = fs::canonicalize(&self.bundle).map_err(|error| {
            let error = Error::io(format!("bundle {}", self.bundle.display()), error);
            Error::new(ErrorKind::InvalidSpec, error.to_string())
        })?;
        let here = env::current_dir().map_err(|error| Error::io("find the working directory", error))?;
        let paths = [&mut self.console_socket, &mut self.pid_file, &mut self.config, &mut self.pidfd_socket];
        for path in paths.into_iter().flatten() {
            *path = here.join(&path);
        }
        Ok(())
    }

    fn prepare(&self) -> Result<Prepared, Error> {
        let path = self.config.clone().unwrap_or_else(|| self.bundle.join("config.json"));
        let text = fs::read(&path).map_err(|error| {
            Error::spec(format!("bundle: read {}: {}", path.display(), crate::error::reason(&error)))
        })?;
        let mut spec = spec::parse(&text, &path)?;
        spec::add_env(&mut spec, &self.env);
        if self.notify_socket {
            spec::add_notify_socket(&mut spec, &self.container.notify_dir());
        }
        spec::check(&spec)?;
        let process = spec.process().as_ref().ok_or_else(|| Error::spec("config.json: process: missing"))?;
        let mut plan = Plan::new(process, spec.linux().as_ref(), Some(&self.container.filters_dir()))?;
        plan.make_cwd = true;
        self.check_console(plan.terminal)?;
        let devices = spec::device_rules(&spec)?;
        let record = Record {
            id: self.container.id().to_owned(),
            bundle: self.bundle.clone(),
            rootfs: spec::check_rootfs(&spec, &self.bundle)?,
            created: jiff::Timestamp::now().to_string(),
            cgroup: self.cgroup(&spec)?,
            annotations: spec.annotations().clone().unwrap_or_default(),
            creator: Init::of(std::process::id() as i32),
            init: None,
            started: false,
        };
        plan.connect_listener(spec.linux().as_ref(), State::of(&record, Status::Creating, 0))?;
        Ok(Prepared { spec, text, plan, devices, record })
    }

    fn check_console(&self, terminal: bool) -> Result<(), Error> {
        let text = match (terminal, &self.console_socket) {
            (true, None) => "process.terminal is true: a console socket is needed to hand over the terminal",
            (false, Some(_)) => "a console socket was given, but process.terminal is not true",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidArgument, text))
    }

    fn cgroup(&self, spec: &Spec) -> Result<PathBuf, Error> {
        match self.driver {
            CgroupDriver::Cgroupfs => spec::cgroups_path(spec, self.container.id()),
            CgroupDriver::Disabled => {
                let text = "--cgroup-manager disabled: not supported yet";
                Err(Error::new(ErrorKind::Unsupported, text))
            }
            CgroupDriver::Systemd => {
                let given = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
                cgroup::systemd_path(&given.to_string_lossy(), self.container.id())
            }
        }
    }

    fn build(&self, prepared: Prepared, kept: Kept, lock: &Lock) -> Result<i32, Error> {
        let Prepared { spec, plan, devices, mut record, .. } = prepared;
        let pidfd_socket = self.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
        if self.notify_socket {
            self.container.make_notify_dir()?;
        }
        self.surroundings(&plan, &record)?;
        let shadow = spec::shadow(&spec, &devices, &record)?;
        for namespace in &shadow.first {
            // Zero: of whatever kind it is, which has been checked.
            setns(namespace, CloneFlags::empty()).map_err(|error| Error::io("join a namespace", error))?;
        }
        let hooks = spec.hooks().as_ref();
        let pid = engine::build(engine::Build {
            id: record.id.clone(),
            dir: self.container.engine_dir(),
            spec: shadow.spec,
            joined: shadow.namespaces,
            plan: plan.clone(),
            state: State::of(&record, Status::Created, 0),
            start_hooks: hooks.and_then(|hooks| hooks.start_container().clone()).unwrap_or_default(),
            stdio: kept.stdio,
            console_socket: self.console_socket.clone(),
            no_pivot: self.no_pivot,
            preserve_fds: kept.preserve,
            close_in_init: vec![lock.number()],
        })?;
        // The init waits; what it was to make itself it has made.
        devices::enforce(&record.cgroup, &devices)?;
        swap::enforce(&record.cgroup, spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()))?;
        let ended = || Error::internal(format!("the container's init {pid} ended while the container was created"));
        record.init = Some(Init::of(pid).ok_or_else(ended)?);
        self.container.save(&record, lock)?;
        if let Some(socket) = &pidfd_socket {
            let pidfd = process::pidfd_open(pid).map_err(|error| Error::io(format!("open process {pid}"), error))?;
            socket.send(pidfd.as_fd())?;
        }
        if let Some(pid_file) = &self.pid_file {
            replace(pid_file, pid.to_string().as_bytes())?;
        }
        Ok(pid)
    }

    /// What the init inherits from this process.
    fn surroundings(&self, plan: &Plan, record: &Record) -> Result<(), Error> {
        let others = cgroup::pids(&record.cgroup)?;
        if !others.is_empty() {
            let text = format!(
                "cgroup {} is in use by processes {others:?}; a container needs one of its own (linux.cgroupsPath)",
                record.cgroup.display()
            );
            return Err(Error::new(ErrorKind::InvalidState, text));
        }
        env::set_current_dir(&record.bundle)
            .map_err(|error| Error::io(format!("enter bundle {}", record.bundle.display()), error))?;
        umask(Mode::from_bits_truncate(0o022));
        if self.new_keyring {
            join_keyring(&record.id)?;
        }
        plan.raise_limits()?;
        plan.adjust_oom_score()?;
        cgroup::join_uncontrolled(&record.cgroup)
    }
}

/// Gives the container a session keyring of its own; kernels without keyrings have none to protect.
pub fn join_keyring(id: &str) -> Result<(), Error> {
    let name = std::ffi::CString::new(format!("_ses.{id}")).map_err(|_| Error::internal("the id has a NUL in it"))?;
    match process::join_session_keyring(&name) {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => Err(Error::io("join a session keyring", error)),
        _ => Ok(()),
    }
}
