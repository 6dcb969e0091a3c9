//! A container's state as the specification and its callers want to read it.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::store::Record;

/// Where a container stands in its life (runtime-spec, "State").
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is under way.
    Creating,
    /// The environment stands; the user's program waits for `start`.
    Created,
    /// The user's program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// The user's program has ended (or the creation broke off).
    Stopped,
}

/// A container's state: the specification's fields, then those that runc adds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification this state follows.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The init's pid in the caller's pid namespace; 0 once it has ended.
    pub pid: i32,
    /// Where the container stands.
    pub status: Status,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The root file system's absolute path.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339 in UTC.
    pub created: String,
    /// The annotations of the `config.json`.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// The name of the user who created it (empty for root, as runc has it).
    pub owner: String,
}

impl State {
    pub(crate) fn of(record: &Record, status: Status, pid: i32) -> Self {
        Self {
            oci_version: crate::OCI_VERSION.to_owned(),
            id: record.id.clone(),
            pid,
            status,
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: record.annotations.clone(),
            owner: String::new(),
        }
    }
}

/// What a supervisor wants to know of a container's specification without reading it again: that is long, and takes many
/// times its length when it is taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traits {
    /// Whether other programs run when its own is started (`poststart` hooks). They may take their time.
    pub start_hooks: bool,
    /// Whether its processes die with its init, by the kernel's doing: it has a pid namespace of its own.
    pub own_pid_namespace: bool,
}

impl Traits {
    pub(crate) fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
        Self {
            start_hooks: hooks.is_some_and(|hooks| !hooks.is_empty()),
            own_pid_namespace: namespaces
                .into_iter()
                .flatten()
                .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none()),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}
