//! Volumes: where each one lies, how it is prepared, and how it goes away again.
//!
//! Every path follows from the pod's two directories ([`PodPaths`]), so taking down needs nothing
//! else: it works after a crash at any point, and twice.

mod error;
mod etc;
mod host_path;
mod mount;
mod paths;
mod sub_path;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

pub use error::VolumeError;
use error::failed;
use mount::Tmpfs;
pub use paths::PodPaths;
use sub_path::Refusal;
pub use tree::remove_tree;

use crate::manifest::{Container, Medium, Pod, VolumeSource};

/// The size of a pod's `/dev/shm`, in bytes: what docker and containerd give.
const SHM_SIZE: u64 = 64 << 20;

/// The mode of an emptyDir: any user of any container may write.
const EMPTY_DIR_MODE: u32 = 0o777;

/// The resolver's settings, where systemd-resolved keeps them for who cannot reach its stub.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

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
    for volume in &pod.volumes {
        if let VolumeSource::HostPath { path, kind } = &volume.source {
            host_path::check(&volume.name, path, *kind)?;
        }
    }
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
    let mut made = Vec::new();
    let prepared = try_prepare(pod, paths, &mut made);
    if prepared.is_err() {
        // The reason for the failure is what the person must know; what cannot be undone now is
        // undone with the pod.
        for path in made.iter().rev() {
            let _ = mount::unmount(path).and_then(|()| remove_tree(path));
        }
    }
    prepared
}

fn try_prepare(pod: &Pod, paths: &PodPaths, made: &mut Vec<PathBuf>) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    check(pod)?;
    private(paths.state())?;
    private(&paths.volumes())?;
    let mut places = BTreeMap::new();
    for volume in &pod.volumes {
        let place = match &volume.source {
            VolumeSource::HostPath { path, kind } => {
                host_path::create(path, *kind)?;
                path.clone()
            }
            VolumeSource::EmptyDir { medium, size_limit } => {
                let place = paths.empty_dir(&volume.name);
                let size = size_limit.or_else(|| memory_limit(pod));
                empty_dir(&place, *medium, size, pod.fs_group, made)?;
                place
            }
        };
        places.insert(volume.name.clone(), place);
    }
    if !pod.host_ipc {
        let shm = Tmpfs { name: "shm", size: Some(SHM_SIZE), mode: 0o1777, inert: true };
        mounted(&shm, &paths.shm(), made)?;
    }
    Ok(places)
}

/// What the containers may use together; `None` when one of them may use all there is. A volume in memory
/// without a limit of its own may not hold more, as in Kubernetes.
fn memory_limit(pod: &Pod) -> Option<u64> {
    pod.containers.iter().try_fold(0, |sum: u64, container| sum.checked_add(container.resources.memory_limit?))
}

fn empty_dir(
    place: &Path,
    medium: Medium,
    size: Option<u64>,
    group: Option<u32>,
    made: &mut Vec<PathBuf>,
) -> Result<(), VolumeError> {
    let new = match medium {
        Medium::Memory => mounted(&Tmpfs { name: "tmpfs", size, mode: EMPTY_DIR_MODE, inert: false }, place, made)?,
        Medium::Disk => directory(place, made)?,
    };
    if !new {
        return Ok(());
    }
    // The group of the pod owns it, and what is made in it inherits that.
    let mode = if group.is_some() { EMPTY_DIR_MODE | 0o2000 } else { EMPTY_DIR_MODE };
    chown(place, None, group)
        .and_then(|()| fs::set_permissions(place, fs::Permissions::from_mode(mode)))
        .map_err(failed("set the rights of", place))
}

/// Mounts a tmpfs unless there is one; whether it is new.
fn mounted(tmpfs: &Tmpfs<'_>, place: &Path, made: &mut Vec<PathBuf>) -> Result<bool, VolumeError> {
    directory(place, made)?;
    if mount::is_file_system(place).map_err(failed("look at", place))? {
        return Ok(false);
    }
    mount::tmpfs(tmpfs, place)?;
    if !made.iter().any(|path| path == place) {
        made.push(place.to_owned());
    }
    Ok(true)
}

/// Makes a directory unless there is one; whether it is new.
fn directory(place: &Path, made: &mut Vec<PathBuf>) -> Result<bool, VolumeError> {
    match fs::create_dir(place) {
        Ok(()) => {
            made.push(place.to_owned());
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make the directory", place)(error)),
    }
}

/// Makes a directory and those above it for root alone.
fn private(path: &Path) -> Result<(), VolumeError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the directory", path))
}

/// Writes the pod's `hosts`, `hostname` and `resolv.conf`. Called again when the addresses are known.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_etc(pod: &Pod, paths: &PodPaths, addresses: &[IpAddr]) -> Result<(), VolumeError> {
    let mut resolver = of_node("/etc/resolv.conf")?;
    if !pod.host_network && etc::only_loopback(&resolver) {
        let real = of_node(RESOLVED)?;
        resolver = if real.is_empty() { resolver } else { real };
    }
    let hostname = if pod.host_network { of_node("/proc/sys/kernel/hostname")? } else { pod.hostname.clone() };
    let hosts = if pod.host_network { of_node("/etc/hosts")? } else { String::new() };
    write(&paths.hosts(), &etc::hosts(pod, addresses, &hosts))?;
    write(&paths.hostname(), &format!("{}\n", hostname.trim_end()))?;
    write(&paths.resolv_conf(), &etc::resolv_conf(&pod.dns, &resolver))
}

/// A file of the node's; empty when it has none.
fn of_node(path: &str) -> Result<String, VolumeError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(failed("read", Path::new(path))),
    }
}

/// Replaces a file as a whole. Every user of the containers may read it.
fn write(path: &Path, text: &str) -> Result<(), VolumeError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
    let written = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
        .and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file))
        .and_then(|file| file.persist(path).map_err(|error| error.error));
    let file = written.map_err(failed("write", path))?;
    // The umask of whoever started us has no say.
    file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed("write", path))
}

/// Makes what one start of a container needs: its writable layer, and for each `subPath` a mount
/// that no symbolic link can move.
///
/// # Errors
///
/// When a directory cannot be made, or a `subPath` leads out of its volume; nothing is left then.
pub fn prepare_container(
    paths: &PodPaths,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    attempt: u32,
) -> Result<ContainerFiles, VolumeError> {
    // What a start that was cut off may have left is not the new one's.
    remove_container(paths, &container.name, attempt)?;
    let prepared = try_prepare_container(paths, container, volumes, attempt);
    if prepared.is_err() {
        let _ = remove_container(paths, &container.name, attempt);
    }
    prepared
}

fn try_prepare_container(
    paths: &PodPaths,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    attempt: u32,
) -> Result<ContainerFiles, VolumeError> {
    let layer = paths.writable_layer(&container.name, attempt);
    private(&layer)?;
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for (path, mode) in [(&upper, 0o755), (&work, 0o700)] {
        fs::create_dir(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(failed("make the directory", path))?;
    }
    let mut sources = Vec::new();
    for (index, mount) in container.mounts.iter().enumerate() {
        let volume = volumes.get(&mount.volume).cloned().unwrap_or_else(|| paths.empty_dir(&mount.volume));
        let Some(sub_path) = &mount.sub_path else {
            sources.push(volume);
            continue;
        };
        let bound = paths.sub_paths_of(&container.name, attempt);
        private(&bound)?;
        let target = bound.join(index.to_string());
        sub_path::bind(&volume, sub_path, &target).map_err(|refusal| {
            let reason = match refusal {
                Refusal::Outside => "leads out of the volume".to_owned(),
                Refusal::Kernel(error) => error.to_string(),
                Refusal::Volume(error) => return error,
            };
            let (container, volume) = (container.name.clone(), mount.volume.clone());
            VolumeError::SubPath { container, volume, sub_path: sub_path.clone(), reason }
        })?;
        sources.push(target);
    }
    Ok(ContainerFiles { attempt, upper, work, sources })
}

/// Takes down what [`prepare_container`] made for one start of a container. Works twice.
///
/// # Errors
///
/// All that went wrong, after doing all that could be done.
pub fn remove_container(paths: &PodPaths, container: &str, attempt: u32) -> Result<(), VolumeError> {
    let mut errors = Vec::new();
    let bound = paths.sub_paths_of(container, attempt);
    unmount_in(&bound, &mut errors);
    errors.extend(remove_tree(&bound).err());
    errors.extend(remove_tree(&paths.writable_layer(container, attempt)).err());
    VolumeError::collect(errors)
}

/// Unmounts everything that was mounted for the pod (volumes in memory, subPaths, `/dev/shm`) and
/// leaves what is on disk: for `stop`. Works twice, and when nothing was ever mounted.
///
/// # Errors
///
/// All that went wrong, after doing all that could be done.
pub fn unmount(paths: &PodPaths) -> Result<(), VolumeError> {
    let mut errors = Vec::new();
    for bound in entries(&paths.sub_paths(), &mut errors) {
        unmount_in(&bound, &mut errors);
    }
    errors.extend(remove_tree(&paths.sub_paths()).err());
    unmount_in(&paths.volumes(), &mut errors);
    errors.extend(mount::unmount(&paths.shm()).and_then(|()| remove_tree(&paths.shm())).err());
    VolumeError::collect(errors)
}

/// [`unmount`], then removes the pod's volumes and writable layers from the disk: for `rm`.
/// Never crosses a mount, so nothing of a hostPath is ever deleted.
///
/// # Errors
///
/// All that went wrong, after doing all that could be done.
pub fn remove(paths: &PodPaths) -> Result<(), VolumeError> {
    let mut errors = Vec::new();
    errors.extend(unmount(paths).err());
    errors.extend(remove_tree(paths.data()).err());
    errors.extend(remove_tree(&paths.state().join("etc")).err());
    VolumeError::collect(errors)
}

fn unmount_in(directory: &Path, errors: &mut Vec<VolumeError>) {
    for path in entries(directory, errors) {
        errors.extend(mount::unmount(&path).err());
    }
}

fn entries(directory: &Path, errors: &mut Vec<VolumeError>) -> Vec<PathBuf> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            errors.push(failed("read", directory)(error));
            Vec::new()
        }
    }
}
