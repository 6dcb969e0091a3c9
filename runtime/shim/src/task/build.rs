//! Building a process: streams, pea's helper, the child, the terminal. The same for an init and an exec.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::Interest;

use super::container::Container;
use super::process::Process;
use crate::error::Error;
use crate::pod::Pod;
use crate::reap::{Child, Reaper};
use crate::stdio::{ConsoleSocket, Owner, Prepared, ProcessEnds, Readers, Whose};
use crate::sys;

/// The bundle and the owner of the pipes.
pub struct Surroundings<'a> {
    /// The container's bundle.
    pub bundle: &'a Path,
    /// Who owns the pipes of the streams.
    pub io_owner: Owner,
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The node's namespaces.
    pub node: &'a [File],
    /// Knows the children.
    pub reaper: &'a Reaper,
    /// Tells of readers that are late.
    pub readers: &'a Readers,
}

impl<'a> Surroundings<'a> {
    /// Those of a container of the pod.
    pub fn of(pod: &'a Pod, container: &'a Container) -> Self {
        let (bundle, io_owner) = (container.record.bundle.as_path(), container.options.io_owner);
        Self {
            bundle,
            io_owner,
            namespace: pod.namespace(),
            node: pod.node(),
            reaper: &pod.reaper,
            readers: &pod.readers,
        }
    }
}

/// Builds: `fork` is pea's `create` or `exec`. Waits for it without holding anything up, and gives
/// up when the process is [cancelled](Process::cancel).
///
/// On success the process has its child and its streams. On failure the child, if there is one, is
/// dead or left to the caller's undoing; the reaper takes care of its zombie.
pub async fn build(
    process: &Process,
    surroundings: Surroundings<'_>,
    fork: impl FnOnce(ProcessEnds, Option<PathBuf>) -> Result<pea::Pending, pea::Error>,
) -> Result<Arc<Child>, Error> {
    let id = if process.exec_id.is_empty() { &process.container } else { &process.exec_id };
    let Surroundings { namespace, node, reaper, readers, .. } = surroundings;
    let whose = Whose { id, namespace, node, reaper };
    let opening = Prepared::open(&process.stdio, whose, surroundings.io_owner, readers);
    let mut prepared = unless_cancelled(process, opening).await?;
    let console = process.stdio.terminal.then(|| ConsoleSocket::listen(surroundings.bundle)).transpose()?;
    let ends = std::mem::take(&mut prepared.ends);
    let forking = surroundings.reaper.forking();
    let pending = fork(ends, console.as_ref().map(ConsoleSocket::path))?;
    let pid = unless_cancelled(process, outcome(pending)).await?;
    let child = Arc::new(surroundings.reaper.track(pid)?);
    drop(forking);
    let flowing = async {
        let master = match &console {
            Some(console) => Some(console.receive().await?),
            None => None,
        };
        prepared.flow(master)
    };
    match unless_cancelled(process, flowing).await {
        Ok(streams) => process.attach(child.clone(), streams),
        Err(error) => {
            let _ = child.signal(libc::SIGKILL);
            return Err(error);
        }
    }
    Ok(child)
}

/// Gives up when the process is cancelled. That is looked at first: a kill that was answered is never lost.
pub async fn unless_cancelled<T>(process: &Process, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = process.cancelled() => Err(Error::aborted(format!("{} was killed before it was up", process.name()))),
        outcome = work => outcome,
    }
}

/// Waits for pea's helper in the event loop. Dropped half-way, it kills the helper.
async fn outcome(pending: pea::Pending) -> Result<i32, Error> {
    let failed = |source| Error::io("wait for the runtime's helper", source);
    let watched =
        pending.as_fd().try_clone_to_owned().and_then(|fd| sys::watch(fd, Interest::READABLE)).map_err(failed)?;
    watched.readable().await.map_err(failed)?.retain_ready();
    Ok(pending.finish()?)
}
