//! What is done to a container that lives: `Kill`, `Pause`, `Resume`, `Update`, `Checkpoint`.

use containerd_shim_protos::api::{CheckpointTaskRequest, KillRequest, UpdateTaskRequest};
use containerd_shim_protos::events::task as event;

use super::container::Container;
use super::process::{Phase, signal_number};
use crate::aside::aside;
use crate::error::Error;
use crate::events::Event;
use crate::options;
use crate::pod::Pod;

/// Sends a signal to one process, or with `all` to every process of the container.
///
/// # Errors
/// `NotFound` once the process has ended.
pub async fn kill(pod: &Pod, request: &KillRequest) -> Result<(), Error> {
    let signal = signal_number(request.signal)?;
    let container = pod.container(&request.id)?;
    let process = container.process(&request.exec_id)?;
    let is_there = process.pid().is_some() && matches!(process.phase(), Phase::Created | Phase::Running);
    if request.all && request.exec_id.is_empty() && is_there {
        process.note(signal);
        kill_all(pod, &container, signal).await?;
    } else {
        process.signal(signal)?;
    }
    if signal == libc::SIGKILL {
        let_die(pod, &container).await;
    }
    Ok(())
}

/// Sends a signal to every process of a container. They are frozen for it, which may take some of them a while.
pub async fn kill_all(pod: &Pod, container: &Container, signal: i32) -> Result<(), Error> {
    aside(pod, || Ok(container.runtime.kill(&container.id, signal, true)?)).await
}

/// Lets the killed processes of a paused container go on: the freezer of cgroup v1 would keep them from dying.
pub async fn let_die(pod: &Pod, container: &Container) {
    if container.is_paused() {
        // The container may be gone by now: then all is well.
        let _ = aside(pod, || Ok(container.runtime.resume(&container.id)?)).await;
        container.set_paused(false);
    }
}

/// Stops all processes of a container where they are.
pub async fn pause(pod: &Pod, id: &str) -> Result<(), Error> {
    let container = running(pod, id)?;
    aside(pod, || Ok(container.runtime.pause(id)?)).await?;
    container.set_paused(true);
    let paused = event::TaskPaused { container_id: id.to_owned(), ..Default::default() };
    pod.events.publish(&Event::Paused(paused));
    Ok(())
}

/// Lets a paused container go on.
pub async fn resume(pod: &Pod, id: &str) -> Result<(), Error> {
    let container = running(pod, id)?;
    aside(pod, || Ok(container.runtime.resume(id)?)).await?;
    container.set_paused(false);
    let resumed = event::TaskResumed { container_id: id.to_owned(), ..Default::default() };
    pod.events.publish(&Event::Resumed(resumed));
    Ok(())
}

/// Sets other limits.
pub async fn update(pod: &Pod, request: &UpdateTaskRequest) -> Result<(), Error> {
    let container = pod.container(&request.id)?;
    let resources = options::resources_of_any(request.resources.as_ref())?;
    aside(pod, || Ok(container.runtime.update(&request.id, &resources)?)).await
}

/// Writes the container's processes to files, by means of CRIU.
pub async fn checkpoint(pod: &Pod, request: &CheckpointTaskRequest) -> Result<(), Error> {
    let container = running(pod, &request.id)?;
    let options = options::checkpoint_options(request, &container.options, &container.record.bundle)?;
    aside(pod, || Ok(container.runtime.checkpoint(&request.id, &options)?)).await?;
    let checkpointed = event::TaskCheckpointed {
        container_id: request.id.clone(),
        checkpoint: options.criu.images.display().to_string(),
        ..Default::default()
    };
    pod.events.publish(&Event::Checkpointed(checkpointed));
    Ok(())
}

fn running(pod: &Pod, id: &str) -> Result<std::sync::Arc<Container>, Error> {
    let container = pod.container(id)?;
    container.init.expect(Phase::Running)?;
    Ok(container)
}
