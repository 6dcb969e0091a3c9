//! What the rest of peapod knows of a pod: checked, defaulted, in the units the kernel wants.
//!
//! These types are stored in the pod's record, so they serialize.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use serde::{Deserialize, Serialize};

/// A pod, as checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.name`, an RFC 1123 subdomain.
    pub name: String,
    /// `metadata.namespace`, `default` when absent; an RFC 1123 label.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hostname`, else the name, cut to the 63 characters a host name may have.
    pub hostname: String,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`: how long SIGTERM has before SIGKILL.
    pub termination_grace: Duration,
    /// The pod uses the node's network namespace.
    pub host_network: bool,
    /// The pod uses the node's PID namespace.
    pub host_pid: bool,
    /// The pod uses the node's IPC namespace.
    pub host_ipc: bool,
    /// The containers share one PID namespace.
    pub share_process_namespace: bool,
    /// What goes into `/etc/resolv.conf`.
    pub dns: Dns,
    /// Further lines of `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// `spec.securityContext.fsGroup`: the group that owns the emptyDir volumes.
    pub fs_group: Option<u32>,
    /// The volumes, in the manifest's order.
    pub volumes: Vec<Volume>,
    /// Run one after another to their end, before the containers.
    pub init_containers: Vec<Container>,
    /// The containers, in the manifest's order. Never empty.
    pub containers: Vec<Container>,
    /// The manifest as it was read, for `inspect`.
    pub manifest: v1::Pod,
}

impl Pod {
    /// Every container, those for initialisation first: the order they are started in.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Always (Kubernetes' default).
    #[default]
    Always,
    /// When it ended with another exit code than 0.
    OnFailure,
    /// Never.
    Never,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its name, an RFC 1123 label, unique in the pod.
    pub name: String,
    /// The image's reference as written.
    pub image: String,
    /// Replaces the image's entry point (and then its arguments are not used).
    pub command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub args: Option<Vec<String>>,
    /// The environment in order, `$(VAR)` not yet expanded.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// The ports it says it listens on, and those wanted on the node.
    pub ports: Vec<Port>,
    /// Which volume is seen where, in the manifest's order.
    pub mounts: Vec<VolumeMount>,
    /// What it may use.
    pub resources: Resources,
    /// With which rights it runs: the container's own setting over the pod's.
    pub security: Security,
    /// It gets a terminal.
    pub tty: bool,
    /// Its standard input stays open.
    pub stdin: bool,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// An IANA service name, unique in the pod's containers.
    pub name: Option<String>,
    /// Where the container listens, 1 to 65535.
    pub container_port: u16,
    /// The port of the node that leads there.
    pub host_port: Option<u16>,
    /// TCP when not said.
    pub protocol: Protocol,
    /// The node's address that leads there; all of them when absent.
    pub host_ip: Option<IpAddr>,
}

/// The transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// As the manifest writes it: `TCP`, `UDP`, `SCTP`. CNI's `portMappings` wants it in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// Where a container sees a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's name.
    pub volume: String,
    /// An absolute path in the container.
    pub mount_path: String,
    /// A path inside the volume, relative and without `..`; the whole volume when absent.
    pub sub_path: Option<String>,
    /// The container may not write.
    pub read_only: bool,
    /// Whether mounts made on one side are seen on the other.
    pub propagation: Propagation,
}

/// `mountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither side sees the other's later mounts (`rprivate`).
    #[default]
    None,
    /// The container sees the node's later mounts (`rslave`).
    HostToContainer,
    /// Each sees the other's (`rshared`); privileged containers only.
    Bidirectional,
}

/// What a container asks for and may not exceed. `None` is no request, no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU asked for, in thousandths of a processor; the limit's value when only that is set.
    pub cpu_request: Option<u64>,
    /// Most CPU, in thousandths of a processor.
    pub cpu_limit: Option<u64>,
    /// Memory asked for, in bytes; the limit's value when only that is set.
    pub memory_request: Option<u64>,
    /// Most memory, in bytes.
    pub memory_limit: Option<u64>,
}

/// With which rights a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// The user id, over the image's user.
    pub run_as_user: Option<u32>,
    /// The group id, over the image's group.
    pub run_as_group: Option<u32>,
    /// Refuse to run as user 0.
    pub run_as_non_root: bool,
    /// Further groups of the first process, `fsGroup` among them.
    pub supplemental_groups: Vec<u32>,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// The root file system is mounted read-only.
    pub read_only_root_filesystem: bool,
    /// `false` sets no_new_privs.
    pub allow_privilege_escalation: Option<bool>,
    /// Changes to the default capabilities.
    pub capabilities: Capabilities,
}

/// Changes to the default capabilities, by name without `CAP_` and in upper case; `ALL` is every one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Given besides the default ones.
    pub add: Vec<String>,
    /// Taken from the default ones.
    pub drop: Vec<String>,
}

/// A volume of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, an RFC 1123 label, unique in the pod.
    pub name: String,
    /// What is in it.
    pub source: VolumeSource,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// A directory that is empty at first and goes with the pod.
    EmptyDir {
        /// What it lies on.
        medium: Medium,
        /// Its size at most, in bytes. Enforced for [`Medium::Memory`] only.
        size_limit: Option<u64>,
    },
    /// A path of the node.
    HostPath {
        /// The path on the node.
        path: PathBuf,
        /// What has to be there, or is made.
        kind: HostPathType,
    },
}

/// What an emptyDir lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// The node's disk, under `--root`.
    #[default]
    Disk,
    /// A tmpfs of its own.
    Memory,
}

/// `hostPath.type`: what has to be at the path, or is made there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathType {
    /// Whatever is there; a directory is made (0755) when there is nothing.
    #[default]
    Any,
    /// A directory, made (0755) when there is nothing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made (0644, empty) when there is nothing; its directory has to exist.
    FileOrCreate,
    /// A file.
    File,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// The names it has.
    pub hostnames: Vec<String>,
}

/// What goes into `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Where the settings come from.
    pub policy: DnsPolicy,
    /// `dnsConfig.nameservers`, after those of the policy.
    pub nameservers: Vec<IpAddr>,
    /// `dnsConfig.searches`, after those of the policy.
    pub searches: Vec<String>,
    /// `dnsConfig.options`, over those of the policy with the same name.
    pub options: Vec<DnsOption>,
}

/// `spec.dnsPolicy`. Without a cluster there is no cluster DNS, so `ClusterFirst` and
/// `ClusterFirstWithHostNet` mean what kubelet makes of them in that case: the node's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The node's `/etc/resolv.conf`.
    #[default]
    Default,
    /// Only `dnsConfig`.
    None,
}

/// An option of `/etc/resolv.conf`, such as `ndots:2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOption {
    /// Its name.
    pub name: String,
    /// Its value, when it takes one.
    pub value: Option<String>,
}
