//! Programs that take a container's output (`binary://`, `binary-v2://`).
//!
//! The process writes straight into the logger's pipes; this one only starts it, and ends it. What it is given, as
//! containerd's own shim has it:
//!
//! | | |
//! | --- | --- |
//! | descriptor 3, 4 | the process's standard output and standard error, to be read |
//! | descriptor 5 | to be written a byte to, or (`binary://` only) just closed, when it is ready |
//! | `CONTAINER_ID`, `CONTAINER_NAMESPACE` | whose output it is; nothing else is in its environment |

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::address::Binary;
use super::{Owner, pipe as output_pipe};
use crate::error::Error;
use crate::reap::{Child, Reaper};
use crate::{log, sys};

/// How long a logger may take until it is ready.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to end by itself once all output has; then it is asked to.
const OWN_END: Duration = Duration::from_secs(2);
/// How long it may take after that (containerd's own shim gives as much).
const ASKED_END: Duration = Duration::from_secs(12);

/// A logger that runs, with the pipes nobody writes to yet.
pub(super) struct Logger {
    address: Binary,
    child: Child,
    ended: bool,
    pipes: [Option<OwnedFd>; 2],
}

impl Logger {
    /// Starts one and waits until it is ready.
    pub(super) async fn start(address: &Binary, whose: &Whose<'_>, owner: Owner) -> Result<Self, Error> {
        let name = address.path.display();
        let failed = |source: io::Error| Error::io(format!("start the logger {name}"), source);
        let (stdout, stderr) = (output_pipe(owner)?, output_pipe(owner)?);
        let (ready, signal) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let mut ready = pipe::Receiver::from_owned_fd(ready).map_err(failed)?;
        let mut command = Command::new(&address.path);
        command.args(&address.arguments).env_clear();
        command.env("CONTAINER_ID", whose.id).env("CONTAINER_NAMESPACE", whose.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // First, as the next may put other things where these descriptors are.
        sys::start_in(&mut command, whose.node.iter().map(AsFd::as_fd)).map_err(failed)?;
        sys::give_descriptors(&mut command, [stdout.0.as_fd(), stderr.0.as_fd(), signal.as_fd()]).map_err(failed)?;
        let forking = whose.reaper.forking();
        let child = command.spawn().map_err(failed)?;
        let child = whose.reaper.track(i32::try_from(child.id()).unwrap_or(i32::MAX))?;
        drop((forking, command, stdout.0, stderr.0, signal));
        let logger = Self { address: address.clone(), child, ended: false, pipes: [Some(stdout.1), Some(stderr.1)] };
        let mut byte = [0];
        match tokio::time::timeout(READY, ready.read(&mut byte)).await {
            Ok(Ok(read)) if read == 1 || !address.must_say_ready => Ok(logger),
            Ok(Ok(_)) => {
                Err(Error::internal(format!("the logger {name} ended, or closed descriptor 5, before it was ready")))
            }
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Error::internal(format!("the logger {name} was not ready within {}s", READY.as_secs()))),
        }
    }

    /// Whether it is the one at that address.
    pub(super) fn is_at(&self, address: &Binary) -> bool {
        self.address == *address
    }

    /// The pipe for standard output (0) or standard error (1); `None` once it has been taken.
    pub(super) fn take(&mut self, stream: usize) -> Option<OwnedFd> {
        self.pipes.get_mut(stream)?.take()
    }

    /// Lets it end, now that nobody writes any more: by itself, or asked, or killed.
    pub(super) async fn end(mut self) {
        self.pipes = [None, None];
        for (patience, signal) in [(OWN_END, libc::SIGTERM), (ASKED_END, libc::SIGKILL)] {
            if tokio::time::timeout(patience, self.child.exit()).await.is_ok() {
                self.ended = true;
                return;
            }
            let _ = self.child.signal(signal);
        }
        log::error(format!("the logger {} did not end and was killed", self.address.path.display()));
        self.child.exit().await;
        self.ended = true;
    }
}

impl Drop for Logger {
    /// One whose process was never built, or that outlives the shim.
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.signal(libc::SIGTERM);
        }
    }
}

/// Whose output a logger takes.
pub struct Whose<'a> {
    /// The container's id, or the exec's.
    pub id: &'a str,
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The node's namespaces: a logger is the node's, and does not speak to the world by the pod's network.
    pub node: &'a [File],
    /// Knows the children.
    pub reaper: &'a Reaper,
}
