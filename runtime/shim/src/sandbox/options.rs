//! What a client asks of a pod.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A namespace the containers of a pod share, in the runtime specification's spelling.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Interfaces, addresses, routes, ports.
    Network,
    /// Processes; held by a tiny init of the pod's own.
    Pid,
    /// The hostname.
    Uts,
}

/// Users and groups of a pod that are others on the node (user_namespaces(7)).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Users {
    /// The user ids.
    pub uids: Vec<IdRange>,
    /// The group ids.
    pub gids: Vec<IdRange>,
}

/// One line of a uid_map or gid_map.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdRange {
    /// The first id, as the pod has it.
    pub inside: u32,
    /// The same, as the node has it.
    pub outside: u32,
    /// How many there are.
    pub size: u32,
}

impl Users {
    /// The user and the group on the node that are the pod's root.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none: root of the pod owns its files and holds its namespaces.
    pub fn root(&self) -> Result<(u32, u32), Error> {
        let zero = |ranges: &[IdRange]| ranges.iter().find(|range| range.inside == 0 && range.size > 0).copied();
        match (zero(&self.uids), zero(&self.gids)) {
            (Some(user), Some(group)) => Ok((user.outside, group.outside)),
            _ => Err(Error::invalid("users: a pod with a user namespace needs user 0 and group 0 in it")),
        }
    }
}

/// The options of `CreateSandbox`: an `Any` of type [`SandboxOptions::TYPE_URL`] whose value is this as JSON.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxOptions {
    /// The pod's hostname, set when [`Namespace::Uts`] is asked for. Empty leaves the node's.
    pub hostname: String,
    /// The namespaces to make for the pod; the others stay the node's.
    pub namespaces: Vec<Namespace>,
    /// The `cgroupsPath` under which all containers of the pod have theirs; killed and removed with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_parent: Option<PathBuf>,
    /// The state root of the containers. Nothing but this pod's containers may live there:
    /// the `delete` action of the pod's bundle ends all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pea_root: Option<PathBuf>,
    /// Let systemd make the control groups.
    pub systemd_cgroup: bool,
    /// Kernel parameters of the pod's namespaces, by their dotted names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// The users of the pod's own user namespace; the node's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Users>,
    /// The files to make for the containers; none where the client makes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<PodFiles>,
}

/// What is in the files that the containers of a pod have in common.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodFiles {
    /// `/etc/hostname`; the node's name when empty.
    pub hostname: String,
    /// `/etc/resolv.conf`; the node's when empty.
    pub dns: Dns,
    /// Whether the pod has a `/dev/shm` of its own; the node's otherwise.
    pub private_shm: bool,
}

/// How names are looked up (resolv.conf(5)).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// `nameserver`
    pub servers: Vec<String>,
    /// `search`
    pub searches: Vec<String>,
    /// `options`
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.searches.is_empty() && self.options.is_empty()
    }
}

/// The namespaces that kernel parameters belong to (namespaces(7), runtime-spec: config-linux.md#sysctl).
const SYSCTLS: &[(&str, Namespace)] = &[
    ("fs.mqueue.", Namespace::Ipc),
    ("kernel.domainname.", Namespace::Uts),
    ("kernel.msgmax.", Namespace::Ipc),
    ("kernel.msgmnb.", Namespace::Ipc),
    ("kernel.msgmni.", Namespace::Ipc),
    ("kernel.sem.", Namespace::Ipc),
    ("kernel.shm", Namespace::Ipc),
    ("net.", Namespace::Network),
];

impl SandboxOptions {
    /// The type of the `Any` that carries these options.
    pub const TYPE_URL: &'static str = "peapod.v1.SandboxOptions";

    /// Packs the options for the wire.
    pub fn to_any(&self) -> Result<Any, Error> {
        let value = serde_json::to_vec(self).map_err(|source| Error::json("write the sandbox's options", source))?;
        Ok(Any { type_url: Self::TYPE_URL.to_owned(), value, ..Default::default() })
    }

    /// Reads the options from the wire.
    ///
    /// # Errors
    /// `InvalidArgument` when the value is not the JSON described here.
    pub fn from_any(any: &Any) -> Result<Self, Error> {
        serde_json::from_slice(&any.value).map_err(|source| Error::invalid(format!("sandbox options: {source}")))
    }

    /// Checks what could otherwise only be found out when the pod is to be removed.
    ///
    /// # Errors
    /// `InvalidArgument` for a cgroup that is the root or may lead there: with the pod, everything in it is killed.
    pub fn check(&self) -> Result<(), Error> {
        let below_the_root = |path: &PathBuf| {
            let mut parts = path.components();
            parts.next() == Some(Component::RootDir)
                && parts.clone().next().is_some()
                && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(path) = self.cgroup_parent.as_ref().filter(|path| !below_the_root(path)) {
            let path = path.display();
            return Err(Error::invalid(format!("cgroup_parent: {path} is not an absolute path below the root")));
        }
        self.users.as_ref().map(Users::root).transpose()?;
        self.sysctls.keys().try_for_each(|name| self.check_sysctl(name))
    }

    /// A parameter that belongs to none of the pod's namespaces is the node's, and not the pod's to set.
    fn check_sysctl(&self, name: &str) -> Result<(), Error> {
        let plain = name.split('.').all(|part| !part.is_empty() && !part.contains('/'));
        let owner = SYSCTLS.iter().find(|(prefix, _)| name == prefix.trim_end_matches('.') || name.starts_with(prefix));
        match owner {
            Some((_, namespace)) if plain && self.has(*namespace) => Ok(()),
            _ => Err(Error::invalid(format!("sysctl {name}: belongs to no namespace that the pod has to itself"))),
        }
    }

    /// Whether the pod has that namespace to itself.
    pub fn has(&self, namespace: Namespace) -> bool {
        self.namespaces.contains(&namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_sysctl(name: &str, namespaces: &[Namespace]) -> Result<(), Error> {
        let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        SandboxOptions { sysctls, namespaces: namespaces.to_vec(), ..SandboxOptions::default() }.check()
    }

    #[test]
    fn a_parameter_is_set_only_in_a_namespace_of_the_pods_own() {
        let all = [Namespace::Ipc, Namespace::Network, Namespace::Uts];
        for (name, namespace) in [
            ("net.ipv4.ip_forward", Namespace::Network),
            ("kernel.sem", Namespace::Ipc),
            ("kernel.shmmax", Namespace::Ipc),
            ("fs.mqueue.msg_max", Namespace::Ipc),
            ("kernel.domainname", Namespace::Uts),
        ] {
            assert!(with_sysctl(name, &[namespace]).is_ok(), "{name}");
            let others: Vec<Namespace> = all.into_iter().filter(|other| *other != namespace).collect();
            let refused = with_sysctl(name, &others).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "kernel",
            "net..x",
            "net./etc/passwd",
            "net.a/../../kernel/panic",
            ".net.x",
            "",
        ] {
            assert!(with_sysctl(name, &all).is_err(), "{name}");
        }
    }

    #[test]
    fn a_cgroup_that_is_or_may_lead_to_the_root_is_refused() {
        let check = |path: &str| {
            SandboxOptions { cgroup_parent: Some(path.into()), ..SandboxOptions::default() }.check().is_ok()
        };
        assert!(check("/kubepods/pod1") && check("/a"));
        for path in ["", "/", "//", "relative", "..", "/..", "/a/..", "/a/../..", "../a"] {
            assert!(!check(path), "{path}");
        }
    }

    #[test]
    fn names_are_looked_up_by_the_pod_if_it_says_anything_about_it() {
        let one = || vec!["x".to_owned()];
        assert!(Dns::default().is_empty());
        assert!(!Dns { servers: one(), ..Dns::default() }.is_empty());
        assert!(!Dns { searches: one(), ..Dns::default() }.is_empty());
        assert!(!Dns { options: one(), ..Dns::default() }.is_empty());
    }
}
