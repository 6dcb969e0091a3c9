//! One container of a pod as an OCI runtime specification.
//!
//! Pure: what goes in is the checked manifest, the image and where the pod's things lie; what comes
//! out is `config.json`. Of the disk it reads the image's `/etc/passwd` and `/etc/group`, nothing else.

pub(crate) mod capability;
mod error;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use error::ContainerError;
use oci_spec::runtime::Spec;

use crate::image::Image;
use crate::manifest::{Container, Pod};
use crate::volume::ContainerFiles;

/// What a container has to know of the pod it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's id.
    pub uid: String,
    /// The process whose `/proc/<pid>/ns/*` are the pod's namespaces.
    pub sandbox_pid: i32,
    /// The pod's parent cgroup, such as `/peapod/<uid>`.
    pub cgroup_parent: String,
    /// On the node: the pod's `/etc/hosts`.
    pub hosts: PathBuf,
    /// On the node: the pod's `/etc/hostname`.
    pub hostname: PathBuf,
    /// On the node: the pod's `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// On the node: the pod's `/dev/shm`. The node's own for a pod in the node's IPC namespace.
    pub shm: PathBuf,
    /// Where each volume lies, as [`crate::volume::prepare`] returned it.
    pub volumes: BTreeMap<String, PathBuf>,
    /// What differs from one node to the next.
    pub node: Node,
}

/// What differs from one node to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// cgroup v2 is the only hierarchy: containers get a cgroup namespace.
    pub cgroup_v2: bool,
    /// The node's memory, in bytes: what `oom_score_adj` of a burstable pod is reckoned from.
    pub memory: u64,
    /// Our own `oom_score_adj`, below which nobody without CAP_SYS_RESOURCE can go; `None` with it.
    pub lowest_oom_score_adj: Option<i32>,
}

/// A root file system for the shim to mount: one `containerd.types.Mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// The file system's type, `overlay`.
    pub kind: String,
    /// The mount's source.
    pub source: String,
    /// The mount's options.
    pub options: Vec<String>,
}

/// The specification of one start of a container.
///
/// # Errors
///
/// When the image names no command and the manifest neither, or a user that is not in the image.
pub fn spec(
    pod: &Pod,
    container: &Container,
    image: &Image,
    facts: &PodFacts,
    files: &ContainerFiles,
) -> Result<Spec, ContainerError> {
    let _ = (pod, container, image, facts, files);
    Err(ContainerError::NoCommand { container: container.name.clone(), image: image.reference.clone() })
}

/// The root file system of one start of a container: the image's layers under its writable one.
///
/// # Errors
///
/// When the layers are more than the kernel takes in one mount.
pub fn rootfs(image: &Image, files: &ContainerFiles) -> Result<Rootfs, ContainerError> {
    let _ = (image, files);
    Ok(Rootfs { kind: "overlay".to_owned(), source: "overlay".to_owned(), options: Vec::new() })
}
