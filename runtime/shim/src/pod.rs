//! The pod: the containers this process looks after, and the sandbox if it holds one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::daemon::Socket;
use crate::error::Error;
use crate::events::Publisher;
use crate::lock::Lock;
use crate::options::TaskOptions;
use crate::reap::Reaper;
use crate::rest::Rest;
use crate::sandbox::Sandbox;
use crate::stdio::Readers;
use crate::task::{Container, Ooms};

/// Where containerd's shims keep what their runtimes write.
pub const DEFAULT_ROOT: &str = "/run/containerd/pea";

/// The pod. Clones are handles to the same one.
#[derive(Clone)]
pub struct Pod {
    /// Knows the children.
    pub reaper: Reaper,
    /// Tells containerd.
    pub events: Publisher,
    /// Tells of kills for want of memory.
    pub ooms: Ooms,
    /// Tells streams of readers that are late.
    pub readers: Readers,
    /// Is told of work.
    pub rest: Rest,
    inner: Arc<Inner>,
}

struct Inner {
    namespace: String,
    bundle: PathBuf,
    lock: Lock,
    node: OnceLock<Vec<File>>,
    members: Mutex<Members>,
    /// Whether there is nothing to look after; told anew with every change.
    empty: watch::Sender<bool>,
    quit: Notify,
    /// Whether SIGTERM has come while there was something to look after.
    terminated: AtomicBool,
}

#[derive(Default)]
struct Members {
    containers: BTreeMap<String, Arc<Container>>,
    sandbox: Option<Arc<Sandbox>>,
    socket: Option<Socket>,
    /// The end is decided: the last answers and events are on their way out.
    closing: bool,
}

impl Members {
    fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.sandbox.is_none()
    }

    fn expect_open(&self) -> Result<(), Error> {
        if self.closing { Err(Error::precondition("this shim is about to end: start another one")) } else { Ok(()) }
    }
}

/// Where a new container's state is kept.
pub struct Home {
    /// pea's state root.
    pub pea_root: PathBuf,
    /// Whether systemd makes the control groups, if that was said.
    pub systemd_cgroup: Option<bool>,
}

impl Pod {
    /// An empty pod, whose shim was started in `bundle`, holds its `lock` and listens on `socket`.
    pub fn new(
        namespace: &str,
        bundle: &Path,
        lock: Lock,
        socket: Option<Socket>,
        events: Publisher,
        rest: Rest,
    ) -> Self {
        let inner = Inner {
            namespace: namespace.to_owned(),
            bundle: bundle.to_owned(),
            lock,
            node: OnceLock::new(),
            members: Mutex::new(Members { socket, ..Members::default() }),
            empty: watch::Sender::new(true),
            quit: Notify::new(),
            terminated: AtomicBool::new(false),
        };
        let ooms = Ooms::new(events.clone());
        Self { reaper: Reaper::default(), events, ooms, readers: Readers::default(), rest, inner: Arc::new(inner) }
    }

    /// containerd's namespace.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The bundle the shim was started in: a sandbox's own, or its first container's.
    pub fn bundle(&self) -> &Path {
        &self.inner.bundle
    }

    /// The file whose lock says that this shim lives.
    pub fn lock(&self) -> &File {
        self.inner.lock.file()
    }

    /// The node's namespaces that this process has left; none where it is in all of them.
    pub fn node(&self) -> &[File] {
        self.inner.node.get().map_or(&[], Vec::as_slice)
    }

    /// Copies of them, to be handed on.
    pub fn copy_of_node(&self) -> Result<Vec<OwnedFd>, Error> {
        let copies = self.node().iter().map(|namespace| namespace.as_fd().try_clone_to_owned());
        copies.collect::<io::Result<_>>().map_err(|source| Error::io("duplicate the node's namespaces", source))
    }

    /// Keeps the node's namespaces, before they are left for the first time.
    pub fn keep_node(&self, namespaces: Vec<File>) {
        // At another attempt it is the pod's that would be kept.
        let _ = self.inner.node.set(namespaces);
    }

    /// Where a container with these options is kept. What the sandbox says goes first: whoever
    /// clears up after it must find all of its containers in one place.
    pub fn home_of_tasks(&self, options: &TaskOptions) -> Home {
        let root = options.root.clone().unwrap_or_else(|| DEFAULT_ROOT.into()).join(&self.inner.namespace);
        let Some(sandbox) = self.sandbox() else {
            return Home { pea_root: root, systemd_cgroup: options.systemd_cgroup };
        };
        Home {
            pea_root: sandbox.options.pea_root.clone().unwrap_or(root),
            systemd_cgroup: sandbox.options.systemd_cgroup.then_some(true).or(options.systemd_cgroup),
        }
    }

    /// Takes a container in.
    ///
    /// # Errors
    /// `AlreadyExists` when the id is taken, `FailedPrecondition` when the pod is at its end or being stopped.
    pub fn add(&self, container: Arc<Container>) -> Result<(), Error> {
        let mut members = self.members();
        members.expect_open()?;
        members.sandbox.as_ref().map_or(Ok(()), |sandbox| sandbox.expect_going_on())?;
        if members.containers.contains_key(&container.id) {
            return Err(Error::exists(format!("container {} exists already", container.id)));
        }
        members.containers.insert(container.id.clone(), container);
        self.changed(&members);
        Ok(())
    }

    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        let mut members = self.members();
        members.containers.remove(id);
        self.changed(&members);
    }

    /// The container of that id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let found = self.members().containers.get(id).cloned();
        found.ok_or_else(|| Error::not_found(format!("container {id} does not exist in this pod")))
    }

    /// All containers.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.members().containers.values().cloned().collect()
    }

    /// The sandbox, if there is one.
    pub fn sandbox(&self) -> Option<Arc<Sandbox>> {
        self.members().sandbox.clone()
    }

    /// Makes this the pod's sandbox, or with `None` leaves it without.
    pub fn set_sandbox(&self, sandbox: Option<Arc<Sandbox>>) {
        let mut members = self.members();
        members.sandbox = sandbox;
        self.changed(&members);
    }

    /// Refuses once the end is decided.
    pub fn expect_open(&self) -> Result<(), Error> {
        self.members().expect_open()
    }

    /// Ends the shim once whoever asks for it has the answer, if there is nothing to look after. Returns whether it
    /// ends: then nothing is taken in any more, and who comes next does not find a socket where nobody would serve him.
    pub fn quit_if_idle(&self) -> bool {
        let mut members = self.members();
        if !members.is_empty() {
            return false;
        }
        members.closing = true;
        members.socket = None;
        self.inner.quit.notify_one();
        true
    }

    /// As [`quit_if_idle`](Self::quit_if_idle), on SIGTERM, which comes from the `delete` of a bundle. Containers that were
    /// cleared away by theirs are forgotten, now or when they have ended: so containerd does with those of a shim that stands
    /// still while it is restarted, and does not know of them, nor of the shim, any more when that goes on.
    pub fn terminate(&self) -> bool {
        self.inner.terminated.store(true, Ordering::Relaxed);
        self.quit_if_cleared()
    }

    /// To be told of the end of a container.
    pub fn has_ended(&self) {
        if self.inner.terminated.load(Ordering::Relaxed) {
            self.quit_if_cleared();
        }
    }

    fn quit_if_cleared(&self) -> bool {
        let mut members = self.members();
        members.containers.retain(|_, container| !container.was_cleared());
        self.changed(&members);
        drop(members);
        self.quit_if_idle()
    }

    /// Ends when the shim should.
    pub async fn quitting(&self) {
        self.inner.quit.notified().await;
    }

    /// Ends when there has been nothing to look after for so long.
    pub async fn unused(&self, long: Duration) {
        let mut empty = self.inner.empty.subscribe();
        loop {
            // The sender is `self`, so neither wait can fail.
            let _ = empty.wait_for(|empty| *empty).await;
            if tokio::time::timeout(long, empty.changed()).await.is_err() {
                return;
            }
        }
    }

    fn changed(&self, members: &Members) {
        self.inner.empty.send_replace(members.is_empty());
    }

    /// Runs an operation to its end even when the client that asked for it goes away in the middle:
    /// ttrpc drops a request's future with its connection, and a container half-made is nobody's.
    pub async fn to_the_end<T: Send + 'static, F: Future<Output = Result<T, Error>> + Send + 'static>(
        &self,
        operation: impl FnOnce(Self) -> F + Send,
    ) -> Result<T, Error> {
        let done = tokio::spawn(operation(self.clone())).await;
        self.rest.worked();
        done.unwrap_or_else(|error| Err(Error::internal(format!("the operation broke off: {error}"))))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.inner.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
