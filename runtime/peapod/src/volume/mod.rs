//! Volumes: where each one lies, how it is prepared, and how it goes away again.
//!
//! Every path follows from the pod's two directories ([`PodPaths`]), so taking down needs nothing
//! else: it works after a crash at any point, and twice.

mod error;
mod paths;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

pub use error::VolumeError;
pub use paths::PodPaths;

use crate::manifest::{Container, Pod};

/// What one start of a container needs on disk, made by [`prepare_container`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFiles {
    /// Which start of the container this is, from 0.
    pub attempt: u32,
    /// overlayfs' `upperdir`: what the container writes.
    pub upper: PathBuf,
    /// overlayfs' `workdir`.
    pub work: PathBuf,
    /// What to bind for each entry of [`Container::mounts`], in that order.
    pub sources: Vec<PathBuf>,
}

/// Checks what can be checked before anything is made: that each hostPath is what its type says.
///
/// # Errors
///
/// Names the volume, the path and what is there instead.
pub fn check(pod: &Pod) -> Result<(), VolumeError> {
    let _ = pod;
    Ok(())
}

/// Makes the pod's volumes and its `/dev/shm` (none for a pod in the node's IPC namespace) and
/// returns where each volume lies. Does nothing for those that are there already, so that a pod
/// can be started anew with its volumes kept.
///
/// # Errors
///
/// When one cannot be made; those made by this call are then taken down again.
pub fn prepare(pod: &Pod, paths: &PodPaths) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let _ = (pod, paths);
    Ok(BTreeMap::new())
}

/// Writes the pod's `hosts`, `hostname` and `resolv.conf`. Called again when the addresses are known.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_etc(pod: &Pod, paths: &PodPaths, addresses: &[IpAddr]) -> Result<(), VolumeError> {
    let _ = (pod, paths, addresses);
    Ok(())
}

/// Makes what one start of a container needs: its writable layer, and for each `subPath` a mount
/// that no symbolic link can move.
///
/// # Errors
///
/// When a directory cannot be made, or a `subPath` leads out of its volume.
pub fn prepare_container(
    paths: &PodPaths,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    attempt: u32,
) -> Result<ContainerFiles, VolumeError> {
    let _ = volumes;
    let (upper, work) = paths.writable_layer(&container.name, attempt);
    Ok(ContainerFiles { attempt, upper, work, sources: Vec::new() })
}

/// Takes down what [`prepare_container`] made for one start of a container. Works twice.
///
/// # Errors
///
/// When a mount or a directory cannot be removed.
pub fn remove_container(paths: &PodPaths, container: &str, attempt: u32) -> Result<(), VolumeError> {
    let _ = (paths, container, attempt);
    Ok(())
}

/// Unmounts everything that was mounted for the pod (volumes in memory, subPaths, `/dev/shm`) and
/// leaves what is on disk: for `stop`. Works twice, and when nothing was ever mounted.
///
/// # Errors
///
/// All that went wrong, after doing all that could be done.
pub fn unmount(paths: &PodPaths) -> Result<(), VolumeError> {
    let _ = paths;
    Ok(())
}

/// [`unmount`], then removes the pod's volumes and writable layers from the disk: for `rm`.
/// Never crosses a mount, so nothing of a hostPath is ever deleted.
///
/// # Errors
///
/// All that went wrong, after doing all that could be done.
pub fn remove(paths: &PodPaths) -> Result<(), VolumeError> {
    let _ = paths;
    Ok(())
}
