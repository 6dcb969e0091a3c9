//! What is mounted where in the container, in that order.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::{ContainerError, PodFacts};
use crate::manifest::{Container, Propagation};
use crate::volume::ContainerFiles;

/// Destination, type, source, options; `RW` stands for `rw` or `ro`, as the container is privileged or not.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// The kernel's file systems every container sees.
const KERNEL: &[Row] = &[
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "RW"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "RW"]),
];

/// The mounts of the specification: the kernel's, the pod's files, then the volumes, outer before inner.
pub(super) fn mounts(
    container: &Container,
    facts: &PodFacts,
    files: &ContainerFiles,
) -> Result<Vec<Mount>, ContainerError> {
    let rw = if container.security.privileged { "rw" } else { "ro" };
    let mut mounts = Vec::new();
    for (destination, kind, source, options) in KERNEL {
        let options = options.iter().map(|option| if *option == "RW" { rw } else { option });
        mounts.push(mount(destination, kind, Path::new(source), options)?);
    }
    // A volume at one of these places is there instead.
    for (destination, source, writable) in pod_files(container, facts) {
        if !container.mounts.iter().any(|volume| volume.mount_path == destination) {
            mounts.push(bind(destination, source, writable, Propagation::None)?);
        }
    }
    let mut volumes = Vec::new();
    for (volume, source) in container.mounts.iter().zip(&files.sources) {
        volumes.push(bind(&volume.mount_path, source, !volume.read_only, volume.propagation)?);
    }
    volumes.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(volumes);
    Ok(mounts)
}

/// What belongs to the pod and is seen by each container: destination, source, whether it may be written.
fn pod_files<'a>(container: &Container, facts: &'a PodFacts) -> [(&'static str, &'a PathBuf, bool); 4] {
    let writable = !container.security.read_only_root_filesystem;
    [
        ("/dev/shm", &facts.shm, true),
        ("/etc/hosts", &facts.hosts, writable),
        ("/etc/hostname", &facts.hostname, writable),
        ("/etc/resolv.conf", &facts.resolv_conf, writable),
    ]
}

fn bind(destination: &str, source: &Path, writable: bool, propagation: Propagation) -> Result<Mount, ContainerError> {
    let propagation = match propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    mount(destination, "bind", source, ["rbind", propagation, if writable { "rw" } else { "ro" }])
}

fn mount<'a>(
    destination: &str,
    kind: &str,
    source: &Path,
    options: impl IntoIterator<Item = &'a str>,
) -> Result<Mount, ContainerError> {
    let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
    Ok(MountBuilder::default().destination(destination).typ(kind).source(source).options(options).build()?)
}

/// How the container's root is tied to the node's mounts: as closely as its closest volume, and not at all where
/// none asks for it (left out, it would be a runtime's default, which follows the node's mounts).
pub(super) fn root_propagation(container: &Container) -> &'static str {
    let has = |wanted: Propagation| container.mounts.iter().any(|mount| mount.propagation == wanted);
    if has(Propagation::Bidirectional) {
        "rshared"
    } else if has(Propagation::HostToContainer) {
        "rslave"
    } else {
        "rprivate"
    }
}
