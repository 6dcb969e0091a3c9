//! Taking a pod down: gracefully, at once, or what is left of one. From what is on disk, and as often as it is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pea_shim::client::{Error as ShimError, Exit, Shim, TaskStatus};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::driver::ended;
use super::launch::retire;
use super::lock::{kill_holders, signal_keeper};
use super::sandbox::{SHIM_NAMESPACE, answer, netns};
use super::{Desired, Phase, Places, PodLock, Record, Registry, Role, Sandbox, State, Status, task_id};
use crate::error::{Error, Result, ShimContext};
use crate::network::Attachment;
use crate::volume;

/// How long to wait for whoever drives the pod, and for what it had started: a plugin has 60 s.
const LOCK_DEADLINE: Duration = Duration::from_secs(90);

/// How long one who removes a pod by force waits for them before killing them: a plugin whose keeper was killed has
/// nobody else to do it.
const PATIENCE: Duration = Duration::from_secs(65);

/// How long a container may take to go after SIGKILL. More means that the kernel holds it in a system call.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// Stops a pod: SIGTERM, and SIGKILL after the grace period (that of the manifest when `grace` is `None`). Nothing
/// of the pod is left but its record, status, logs and volumes on disk.
pub async fn stop(places: &Places, grace: Option<Duration>) -> Result<()> {
    let mut record = Record::load(places)?;
    record.set_desired(places, Desired::Stopped)?;
    let _lock = seize(places, &record, Signal::TERM)?;
    let mut status = Status::load(places, &record)?;
    let sandbox = status.sandbox.clone();
    let mut errors = Vec::new();
    if let Some(sandbox) = &sandbox
        && let Ok(shim) = Shim::connect(&sandbox.address).await
    {
        let grace = grace.unwrap_or(record.pod.termination_grace);
        errors.extend(end_containers(places, &record, &mut status, &shim, grace).await.err());
    }
    errors.extend(take_down(places, &record, sandbox.as_ref()).await.err());
    close(&mut status);
    errors.extend(status.store(places).err());
    Error::collect(errors)
}

/// Removes a pod with everything of it. With `force`, whatever state it is in, and even if it is not there.
pub async fn remove(places: &Places, force: bool) -> Result<()> {
    let mut record = match Record::load(places) {
        Err(Error::NoSuchPod(_)) if force => return Registry::open(&places.settings).map(|_| ()),
        record => record?,
    };
    let status = Status::load(places, &record)?;
    // Not what is desired counts: a stop may be under way still, or have been cut off.
    if !force && !status.phase.is_final() {
        return Err(Error::StillRunning(places.key.clone()));
    }
    let signal = if force { Signal::KILL } else { Signal::TERM };
    let seized = record.set_desired(places, Desired::Stopped).and_then(|()| seize(places, &record, signal));
    let _lock = match seized {
        // Another rm was faster.
        Err(Error::NoSuchPod(_)) if force => return Ok(()),
        lock => lock?,
    };
    erase(places, &record).await
}

/// Takes the pod down at once and removes all there is of it. The record goes last, and only when nothing is left that
/// it would be needed for. Whoever calls this holds the pod's lock.
pub async fn erase(places: &Places, record: &Record) -> Result<()> {
    let down = take_down(places, record, None).await;
    let volumes = volume::remove(&places.volumes(&record.uid)).map_err(Error::from);
    let logs = volume::remove_tree(&places.logs(&record.uid)).map_err(Error::from);
    Error::collect([down, volumes, logs].into_iter().filter_map(Result::err).collect())?;
    Registry::open(&places.settings)?.erase(places, &record.uid)
}

/// Takes the pod out of the hands of whoever drives it: a keeper is sent `signal`, a command is waited for.
///
/// What is desired was written before, so no other keeper is started in between.
fn seize(places: &Places, record: &Record, signal: Signal) -> Result<PodLock> {
    let path = places.lock();
    let taken = match PodLock::try_take(&path) {
        Ok(None) => {
            signal_keeper(&path, signal);
            wait(&path, signal == Signal::KILL)
        }
        Ok(Some(lock)) => Ok(lock),
        Err(error) => Err(error),
    };
    let mut lock = taken.map_err(|error| match error {
        // Removed while we were on our way.
        error if error.is_missing_file() => Error::NoSuchPod(places.key.clone()),
        error => error,
    })?;
    lock.hold_as(Role::Command)?;
    // The name may have gone over to another pod while we waited.
    if Record::load(places)?.uid != record.uid {
        return Err(Error::NoSuchPod(places.key.clone()));
    }
    Ok(lock)
}

/// Waits for the lock at `path`. By force, whoever still holds it when every plugin should be done is killed.
fn wait(path: &Path, force: bool) -> Result<PodLock> {
    match PodLock::take(path, if force { PATIENCE } else { LOCK_DEADLINE }) {
        Err(Error::Busy { .. }) if force => {
            kill_holders(path);
            PodLock::take(path, KILL_DEADLINE)
        }
        taken => taken,
    }
}

/// Takes away everything of the kernel's that a pod has: containers, namespaces, network, cgroups, mounts. All that can
/// be done is done; what went wrong is returned together.
///
/// With a `sandbox` its shim is asked, as long as it answers; without, the shim is killed first, whatever it is doing.
pub async fn take_down(places: &Places, record: &Record, sandbox: Option<&Sandbox>) -> Result<()> {
    let mut errors = Vec::new();
    let shim = match sandbox {
        Some(sandbox) => Shim::connect(&sandbox.address).await.ok(),
        None => None,
    };
    if shim.is_none() {
        errors.extend(sweep(places, record).err());
    }
    // The plugins get the namespace while there is one: some have something to undo inside.
    let inside: Option<PathBuf> = shim.as_ref().and(sandbox).map(netns).filter(|path| path.exists());
    match Attachment::load(&places.network()) {
        Ok(Some(attachment)) => {
            let dirs = &places.settings.cni_bin_dir;
            errors.extend(attachment.remove(&places.network(), dirs, inside.as_deref()).await.err());
        }
        Ok(None) => {}
        Err(error) => errors.push(error),
    }
    if let Some(shim) = shim {
        errors.extend(shut_down(places, record, &shim).await.err());
        errors.extend(sweep(places, record).err());
    }
    errors.extend(volume::unmount(&places.volumes(&record.uid)).err().map(Error::from));
    if errors.is_empty() {
        let containers = places.dir.join("containers");
        let trees = [places.socket(&record.uid), places.bundle(), places.pea(), containers, places.io()];
        errors.extend(trees.iter().filter_map(|tree| volume::remove_tree(tree).err()).map(Error::from));
    }
    Error::collect(errors)
}

/// Ends the sandbox and the shim by asking.
async fn shut_down(places: &Places, record: &Record, shim: &Shim) -> Result<()> {
    let doing = || format!("ending the sandbox of pod {}", places.key);
    let gone = |result: Result<()>| match result {
        // It ends while it answers, or had ended: that is what was asked for.
        Err(Error::Shim { source: ShimError::Closed(_) | ShimError::NotFound(_), .. }) => Ok(()),
        other => other,
    };
    gone(answer(doing, shim.stop_sandbox(&record.uid, KILL_DEADLINE)).await)?;
    gone(answer(doing, shim.shutdown_sandbox(&record.uid)).await)
}

/// Ends and removes what is left of the shim and its containers, without asking any of them.
fn sweep(places: &Places, record: &Record) -> Result<()> {
    if !places.bundle().exists() {
        return Ok(());
    }
    pea_shim::client::delete(places.settings.shim()?, &places.bundle(), SHIM_NAMESPACE, &record.uid)
        .map(|_| ())
        .asking(|| format!("clearing up after the shim of pod {}", places.key))
}

/// Ends every container: SIGTERM to all at once, SIGKILL to those that are left after `grace`.
async fn end_containers(
    places: &Places,
    record: &Record,
    status: &mut Status,
    shim: &Shim,
    grace: Duration,
) -> Result<()> {
    let mut ends = JoinSet::new();
    for (name, attempt) in alive(status, shim).await {
        let shim = shim.clone();
        ends.spawn(async move {
            let exit = end_one(&shim, &task_id(&name, attempt), grace).await;
            (name, attempt, exit)
        });
    }
    let mut errors = Vec::new();
    while let Some(joined) = ends.join_next().await {
        let Ok((name, attempt, exit)) = joined else { continue };
        let exit = match exit {
            Ok(exit) => Some(exit),
            // The shim has died on the way, and the sweep that follows ends what it held.
            Err(ShimError::Closed(_)) => None,
            Err(source) => {
                errors.push(Error::Shim { doing: format!("ending container {name}"), source });
                None
            }
        };
        if let Some(container) = status.container_mut(&name) {
            if !container.is_running() {
                container.begin(attempt, jiff::Timestamp::now());
            }
            let ended = ended(&container.state, exit, false);
            container.end(ended);
            container.done = true;
        }
        match retire(places, record, shim, &name, attempt).await {
            Ok(()) | Err(Error::Shim { source: ShimError::Closed(_), .. }) => {}
            Err(error) => errors.push(error),
        }
    }
    Error::collect(errors)
}

/// The runs that the shim knows and that have not been seen to end: the one noted, or the next one, if the keeper was
/// told to leave between starting it and noting it.
async fn alive(status: &Status, shim: &Shim) -> Vec<(String, u32)> {
    let mut alive = Vec::new();
    for (_, container) in status.all() {
        for attempt in container.attempt.into_iter().chain([container.next_attempt()]) {
            let noted_end = matches!(container.state, State::Terminated(_)) && container.attempt == Some(attempt);
            let state = shim.state(&task_id(&container.name, attempt), None).await;
            if !noted_end && state.is_ok_and(|state| state.status != TaskStatus::Unknown) {
                alive.push((container.name.clone(), attempt));
            }
        }
    }
    alive
}

async fn end_one(shim: &Shim, id: &str, grace: Duration) -> std::result::Result<Exit, ShimError> {
    let wait = async |deadline: Duration| timeout_at(Instant::now() + deadline, shim.wait(id, None)).await.ok();
    if !grace.is_zero() {
        ask(shim, id, nix::libc::SIGTERM).await?;
        if let Some(exit) = wait(grace).await {
            return exit;
        }
    }
    ask(shim, id, nix::libc::SIGKILL).await?;
    wait(KILL_DEADLINE).await.unwrap_or_else(|| {
        Err(ShimError::Failed(format!("it has not gone {} s after SIGKILL", KILL_DEADLINE.as_secs())))
    })
}

/// Sends a signal to a container's first process; one that has ended is as good as hit.
async fn ask(shim: &Shim, id: &str, signal: i32) -> std::result::Result<(), ShimError> {
    match shim.kill(id, None, signal.unsigned_abs(), signal == nix::libc::SIGKILL).await {
        Err(ShimError::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// The status of a pod that was stopped.
fn close(status: &mut Status) {
    if status.phase.is_final() {
        return;
    }
    status.sandbox = None;
    status.addresses = Vec::new();
    for container in status.all_mut() {
        if container.is_running() {
            let ended = ended(&container.state, None, false);
            container.end(ended);
        }
        if let (State::Waiting { .. }, Some(last)) = (&container.state, container.last.clone()) {
            container.end(last);
        }
        container.due = None;
        container.done = true;
    }
    status.phase = status.verdict().unwrap_or(Phase::Failed);
    status.reason = Some("Stopped".to_owned());
}
