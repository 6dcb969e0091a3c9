//! Capabilities: their names, the default set, and what a container ends up with.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::ContainerError;
use crate::manifest::Security;

/// Every capability by its name without `CAP_`, each at the place of its number in linux/capability.h.
const NAMES: &[(&str, Capability)] = &[
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("KILL", Capability::Kill),
    ("SETGID", Capability::Setgid),
    ("SETUID", Capability::Setuid),
    ("SETPCAP", Capability::Setpcap),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_RAW", Capability::NetRaw),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("MKNOD", Capability::Mknod),
    ("LEASE", Capability::Lease),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("SETFCAP", Capability::Setfcap),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("SYSLOG", Capability::Syslog),
    ("WAKE_ALARM", Capability::WakeAlarm),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("AUDIT_READ", Capability::AuditRead),
    ("PERFMON", Capability::Perfmon),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What docker and containerd give when nothing is said.
const DEFAULT: &[Capability] = &[
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability by its name without `CAP_`.
pub(crate) fn names() -> &'static [(&'static str, Capability)] {
    NAMES
}

/// The capabilities a container runs with: the default ones or, when `ALL` is added or dropped, all or
/// none, then those added, without those dropped. A privileged container has all. "All" are those of `available`,
/// our own as the kernel's bit set: nobody can give what they do not have, on a node that is itself a container.
///
/// None is inheritable or ambient (CVE-2022-24769): a process of an ordinary user loses them at
/// execve(2), and `add` widens only what a set-user-ID program in the container may get.
pub(super) fn of(security: &Security, available: u64) -> Result<LinuxCapabilities, ContainerError> {
    let set = set(security, available);
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

fn set(security: &Security, available: u64) -> HashSet<Capability> {
    let all = || -> HashSet<Capability> {
        let ours = NAMES.iter().enumerate().filter(|(number, _)| available >> number & 1 == 1);
        ours.map(|(_, (_, capability))| *capability).collect()
    };
    if security.privileged {
        return all();
    }
    let find = |name: &String| NAMES.iter().find(|(other, _)| *other == name).map(|(_, capability)| *capability);
    let everything = |list: &[String]| list.iter().any(|name| name == "ALL");
    let (add, drop) = (&security.capabilities.add, &security.capabilities.drop);
    let mut set = match (everything(add), everything(drop)) {
        (true, _) => all(),
        (false, true) => HashSet::new(),
        (false, false) => DEFAULT.iter().copied().collect(),
    };
    set.extend(add.iter().filter_map(find));
    // A capability both added by name and dropped by ALL stays: `drop: [ALL], add: [X]` is how
    // Kubernetes' restricted profile is written.
    for capability in drop.iter().filter_map(find) {
        set.remove(&capability);
    }
    set
}
