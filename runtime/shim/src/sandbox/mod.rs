//! A pod's sandbox: the namespaces its containers share, held by this very process.
//!
//! A process with a single thread can enter namespaces as a whole, so the shim itself keeps the
//! pod's IPC, UTS and network namespaces alive and no pause process is needed. Only a PID namespace and
//! a user namespace want a process of their own: a tiny [init](init).

pub(crate) mod cri;
pub(crate) mod files;
mod init;
mod namespaces;
mod options;
mod seclusion;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use tokio::sync::watch;

pub use options::{Dns, IdRange, Namespace, PodFiles, SandboxOptions, Users};

use crate::aside::aside;
use crate::error::Error;
use crate::pod::Pod;
use crate::reap::{Child, Exit};
use crate::task::{Container, Phase};
use crate::{log, record};

/// How long the killed processes of a pod may take to end when the request gives no time.
const END: Duration = Duration::from_secs(10);

/// A sandbox. It is there from `CreateSandbox` to `ShutdownSandbox`.
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// What it was created with.
    pub options: SandboxOptions,
    /// When it was created.
    pub created_at: jiff::Timestamp,
    init: Option<Child>,
    /// From the first request to stop it on: what is taken in after that would not be among those that are ended.
    stopping: AtomicBool,
    exit: watch::Sender<Option<Exit>>,
}

impl Sandbox {
    /// `/proc/<pid>/ns/*` are the pod's namespaces.
    pub fn pid(&self) -> u32 {
        match &self.init {
            Some(init) => crate::wire::pid(Some(init.pid)),
            None => std::process::id(),
        }
    }

    /// How and when it ended, once it has been stopped or its init has died.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for that.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let seen = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        seen.unwrap_or_else(|| Exit::now(0))
    }

    /// Refuses once it has ended, or is being ended.
    pub fn expect_going_on(&self) -> Result<(), Error> {
        let over = match (self.exit(), self.stopping.load(Ordering::Relaxed)) {
            (None, false) => return Ok(()),
            (None, true) => "is being stopped",
            (Some(_), _) => "has ended",
        };
        Err(Error::precondition(format!("sandbox {} {over}", self.id)))
    }

    fn end(&self, exit: Exit) {
        self.exit.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(exit);
            first
        });
    }
}

/// The pod's sandbox, if it has that id.
pub fn find(pod: &Pod, id: &str) -> Result<Arc<Sandbox>, Error> {
    pod.rest.worked();
    let sandbox = pod.sandbox().filter(|sandbox| sandbox.id == id);
    sandbox.ok_or_else(|| Error::not_found(format!("sandbox {id} does not exist")))
}

/// Makes the pod's namespaces.
pub fn create(pod: &Pod, request: &CreateSandboxRequest) -> Result<(), Error> {
    pod.expect_open()?;
    if let Some(sandbox) = pod.sandbox() {
        return Err(Error::exists(format!("sandbox {} exists already in this shim", sandbox.id)));
    }
    let options = match request.options.as_ref().filter(|any| !any.type_url.is_empty()) {
        None => SandboxOptions::default(),
        Some(any) if any.type_url == SandboxOptions::TYPE_URL => SandboxOptions::from_any(any)?,
        Some(any) if cri::is_type_of(any) => cri::read(any)?,
        Some(any) => {
            return Err(Error::unimplemented(format!("sandbox options of type {:?} are not served", any.type_url)));
        }
    };
    options.check()?;
    let plan = namespaces::Plan::of(&options, &request.netns_path)?;
    // On disk before anything exists: whoever clears up after a kill finds the cgroup and the containers by it.
    record::write(&pod.bundle().join(record::SANDBOX), &options)?;
    if let Some(files) = &options.files {
        // What is mounted by then goes with the bundle, by its `delete`.
        files::make(pod.bundle(), files, options.users.as_ref().map(Users::root).transpose()?)?;
    }
    let init = hold(pod, plan, &options)?;
    let sandbox = Arc::new(Sandbox {
        id: request.sandbox_id.clone(),
        options,
        created_at: jiff::Timestamp::now(),
        init,
        stopping: AtomicBool::new(false),
        exit: watch::Sender::new(None),
    });
    pod.set_sandbox(Some(sandbox.clone()));
    if sandbox.init.is_some() {
        tokio::spawn(watch_init(sandbox));
    }
    Ok(())
}

/// Makes or enters the namespaces; the init is there when it is not this process that holds all of them.
fn hold(pod: &Pod, plan: namespaces::Plan, options: &SandboxOptions) -> Result<Option<Child>, Error> {
    let own_pids = options.has(Namespace::Pid);
    let _forking = pod.reaper.forking();
    let pid = match &options.users {
        Some(users) => users::spawn(plan, users, own_pids)?,
        None => {
            pod.keep_node(namespaces::of_the_node()?);
            plan.enter()?.set()?;
            if !own_pids {
                return Ok(None);
            }
            let spawned = init::spawn();
            spawned.map_err(|source| Error::io("start the pod's init in a new PID namespace", source))?
        }
    };
    pod.reaper.track(pid).map(Some)
}

async fn watch_init(sandbox: Arc<Sandbox>) {
    let Some(init) = &sandbox.init else { return };
    let exit = init.exit().await;
    sandbox.end(exit);
}

/// Kills all that runs in the pod, and ends its init. May be asked for again. From its beginning on no container is taken in.
pub async fn stop(pod: &Pod, sandbox: &Sandbox, timeout: Option<Duration>) -> Result<(), Error> {
    let deadline = timeout.unwrap_or(END);
    sandbox.stopping.store(true, Ordering::Relaxed);
    let containers = pod.containers();
    for container in &containers {
        kill(container);
        crate::task::let_die(pod, container).await;
    }
    let all_ended = async {
        for container in &containers {
            let _ = container.init.wait().await;
        }
    };
    let ended = tokio::time::timeout(deadline, all_ended).await;
    if let Some(init) = &sandbox.init
        && sandbox.exit().is_none()
    {
        init.signal(libc::SIGKILL).map_err(|source| Error::io("end the pod's init", source))?;
        let _ = tokio::time::timeout(deadline, sandbox.wait()).await;
    }
    sandbox.end(Exit::now(0));
    ended.map_err(|_| {
        let alive = containers.iter().filter(|container| container.init.exit().is_none());
        let alive: Vec<&str> = alive.map(|container| container.id.as_str()).collect();
        Error::internal(format!("still running {}s after SIGKILL: {}", deadline.as_secs(), alive.join(", ")))
    })
}

fn kill(container: &Container) {
    if matches!(container.init.phase(), Phase::Stopped | Phase::Deleted) {
        return;
    }
    match container.init.signal(libc::SIGKILL) {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => log::error(error),
    }
}

/// Removes all that the pod has left, and ends the shim.
///
/// # Errors
/// When something could not be removed; the shim then lives on, and may be asked again.
pub async fn shutdown(pod: &Pod, sandbox: &Sandbox) -> Result<(), Error> {
    let mut failures = Vec::new();
    if sandbox.exit().is_none()
        && let Err(error) = stop(pod, sandbox, None).await
    {
        failures.push(error.to_string());
    }
    for container in pod.containers() {
        crate::task::drain(&container.init).await;
        match aside(pod, || container.remove()).await {
            Ok(()) => {
                container.drop_execs();
                pod.forget(&container.id);
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    if let Some(parent) = &sandbox.options.cgroup_parent {
        let remove = || Ok(pea::cgroup::kill_tree(parent).and_then(|()| pea::cgroup::remove_tree(parent))?);
        failures.extend(aside(pod, remove).await.err().map(|error| error.to_string()));
    }
    failures.extend(files::remove(pod.bundle()).err().map(|error| error.to_string()));
    if !failures.is_empty() {
        return Err(Error::internal(failures.join("; ")));
    }
    // Once containerd has the answer it runs `delete`, and that kills a shim that has not ended yet.
    pod.events.flush().await;
    record::remove(&pod.bundle().join(record::SANDBOX))?;
    pod.set_sandbox(None);
    pod.quit_if_idle();
    Ok(())
}
