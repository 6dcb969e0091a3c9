//! `Delete`: of an ended exec, or of an ended init and with it the container.

use containerd_shim_protos::events::task as event;

use super::container::Container;
use super::process::{Phase, Process};
use crate::aside::aside;
use crate::error::Error;
use crate::events::Event;
use crate::pod::Pod;
use crate::reap::Exit;
use crate::wire;

/// Deletes a process, after its output has been written out. Returns its pid and how it ended.
pub async fn delete(pod: &Pod, id: &str, exec_id: &str) -> Result<(Option<i32>, Option<Exit>), Error> {
    let container = pod.container(id)?;
    let process = container.process(exec_id)?;
    if exec_id.is_empty() && process.phase() == Phase::Created {
        // A container that was never started is ended by its delete, as by `runc delete`.
        process.signal(libc::SIGKILL)?;
        process.wait().await?;
    }
    process.enter(Phase::Deleted)?;
    drain(&process).await;
    let (pid, exit) = (process.pid(), process.exit());
    if !exec_id.is_empty() {
        container.forget_exec(exec_id);
        return Ok((pid, exit));
    }
    if let Err(error) = aside(pod, || container.remove()).await {
        process.enter(Phase::Stopped)?;
        return Err(error);
    }
    container.drop_execs();
    pod.forget(id);
    pod.events.publish(&Event::Delete(deleted(&container, pid, exit)));
    Ok((pid, exit))
}

/// Waits for the end of a process's output.
pub async fn drain(process: &Process) {
    if let Some(streams) = process.take_streams() {
        streams.drain(&process.name()).await;
    }
}

fn deleted(container: &Container, pid: Option<i32>, exit: Option<Exit>) -> event::TaskDelete {
    event::TaskDelete {
        container_id: container.id.clone(),
        pid: wire::pid(pid),
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: wire::exited_at(exit),
        ..Default::default()
    }
}
