//! One run of one container, from its image to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use pea_shim::client::{CreateTask, Error as ShimError, Exit, Mount, Shim, Stdio};

use super::sandbox::answer;
use super::{Places, Record, Sandbox, cgroup, task_id};
use crate::container::{Node, PodFacts, rootfs, spec};
use crate::error::{Error, Result};
use crate::files::{make_dir, remove_file, write_json};
use crate::image::Store;
use crate::manifest::Container;
use crate::volume::{self, ContainerFiles};

const SIGKILL: u32 = nix::libc::SIGKILL as u32;

/// Starts containers in a pod that is up, and clears up after them.
pub struct Launcher<'a> {
    places: &'a Places,
    record: &'a Record,
    shim: Shim,
    store: Store,
    facts: PodFacts,
}

impl<'a> Launcher<'a> {
    /// For the pod that `sandbox` holds.
    pub fn new(places: &'a Places, record: &'a Record, shim: Shim, sandbox: &Sandbox) -> Result<Launcher<'a>> {
        let paths = places.volumes(&record.uid);
        let facts = PodFacts {
            uid: record.uid.clone(),
            sandbox_pid: sandbox.pid,
            cgroup_parent: cgroup(&record.uid),
            hosts: paths.hosts(),
            hostname: paths.hostname(),
            resolv_conf: paths.resolv_conf(),
            shm: if record.pod.host_ipc { PathBuf::from("/dev/shm") } else { paths.shm() },
            volumes: volumes(places, record)?,
            node: Node::detect()?,
        };
        let store = Store::open(&places.settings.root)?;
        Ok(Launcher { places, record, shim, store, facts })
    }

    /// Starts run `attempt` of a container and returns when it began. A failure leaves nothing of it.
    pub async fn start(&self, container: &Container, attempt: u32) -> Result<Timestamp> {
        let started = self.try_start(container, attempt).await;
        if started.is_err() {
            // The failure to start is what the person must know; what is left is swept up with the pod at the latest.
            let _ = self.retire(&container.name, attempt).await;
        }
        started
    }

    async fn try_start(&self, container: &Container, attempt: u32) -> Result<Timestamp> {
        let digest = self.record.images.get(&container.image).unwrap_or(&container.image);
        let image = self.store.resolve(digest)?;
        let paths = self.places.volumes(&self.record.uid);
        let files = volume::prepare_container(&paths, container, &self.facts.volumes, attempt)?;
        let task = self.bundle(container, &image, &files)?;
        let id = task.id.clone();
        answer(|| format!("creating container {}", container.name), self.shim.create(&task)).await?;
        answer(|| format!("starting container {}", container.name), self.shim.start(&id, None)).await?;
        Ok(Timestamp::now())
    }

    /// Writes the bundle and the log's directory, and says what the shim is to do with them.
    fn bundle(&self, container: &Container, image: &crate::image::Image, files: &ContainerFiles) -> Result<CreateTask> {
        let spec = spec(&self.record.pod, container, image, &self.facts, files)?;
        let root = rootfs(image, files)?;
        let bundle = self.places.container(&container.name, files.attempt);
        make_dir(&bundle.join("rootfs"))?;
        write_json(&bundle.join("config.json"), &spec)?;
        let log = self.places.log(&self.record.uid, &container.name, files.attempt);
        if let Some(old) = files.attempt.checked_sub(2) {
            // The current run's log and the one before it are kept: a crash loop does not fill the disk.
            remove_file(&self.places.log(&self.record.uid, &container.name, old))?;
        }
        make_dir(log.parent().unwrap_or(&log))?;
        let output = format!("file://{}?format=cri", log.display());
        Ok(CreateTask {
            id: task_id(&container.name, files.attempt),
            bundle,
            rootfs: vec![Mount { kind: root.kind, source: root.source, options: root.options }],
            stdio: Stdio {
                stdin: String::new(),
                stdout: output.clone(),
                stderr: if container.tty { String::new() } else { output },
                terminal: container.tty,
            },
            ..CreateTask::default()
        })
    }

    /// Removes run `attempt` of a container once it has ended, except for its log. Works twice, and for a run that
    /// never came to be.
    pub async fn retire(&self, container: &str, attempt: u32) -> Result<()> {
        retire(self.places, self.record, &self.shim, container, attempt).await
    }

    /// Waits for the end of a run; not bound to the launcher, so that it can go on beside it.
    pub fn watch(&self, container: &str, attempt: u32) -> impl Future<Output = Result<Exit, ShimError>> + use<> {
        let (shim, id) = (self.shim.clone(), task_id(container, attempt));
        async move { shim.wait(&id, None).await }
    }

    /// The connection to the shim.
    pub fn shim(&self) -> &Shim {
        &self.shim
    }
}

/// See [`Launcher::retire`].
pub async fn retire(places: &Places, record: &Record, shim: &Shim, container: &str, attempt: u32) -> Result<()> {
    let id = task_id(container, attempt);
    let deleted = match shim.delete(&id, None).await {
        Err(ShimError::FailedPrecondition(_)) => {
            // Created and never started, or still running: it was given up.
            let _ = shim.kill(&id, None, SIGKILL, true).await;
            answer(|| format!("waiting for the end of container {container}"), shim.wait(&id, None)).await?;
            shim.delete(&id, None).await
        }
        other => other,
    };
    match deleted {
        Ok(_) | Err(ShimError::NotFound(_)) => {}
        Err(source) => return Err(Error::Shim { doing: format!("removing container {container}"), source }),
    }
    volume::remove_container(&places.volumes(&record.uid), container, attempt)?;
    Ok(volume::remove_tree(&places.container(container, attempt))?)
}

fn volumes(places: &Places, record: &Record) -> Result<BTreeMap<String, PathBuf>> {
    // Made by the pod's set-up already; doing it again only tells where each one is.
    Ok(volume::prepare(&record.pod, &places.volumes(&record.uid))?)
}
