//! `pea features`

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::{json as encode, print};
use crate::error::Error;
use crate::process::capability;
use crate::rootfs;
use crate::seccomp;

/// Print what this runtime can do (runtime-spec, features.md)
#[derive(Debug, Args)]
pub struct Arguments {}

const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// Of seccomp(2), as SCMP_ACT_*.
const ACTIONS: [&str; 9] = ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP"];

/// SCMP_CMP_*.
const OPERATORS: [&str; 7] = ["EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"];

/// SCMP_ARCH_*.
const ARCHITECTURES: [&str; 17] = [
    "AARCH64",
    "ARM",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "RISCV64",
    "S390",
    "S390X",
    "X32",
    "X86",
    "X86_64",
];

/// SECCOMP_FILTER_FLAG_*.
const SECCOMP_FLAGS: [&str; 4] = ["LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV"];

/// MPOL_*, of set_mempolicy(2).
const MEMORY_MODES: [&str; 7] =
    ["BIND", "DEFAULT", "INTERLEAVE", "LOCAL", "PREFERRED", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE"];

/// MPOL_F_*.
const MEMORY_FLAGS: [&str; 3] = ["NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES"];

/// Annotations by which whoever writes a configuration can reach beyond the container.
const UNSAFE_ANNOTATIONS: [&str; 1] = ["org.systemd.property."];

pub fn run() -> Result<(), Error> {
    print(&encode(&document())?)
}

/// The document, as the specification has it.
pub fn document() -> serde_json::Value {
    let mount_options: BTreeSet<&str> = rootfs::option_names().into_iter().collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": mount_options,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capability::names().collect::<Vec<_>>(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": prefixed("SCMP_ACT_", &ACTIONS),
                "operators": prefixed("SCMP_CMP_", &OPERATORS),
                "archs": prefixed("SCMP_ARCH_", &ARCHITECTURES),
                "knownFlags": prefixed("SECCOMP_FILTER_FLAG_", &SECCOMP_FLAGS),
                "supportedFlags": seccomp::supported_flags().collect::<BTreeSet<_>>(),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": true}},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": prefixed("MPOL_", &MEMORY_MODES),
                "flags": prefixed("MPOL_F_", &MEMORY_FLAGS),
            },
            "netDevices": {"enabled": true},
        },
        "annotations": {"org.peapod.pea.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

fn prefixed(prefix: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{prefix}{name}")).collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{
        Arch, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, MemoryPolicyFlagType,
        MemoryPolicyModeType,
    };
    use serde::de::DeserializeOwned;

    use super::*;

    fn all_known<T: DeserializeOwned>(prefix: &str, names: &[&str]) {
        for name in prefixed(prefix, names) {
            serde_json::from_value::<T>(name.as_str().into()).expect(&name);
        }
    }

    #[test]
    fn what_is_said_can_be_read_from_a_configuration() {
        all_known::<LinuxSeccompAction>("SCMP_ACT_", &ACTIONS);
        all_known::<LinuxSeccompOperator>("SCMP_CMP_", &OPERATORS);
        all_known::<Arch>("SCMP_ARCH_", &ARCHITECTURES);
        all_known::<LinuxSeccompFilterFlag>("SECCOMP_FILTER_FLAG_", &SECCOMP_FLAGS);
        all_known::<MemoryPolicyModeType>("MPOL_", &MEMORY_MODES);
        all_known::<MemoryPolicyFlagType>("MPOL_F_", &MEMORY_FLAGS);
    }
}
