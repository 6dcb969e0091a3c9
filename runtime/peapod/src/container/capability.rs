//! Capabilities: their names, the default set, and what a container ends up with.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::ContainerError;
use crate::manifest::Security;

/// Every capability of `capabilities(7)` by its name without `CAP_`.
const NAMES: &[(&str, Capability)] = &[
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("AUDIT_READ", Capability::AuditRead),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("KILL", Capability::Kill),
    ("LEASE", Capability::Lease),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MKNOD", Capability::Mknod),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_RAW", Capability::NetRaw),
    ("PERFMON", Capability::Perfmon),
    ("SETFCAP", Capability::Setfcap),
    ("SETGID", Capability::Setgid),
    ("SETPCAP", Capability::Setpcap),
    ("SETUID", Capability::Setuid),
    ("SYSLOG", Capability::Syslog),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("WAKE_ALARM", Capability::WakeAlarm),
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
/// none, then those added, without those dropped. A privileged container has all.
///
/// None is inheritable or ambient (CVE-2022-24769): a process of an ordinary user loses them at
/// execve(2), and `add` widens only what a set-user-ID program in the container may get.
pub(super) fn of(security: &Security) -> Result<LinuxCapabilities, ContainerError> {
    let set = set(security);
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

fn set(security: &Security) -> HashSet<Capability> {
    let all = || NAMES.iter().map(|(_, capability)| *capability).collect::<HashSet<_>>();
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
