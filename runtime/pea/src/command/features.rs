//! `pea features`

use clap::Args;
use serde_json::json;

use super::{json as encode, print};
use crate::error::Error;
use crate::process::capability;

/// Print what this runtime can do (runtime-spec, features.md)
#[derive(Debug, Args)]
pub struct Arguments {}

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

const MOUNT_OPTIONS: [&str; 25] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rro",
    "rnodev",
    "rnoexec",
    "rnosuid",
    "rw",
    "strictatime",
    "suid",
];

pub fn run() -> Result<(), Error> {
    let none = json!({"enabled": false});
    print(&encode(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capability::names().collect::<Vec<_>>(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "mountExtensions": {"idmap": none},
            "intelRdt": {"enabled": true},
        },
    }))?)
}
