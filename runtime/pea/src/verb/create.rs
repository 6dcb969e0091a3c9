//! `create`: from a bundle to an init that waits to be started.

use std::env;
use std::fs;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use nix::unistd::fchdir;
use oci_spec::runtime::Spec;

use crate::engine::{self, Built, Gate};
use crate::error::{Error, ErrorKind};
use crate::helper::{self, Kept};
use crate::options::{CgroupDriver, CreateOptions};
use crate::pending::Pending;
use crate::pidfd_socket::PidfdSocket;
use crate::process;
use crate::rootfs;
use crate::spec;
use crate::state::{State, Status, Traits};
use crate::store::{Container, Init, Lock, Record, replace};
use crate::verb::start;

/// What the container is made from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The bundle's `config.json`.
    Bundle,
    /// A specification in memory, and its JSON.
    Spec(Box<Spec>, Vec<u8>),
}

/// Begins the creation in a helper child.
///
/// The init is the helper's child; when the helper ends, the kernel gives it to the nearest subreaper, the caller.
pub fn create(request: Request) -> Result<Pending, Error> {
    let (request, kept) = request.split();
    helper::spawn(kept, move |kept| request.run(kept).map(|created| created.pid))
}

/// Creates the container in this very process where that is possible, else in a helper. The init is its child.
pub fn create_here(request: Request) -> Result<Created, Error> {
    let (request, kept) = request.split();
    if helper::can_work_here(&kept) {
        return helper::work_here(move |kept| request.run(kept));
    }
    let container = request.container.clone();
    let pid = helper::spawn(kept, move |kept| request.run(kept).map(|created| created.pid))?.finish()?;
    Ok(Created { pid, container, held: None })
}

/// A container that waits to be started.
pub struct Created {
    /// Its init's.
    pub pid: i32,
    container: Container,
    /// Its lock, and its record as it is on disk, where it was created by this process.
    held: Option<(Lock, Record)>,
}

impl Created {
    /// Starts it. Nobody could have changed it since it was created, if its lock is still ours: then there is nothing to be
    /// read again.
    pub fn start(self) -> Result<(), Error> {
        match self.held {
            Some((lock, record)) => start::start_created(&self.container, lock, &record),
            None => start::start(&self.container),
        }
    }
}

/// What is asked for.
pub struct Request {
    pub container: Container,
    pub driver: CgroupDriver,
    pub bundle: PathBuf,
    pub source: Source,
    pub options: CreateOptions,
}

/// All that is known before anything is made.
struct Prepared {
    plan: engine::Plan,
    /// The specification as it is kept.
    text: Vec<u8>,
    record: Record,
}

impl Request {
    /// Without the descriptors, which have a place of their own.
    fn split(mut self) -> (Self, Kept) {
        let options = &mut self.options;
        let stdio = [options.stdin.take(), options.stdout.take(), options.stderr.take()];
        let namespaces = mem::take(&mut options.runtime_namespaces);
        let kept = Kept { stdio, preserve: options.preserve_fds, namespaces };
        (self, kept)
    }

    fn run(mut self, kept: Kept) -> Result<Created, Error> {
        self.container.check_free()?;
        self.make_absolute()?;
        let Prepared { plan, text, mut record } = self.prepare()?;
        let told = self.options.pidfd_socket.as_deref().map(PidfdSocket::connect).transpose()?;
        let _own = Surroundings::of_this_process(plan.process.oom_score_adj.is_some())?;
        let lock = self.container.reserve(&record, &text)?;
        let built = self.build(&plan, kept, &record);
        let result = built.and_then(|built| self.put_on_record(&mut record, built, told, &lock));
        if result.is_err() {
            helper::end_children();
            // Whatever could not be removed is there for `delete` to report; here the first failure counts.
            plan.cgroup.undo();
            if let Some(beneath) = record.beneath {
                let _ = rootfs::detach(&record.rootfs, beneath);
            }
            let _ = self.container.remove();
        }
        Ok(Created { pid: result?, container: self.container, held: Some((lock, record)) })
    }

    /// The helper is about to change its working directory.
    fn make_absolute(&mut self) -> Result<(), Error> {
        self.bundle = fs::canonicalize(&self.bundle).map_err(|error| {
            let error = Error::io(format!("bundle {}", self.bundle.display()), error);
            Error::new(ErrorKind::InvalidSpec, error.to_string())
        })?;
        let here = env::current_dir().map_err(|error| Error::io("find the working directory", error))?;
        let Self { options, .. } = self;
        let paths =
            [&mut options.console_socket, &mut options.pid_file, &mut options.config, &mut options.pidfd_socket];
        for path in paths.into_iter().flatten() {
            *path = here.join(&path);
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<Prepared, Error> {
        let (mut spec, text) = self.spec()?;
        spec::add_env(&mut spec, &self.options.env);
        if self.options.notify_socket {
            spec::add_notify_socket(&mut spec, &self.container.notify_dir());
        }
        spec::check(&spec)?;
        let mut plan = engine::Plan::new(&spec, &self.bundle, &self.container, self.driver)?;
        plan.cgroup.set_rootless(self.options.rootless);
        plan.cgroup.check()?;
        check_console(plan.process.terminal, self.options.console_socket.as_deref())?;
        let record = Record {
            id: self.container.id().to_owned(),
            bundle: self.bundle.clone(),
            rootfs: plan.rootfs.rootfs().to_owned(),
            created: jiff::Timestamp::now().to_string(),
            cgroup: plan.cgroup.path().to_owned(),
            made_above: plan.cgroup.made_above(),
            beneath: match plan.rootfs.mount_namespace() {
                true => None,
                false => Some(rootfs::mount_id(plan.rootfs.rootfs())?),
            },
            unit: plan.cgroup.unit().cloned(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            follow_up: spec::has_follow_up(&spec),
            traits: Some(Traits::of(&spec)),
            creator: Init::of(std::process::id() as i32),
            init: None,
            started: false,
        };
        plan.process.connect_listener(spec.linux().as_ref(), State::of(&record, Status::Creating, 0))?;
        Ok(Prepared { plan, text, record })
    }

    fn spec(&mut self) -> Result<(Spec, Vec<u8>), Error> {
        match mem::replace(&mut self.source, Source::Bundle) {
            Source::Spec(spec, text) => Ok((*spec, text)),
            Source::Bundle => {
                let path = self.options.config.clone().unwrap_or_else(|| self.bundle.join("config.json"));
                spec::load_given(&path)
            }
        }
    }

    fn build(&self, plan: &engine::Plan, kept: Kept, record: &Record) -> Result<Built, Error> {
        let console = self.options.console_socket.as_deref().map(process::connect).transpose()?;
        if self.options.notify_socket {
            self.container.make_notify_dir()?;
        }
        self.surroundings(&plan.process)?;
        engine::build(engine::Build {
            plan,
            state: State::of(record, Status::Creating, 0),
            stdio: kept.stdio,
            console,
            gate: Gate::new(&self.container.dir())?,
            preserve_fds: kept.preserve,
            no_pivot: self.options.no_pivot,
        })
    }

    fn put_on_record(
        &self,
        record: &mut Record,
        built: Built,
        told: Option<PidfdSocket>,
        lock: &Lock,
    ) -> Result<i32, Error> {
        let pid = built.pid;
        let ended = || Error::internal(format!("the container's init {pid} ended while the container was created"));
        let init = Init::of(pid).ok_or_else(ended)?;
        self.container.save_init(init, lock)?;
        record.init = Some(init);
        if let Some(socket) = told {
            socket.send(built.pidfd.as_fd())?;
        }
        if let Some(pid_file) = &self.options.pid_file {
            replace(pid_file, pid.to_string().as_bytes())?;
        }
        built.release()?;
        Ok(pid)
    }

    /// What the init inherits from this process.
    fn surroundings(&self, plan: &process::Plan) -> Result<(), Error> {
        env::set_current_dir(&self.bundle)
            .map_err(|error| Error::io(format!("enter bundle {}", self.bundle.display()), error))?;
        if !self.options.no_new_keyring {
            join_keyring(self.container.id())?;
        }
        plan.raise_limits()?;
        plan.adjust_oom_score()
    }
}

/// What the creation changes of this process only for the init to inherit it.
struct Surroundings {
    directory: OwnedFd,
    mask: Mode,
    /// Where it will be changed.
    oom_score: Option<String>,
}

impl Surroundings {
    fn of_this_process(oom_score_changes: bool) -> Result<Self, Error> {
        let directory = open(".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let directory = directory.map_err(|error| Error::io("open the working directory", error))?;
        let oom_score = oom_score_changes.then(|| fs::read_to_string(process::OOM_SCORE).unwrap_or_default());
        Ok(Self { directory, mask: umask(Mode::from_bits_truncate(0o022)), oom_score })
    }
}

impl Drop for Surroundings {
    /// Restores them. Where it fails, this process goes on as it is.
    fn drop(&mut self) {
        let _ = fchdir(&self.directory);
        umask(self.mask);
        if let Some(before) = &self.oom_score
            && fs::read_to_string(process::OOM_SCORE).is_ok_and(|now| now != *before)
        {
            let _ = fs::write(process::OOM_SCORE, before);
        }
    }
}

/// A terminal and somebody to serve it belong together.
pub fn check_console(terminal: bool, socket: Option<&Path>) -> Result<(), Error> {
    let text = match (terminal, socket) {
        (true, None) => "process.terminal is true: a console socket is needed to hand over the terminal",
        (false, Some(_)) => "a console socket was given, but process.terminal is not true",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

/// Gives the container a session keyring of its own; kernels without keyrings have none to protect.
pub fn join_keyring(id: &str) -> Result<(), Error> {
    let name = std::ffi::CString::new(format!("_ses.{id}")).map_err(|_| Error::internal("the id has a NUL in it"))?;
    match crate::sys::process::join_session_keyring(&name) {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => Err(Error::io("join a session keyring", error)),
        _ => Ok(()),
    }
}
