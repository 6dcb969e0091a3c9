//! A container: its init, its execs, and what pea keeps of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use oci_spec::runtime::Process as ProcessSpec;

use super::oom::{Oom, Ooms};
use super::process::{Phase, Process};
use crate::error::Error;
use crate::options::TaskOptions;
use crate::reap::Exit;
use crate::{mount, record};

/// How a process ends that the kernel kills.
const KILLED: u32 = 128 + libc::SIGKILL as u32;

/// An exec that has been registered.
#[derive(Clone)]
pub struct Exec {
    /// Its process.
    pub process: Arc<Process>,
    /// What to run.
    pub spec: Arc<ProcessSpec>,
}

/// One container of the pod.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its init.
    pub init: Arc<Process>,
    /// Where pea keeps it.
    pub record: record::Task,
    /// The record's copy in the shim's bundle.
    pub pod_record: Option<PathBuf>,
    /// pea.
    pub runtime: pea::Runtime,
    /// The options it was created with.
    pub options: TaskOptions,
    /// The images it is restored from.
    pub checkpoint: Option<PathBuf>,
    /// Held while the program is being started, so that its end is not told before its start.
    pub starting: tokio::sync::Mutex<()>,
    execs: Mutex<BTreeMap<String, Exec>>,
    oom: OnceLock<Oom>,
    paused: AtomicBool,
}

impl Container {
    /// A container of which nothing exists yet.
    pub fn new(init: Process, record: record::Task, pod_record: Option<PathBuf>, options: TaskOptions) -> Self {
        Self {
            id: init.container.clone(),
            init: Arc::new(init),
            runtime: record.runtime(),
            record,
            pod_record,
            options,
            checkpoint: None,
            starting: tokio::sync::Mutex::default(),
            execs: Mutex::default(),
            oom: OnceLock::new(),
            paused: AtomicBool::new(false),
        }
    }

    /// The same, whose processes will come from those images.
    pub fn restored_from(self, images: Option<PathBuf>) -> Self {
        Self { checkpoint: images, ..self }
    }

    /// Writes the records, before anything is made that would have to be cleared up.
    pub fn write_records(&self) -> Result<(), Error> {
        if let Some(path) = &self.pod_record {
            record::write_in_pod(path, &self.record)?;
        }
        record::remove(&self.record.bundle.join(record::EXIT))?;
        record::write(&self.record.bundle.join(record::TASK), &self.record)
    }

    /// Removes all that exists of the container: processes, control groups, mounts, records. Does
    /// what can be done, and returns the first thing that could not.
    pub fn remove(&self) -> Result<(), Error> {
        let deleted = self.runtime.delete(&self.id, true).map_err(Error::from);
        let unmounted = mount::unmount(&self.record.bundle.join("rootfs"));
        deleted.and(unmounted)?;
        self.pod_record.as_deref().map_or(Ok(()), record::remove)
    }

    /// Whether it has ended, and somebody else has deleted it.
    pub fn was_cleared(&self) -> bool {
        let is_gone = || self.runtime.state(&self.id).map_err(Error::from).is_err_and(|error| error.is_not_found());
        self.init.phase() == Phase::Stopped && is_gone()
    }

    /// Begins to watch for processes that are killed for want of memory, if memory is counted.
    pub fn watch_oom(&self, ooms: &Ooms) -> Result<(), Error> {
        if let Some(oom) = ooms.watch(&self.runtime, &self.id)? {
            // Done once, when the container has just been built.
            let _ = self.oom.set(oom);
        }
        Ok(())
    }

    /// Tells of such processes now, if there are any of which it was not told.
    pub fn tell_oom(&self) {
        if let Some(oom) = self.oom.get() {
            oom.tell();
        }
    }

    /// The same at the end of the init, before its end is told.
    pub fn tell_last_oom(&self, exit: Exit) {
        match self.oom.get() {
            Some(oom) if exit.status == KILLED && !self.init.was_killed() => oom.tell_end(),
            Some(oom) => oom.tell(),
            None => {}
        }
    }

    /// Whether its processes are frozen at a client's wish.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Keeps in mind whether they are.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether its processes die with its init, by the kernel's doing.
    pub fn owns_pid_namespace(&self) -> bool {
        self.runtime.traits(&self.id).is_ok_and(|traits| traits.own_pid_namespace)
    }

    /// Whether other programs run when its own is started. They may take their time.
    pub fn has_start_hooks(&self) -> bool {
        self.runtime.traits(&self.id).is_ok_and(|traits| traits.start_hooks)
    }

    /// The init, or the exec of that id.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, Error> {
        if exec_id.is_empty() { Ok(self.init.clone()) } else { Ok(self.exec(exec_id)?.process) }
    }

    /// The exec of that id.
    pub fn exec(&self, exec_id: &str) -> Result<Exec, Error> {
        let found = self.execs().get(exec_id).cloned();
        found.ok_or_else(|| Error::not_found(format!("exec {exec_id} of container {} does not exist", self.id)))
    }

    /// Registers an exec.
    pub fn add_exec(&self, exec: Exec) -> Result<(), Error> {
        let id = exec.process.exec_id.clone();
        let mut execs = self.execs();
        if execs.contains_key(&id) {
            return Err(Error::exists(format!("exec {id} of container {} exists already", self.id)));
        }
        execs.insert(id, exec);
        Ok(())
    }

    /// Forgets an exec.
    pub fn forget_exec(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// Tells whoever waits for an exec that was never started that it never will be.
    pub fn drop_execs(&self) {
        for exec in std::mem::take(&mut *self.execs()).into_values() {
            // Refused for an exec that has ended: its waiters know already.
            let _ = exec.process.enter(Phase::Deleted);
        }
    }

    /// The processes of the execs that are being built or run.
    pub fn live_execs(&self) -> Vec<Arc<Process>> {
        let live = |process: &Arc<Process>| matches!(process.phase(), Phase::Building | Phase::Running);
        self.execs().values().map(|exec| exec.process.clone()).filter(live).collect()
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
