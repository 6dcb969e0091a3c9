//! `Exec` and the start of one.

use std::sync::Arc;

use containerd_shim_protos::api::ExecProcessRequest;
use containerd_shim_protos::events::task as event;

use super::build::{Surroundings, build};
use super::container::{Container, Exec};
use super::process::{Phase, Process};
use crate::error::Error;
use crate::events::Event;
use crate::options;
use crate::pod::Pod;
use crate::reap::Exit;
use crate::stdio::Stdio;
use crate::wire;

/// Registers a process to run later.
pub fn add(pod: &Pod, request: &ExecProcessRequest) -> Result<(), Error> {
    let container = pod.container(&request.id)?;
    if request.exec_id.is_empty() {
        return Err(Error::invalid("an exec needs an id"));
    }
    if container.init.phase() != Phase::Running && container.init.phase() != Phase::Created {
        return Err(Error::precondition(format!("container {} is not running", container.id)));
    }
    let mut spec = options::process_of_any(request.spec.as_ref())?;
    spec.set_terminal(Some(request.terminal));
    let process = Arc::new(Process::new(&request.id, &request.exec_id, Stdio::from(request)));
    container.add_exec(Exec { process, spec: Arc::new(spec) })?;
    pod.events.publish(&Event::ExecAdded(event::TaskExecAdded {
        container_id: request.id.clone(),
        exec_id: request.exec_id.clone(),
        ..Default::default()
    }));
    Ok(())
}

/// Runs a registered process.
pub async fn start(pod: &Pod, container: &Arc<Container>, exec_id: &str) -> Result<i32, Error> {
    let Exec { process, spec } = container.exec(exec_id)?;
    process.enter(Phase::Building)?;
    let built = build(&process, Surroundings::of(pod, container), |ends, console_socket| {
        let options = pea::ExecOptions {
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            console_socket,
            ..Default::default()
        };
        container.runtime.exec(&container.id, &spec, options)
    });
    let child = match built.await {
        Ok(child) => child,
        Err(error) => {
            // Nothing ran, so no event tells of an end; but whoever waits must not wait for ever.
            process.ended(Exit::now(255));
            return Err(error);
        }
    };
    process.enter(Phase::Running)?;
    pod.events.publish(&Event::ExecStarted(event::TaskExecStarted {
        container_id: container.id.clone(),
        exec_id: exec_id.to_owned(),
        pid: wire::pid(Some(child.pid)),
        ..Default::default()
    }));
    super::watch(pod.clone(), container.clone(), process, child.clone());
    Ok(child.pid)
}
