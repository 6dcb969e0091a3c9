//! One container of a pod as an OCI runtime specification.
//!
//! Pure: what goes in is the checked manifest, the image and where the pod's things lie; what comes
//! out is `config.json`. Of the disk it reads the image's `/etc/passwd` and `/etc/group`, nothing else.

mod accounts;
pub(crate) mod capability;
mod error;
mod expand;
mod mounts;
mod node;
mod process;
mod qos;
mod resources;
mod rootfs;
#[cfg(test)]
mod tests;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

pub use error::ContainerError;
pub use node::Node;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec, SpecBuilder,
};
pub use rootfs::{Rootfs, rootfs};

use crate::image::Image;
use crate::manifest::{Container, Pod};
use crate::volume::ContainerFiles;

/// The version of the OCI runtime specification written to.
const OCI_VERSION: &str = "1.1.0";

/// What of `/proc` and `/sys` is covered, as docker and containerd do.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What of `/proc` cannot be written.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

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

/// The specification of one start of a container.
///
/// # Errors
///
/// When neither the manifest nor the image names a command, when the image runs as a user it does not
/// have, or as root although that was forbidden.
pub fn spec(
    pod: &Pod,
    container: &Container,
    image: &Image,
    facts: &PodFacts,
    files: &ContainerFiles,
) -> Result<Spec, ContainerError> {
    let root = RootBuilder::default().path("rootfs").readonly(container.security.read_only_root_filesystem).build()?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(process::process(pod, container, image, facts)?)
        .mounts(mounts::mounts(container, facts, files)?)
        .linux(linux(pod, container, facts, files)?)
        .annotations(annotations(pod, container, facts))
        .build()?;
    // The host name is the pod's, set where its namespace is made; the builder has one of its own.
    spec.set_hostname(None);
    Ok(spec)
}

fn linux(pod: &Pod, container: &Container, facts: &PodFacts, files: &ContainerFiles) -> Result<Linux, ContainerError> {
    let privileged = container.security.privileged;
    let paths =
        |paths: &[&str]| if privileged { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() };
    let cgroup = format!("{}/{}-{}", facts.cgroup_parent.trim_end_matches('/'), container.name, files.attempt);
    let mut linux = LinuxBuilder::default()
        .cgroups_path(cgroup)
        .resources(resources::resources(container, &facts.node)?)
        .namespaces(namespaces(pod, container, facts)?)
        .masked_paths(paths(MASKED))
        .readonly_paths(paths(READ_ONLY))
        .build()?;
    linux.set_devices(privileged.then(|| facts.node.devices.clone()));
    linux.set_rootfs_propagation(Some(mounts::root_propagation(container).to_owned()));
    Ok(linux)
}

/// The pod's namespaces are joined by path, the container's own are made; what is the node's is not
/// mentioned. A pod in the node's network keeps the node's host name, as in Kubernetes.
fn namespaces(pod: &Pod, container: &Container, facts: &PodFacts) -> Result<Vec<LinuxNamespace>, ContainerError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let joined = |kind: LinuxNamespaceType, file: &str| {
        let path = PathBuf::from(format!("/proc/{}/ns/{file}", facts.sandbox_pid));
        LinuxNamespaceBuilder::default().typ(kind).path(path).build()
    };
    let made = |kind: LinuxNamespaceType| LinuxNamespaceBuilder::default().typ(kind).build();
    let mut namespaces = vec![made(Mount)?];
    if pod.share_process_namespace {
        namespaces.push(joined(Pid, "pid")?);
    } else if !pod.host_pid {
        namespaces.push(made(Pid)?);
    }
    if !pod.host_ipc {
        namespaces.push(joined(Ipc, "ipc")?);
    }
    if !pod.host_network {
        namespaces.push(joined(Uts, "uts")?);
        namespaces.push(joined(Network, "net")?);
    }
    if facts.node.cgroup_v2 && !container.security.privileged {
        namespaces.push(made(Cgroup)?);
    }
    Ok(namespaces)
}

/// Who the container is, for whoever looks at the bundle.
fn annotations(pod: &Pod, container: &Container, facts: &PodFacts) -> HashMap<String, String> {
    let entries = [
        ("io.peapod.pod", &facts.uid),
        ("io.peapod.name", &pod.name),
        ("io.peapod.namespace", &pod.namespace),
        ("io.peapod.container", &container.name),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
}
