//! Containers and their processes: what the Task API's verbs do.
//!
//! The order of things is a contract with containerd. It is kept by where events are published:
//! `create` before the init is watched, `start` and `exec-started` before anything else may run
//! (there is one thread and no `await` between pea's answer and the event), an exec's `exit`
//! before its init's, and the init's last.

mod build;
mod container;
mod control;
mod create;
mod delete;
mod exec;
mod oom;
mod process;
mod restore;

use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::events::task as event;

use crate::events::Event;
use crate::pod::Pod;
use crate::reap::{Child, Exit};
use crate::{log, record, wire};

pub use container::Container;
pub use control::{checkpoint, kill, let_die, pause, resume, update};
pub use create::create;
pub use delete::{delete, drain};
pub use exec::add as add_exec;
pub use oom::Ooms;
pub use process::{Phase, Process};

use crate::aside::aside;
use crate::error::Error;
use build::unless_cancelled;

/// How long the hooks of a start may outlast the program.
const HOOKS: Duration = Duration::from_secs(5);

/// Starts the program of a created container, or a registered exec.
pub async fn start(pod: &Pod, id: &str, exec_id: &str) -> Result<i32, Error> {
    let container = pod.container(id)?;
    if !exec_id.is_empty() {
        return exec::start(pod, &container, exec_id).await;
    }
    let init = &container.init;
    let _order = container.starting.lock().await;
    init.expect(Phase::Created)?;
    if let Some(images) = &container.checkpoint {
        let child = restore::restore(pod, &container, images).await?;
        let pid = started(pod, init)?;
        watch(pod.clone(), container.clone(), init.clone(), child);
        return Ok(pid);
    }
    if container.has_start_hooks() {
        let start = aside(pod, || Ok(container.runtime.start(id)?));
        unless_cancelled(init, start).await?;
    } else {
        container.runtime.start(id)?;
    }
    started(pod, init)
}

/// The init runs, and everybody may know.
fn started(pod: &Pod, init: &Process) -> Result<i32, Error> {
    init.enter(Phase::Running)?;
    let pid = init.pid();
    pod.events.publish(&Event::Start(event::TaskStart {
        container_id: init.container.clone(),
        pid: wire::pid(pid),
        ..Default::default()
    }));
    Ok(pid.unwrap_or(0))
}

/// Waits for a process's end in the background, and tells of it.
fn watch(pod: Pod, container: Arc<Container>, process: Arc<Process>, child: Arc<Child>) {
    tokio::spawn(async move {
        let exit = child.exit().await;
        let is_init = process.exec_id.is_empty();
        if is_init {
            end_start(&container).await;
            // At once: systemd may be about to remove what there is to read.
            container.tell_last_oom(exit);
            end_container(&pod, &container, &process, exit).await;
        } else {
            container.tell_oom();
        }
        process.ended(exit);
        pod.events.publish(&Event::Exit(event::TaskExit {
            container_id: container.id.clone(),
            id: if is_init { container.id.clone() } else { process.exec_id.clone() },
            pid: wire::pid(Some(child.pid)),
            exit_status: exit.status,
            exited_at: wire::exited_at(Some(exit)),
            ..Default::default()
        }));
        if is_init {
            pod.has_ended();
        }
    });
}

/// Lets a start that is under way tell of itself first. Its hooks may hang, so it is called off after a while.
async fn end_start(container: &Container) {
    if tokio::time::timeout(HOOKS, container.starting.lock()).await.is_err() {
        container.init.cancel();
        let _over = container.starting.lock().await;
    }
}

/// The init has ended: so does all that runs beside it, and only then is the end told. How it ended
/// is written down for whoever clears up if this process should die before it was asked.
async fn end_container(pod: &Pod, container: &Container, init: &Process, exit: Exit) {
    let ended = record::Ended { pid: init.pid().unwrap_or(0), status: exit.status, at: exit.at };
    if let Err(error) = record::write(&container.record.bundle.join(record::EXIT), &ended) {
        log::error(error);
    }
    let execs = container.live_execs();
    for exec in &execs {
        exec.cancel();
    }
    if !container.owns_pid_namespace() {
        match control::kill_all(pod, container, libc::SIGKILL).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => log::error(format!("end what container {} has left running: {error}", container.id)),
        }
    }
    for exec in execs {
        let _ = exec.wait().await;
    }
}
