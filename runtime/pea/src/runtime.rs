//! The verbs.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::cgroup::OomWatch;
use crate::criu::{CheckpointOptions, RestoreOptions};
use crate::error::Error;
use crate::options::{CgroupDriver, CreateOptions, ExecOptions};
use crate::pending::Pending;
use crate::spec::NOTIFY_SOCKET;
use crate::state::{State, Traits};
use crate::stats::Stats;
use crate::store::Container;
use crate::verb::create::{Created, Request, Source};
use crate::verb::exec::Template;
use crate::verb::{checkpoint, create, delete, exec, kill, pause, query, restore, start, update};

/// A state root and a cgroup driver: all that the verbs share.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
    driver: CgroupDriver,
}

impl Runtime {
    /// A runtime that keeps its containers under `root` (made when the first one is created).
    pub fn new(root: impl Into<PathBuf>, driver: CgroupDriver) -> Self {
        Self { root: root.into(), driver }
    }

    /// Builds the container of `bundle`; its program then waits for [`start`](Self::start).
    ///
    /// Forks: a caller with more than one thread is refused.
    pub fn create(&self, id: &str, bundle: &Path, options: CreateOptions) -> Result<Pending, Error> {
        create::create(self.request(id, bundle, Source::Bundle, options)?)
    }

    /// The same with a specification in memory instead of the bundle's `config.json`. Relative paths in it are relative
    /// to `bundle`, which need not hold anything else.
    ///
    /// Forks: a caller with more than one thread is refused.
    pub fn create_spec(&self, id: &str, spec: Spec, bundle: &Path, options: CreateOptions) -> Result<Pending, Error> {
        let text =
            serde_json::to_vec(&spec).map_err(|error| Error::internal(format!("encode the specification: {error}")))?;
        create::create(self.request(id, bundle, Source::Spec(Box::new(spec), text), options)?)
    }

    /// As [`create`](Self::create), in this very process if it has one thread, no child, and nothing to hand over; the
    /// container's init is its child. Afterwards this process is not dumpable, has the container's session keyring, and
    /// may have higher hard limits. For a program that was started for just this.
    pub(crate) fn create_here(
        &self,
        id: &str,
        bundle: &Path,
        source: Source,
        options: CreateOptions,
    ) -> Result<Created, Error> {
        create::create_here(self.request(id, bundle, source, options)?)
    }

    fn request(&self, id: &str, bundle: &Path, source: Source, options: CreateOptions) -> Result<Request, Error> {
        let (container, driver) = (self.container(id)?, self.driver);
        Ok(Request { container, driver, bundle: bundle.to_owned(), source, options })
    }

    /// Starts one more process in the container, as `process` says: capabilities that are not given are not held.
    /// The container's seccomp filter applies to it; what confines the container's own process (labels, limits,
    /// `noNewPrivileges`, `oomScoreAdj`, scheduling) applies too where `process` says nothing of it.
    ///
    /// Forks: a caller with more than one thread is refused.
    pub fn exec(&self, id: &str, process: &Process, options: ExecOptions) -> Result<Pending, Error> {
        exec::exec(self.container(id)?, process.clone(), None, options)
    }

    /// What an execution takes from the container; for [`exec_from`](Self::exec_from).
    pub(crate) fn template(&self, id: &str) -> Result<Template, Error> {
        Template::read(&self.container(id)?)
    }

    /// As [`exec`](Self::exec), for who has read the template already.
    pub(crate) fn exec_from(
        &self,
        id: &str,
        template: Template,
        process: Process,
        options: ExecOptions,
    ) -> Result<Pending, Error> {
        exec::exec(self.container(id)?, process, Some(template), options)
    }

    /// Lets the user's program of a created container begin.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        start::start(&self.container(id)?)
    }

    /// Sends a signal (any number the kernel knows) to the init, or to all of the container's processes.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        kill::kill(&self.container(id)?, signal, all)
    }

    /// Stops all processes of a created or running container where they are.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        pause::pause(&self.container(id)?)
    }

    /// Lets the processes of a paused container go on.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        pause::resume(&self.container(id)?)
    }

    /// Sets other limits. What is not given stays as it is, and so do device rules.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), Error> {
        update::update(&self.container(id)?, resources)
    }

    /// Sets other shares of the cache and of memory bandwidth (Intel RDT) for a container that was made with some.
    pub fn update_rdt(&self, id: &str, cache: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
        update::update_rdt(&self.container(id)?, cache, bandwidth)
    }

    /// Watches for processes of the container that are killed because its memory limit was reached.
    pub fn oom_watch(&self, id: &str) -> Result<OomWatch, Error> {
        OomWatch::new(&self.container(id)?.record()?.cgroup)
    }

    /// Removes all that is left of a stopped container; with `force`, ends a living one first and
    /// is content when there is none.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        delete::delete(&self.container(id)?, force)
    }

    /// Writes a running container's processes to files; unless it is to go on, it is deleted.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<(), Error> {
        checkpoint::checkpoint(&self.container(id)?, options)
    }

    /// Makes a container of what a checkpoint has left. Of its hooks, those of kind `prestart` and `createRuntime` run again.
    ///
    /// Forks: a caller with more than one thread is refused.
    pub fn restore(&self, id: &str, bundle: &Path, options: RestoreOptions) -> Result<Pending, Error> {
        restore::restore(self.container(id)?, self.driver, bundle, options)
    }

    /// The container's state, derived from what is alive now.
    pub fn state(&self, id: &str) -> Result<State, Error> {
        query::state(&self.container(id)?)
    }

    /// What a supervisor wants to know of the container's specification again and again.
    pub fn traits(&self, id: &str) -> Result<Traits, Error> {
        query::traits(&self.container(id)?)
    }

    /// All containers under this root, sorted by id.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        query::list(&self.root)
    }

    /// Every process in the container's cgroup and below, by its pid in the caller's pid namespace.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Error> {
        query::pids(&self.container(id)?)
    }

    /// What the container uses now.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        query::stats(&self.container(id)?)
    }

    /// The `config.json` as it was at create; the bundle may have changed since.
    pub fn spec(&self, id: &str) -> Result<Spec, Error> {
        self.container(id)?.spec()
    }

    /// Where the socket is to be bound that the container tells its readiness to (sd_notify(3)); `None` if it was
    /// created without [`CreateOptions::notify_socket`].
    pub fn notify_socket(&self, id: &str) -> Result<Option<PathBuf>, Error> {
        let dir = self.container(id)?.notify_dir();
        Ok(dir.exists().then(|| dir.join(NOTIFY_SOCKET)))
    }

    fn container(&self, id: &str) -> Result<Container, Error> {
        let root = std::path::absolute(&self.root).map_err(|error| Error::io("find the working directory", error))?;
        Container::new(&root, id)
    }
}
