//! Capabilities by name and number.

use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// By number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit that lets a process install a seccomp filter without giving up new privileges.
pub const SYS_ADMIN: u64 = 1 << 21;

/// The number of a capability, with or without its "CAP_", in either case.
pub fn number(name: &str) -> Option<u32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|each| *each == name).map(|number| number as u32)
}

/// All names, as specifications write them.
pub fn names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("CAP_{name}"))
}

/// The five sets as bits. A set that is not given is empty.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Sets {
    pub fn new(given: Option<&LinuxCapabilities>) -> Self {
        let Some(given) = given else { return Self::default() };
        Self {
            bounding: bits(given.bounding().as_ref()),
            effective: bits(given.effective().as_ref()),
            permitted: bits(given.permitted().as_ref()),
            inheritable: bits(given.inheritable().as_ref()),
            ambient: bits(given.ambient().as_ref()),
        }
    }
}

impl Sets {
    /// What of it a process can give itself that has the permitted set `held`. The bounding set only takes away.
    pub fn granted_by(self, held: u64) -> Self {
        Self {
            bounding: self.bounding,
            effective: self.effective & held,
            permitted: self.permitted & held,
            inheritable: self.inheritable & held,
            ambient: self.ambient & held,
        }
    }
}

/// The names in any of the sets that a process with the permitted set `held` cannot grant.
pub fn not_granted_by(held: u64, given: &LinuxCapabilities) -> impl Iterator<Item = String> {
    let Sets { bounding: _, effective, permitted, inheritable, ambient } = Sets::new(Some(given));
    let missing = (effective | permitted | inheritable | ambient) & !held;
    NAMES.iter().zip(0..).filter(move |(_, number)| missing & (1 << number) != 0).map(|(name, _)| format!("CAP_{name}"))
}

fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().filter_map(|each| number(&each.to_string())).fold(0, |bits, number| bits | 1 << number)
}

/// The numbers of the bits set.
pub fn numbers(bits: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |number| bits & (1 << number) != 0)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxCapabilities;

    use super::*;

    #[test]
    fn every_capability_of_the_specification_has_its_number() {
        for name in NAMES {
            let json = format!("\"CAP_{name}\"");
            let capability: oci_spec::runtime::Capability = serde_json::from_str(&json).expect("a known name");
            assert_eq!(number(&capability.to_string()), number(name), "{name}");
        }
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("CAP_SHOES"), None);
    }

    #[test]
    fn a_set_that_is_absent_is_empty() {
        let given: LinuxCapabilities =
            serde_json::from_str(r#"{"permitted": ["CAP_CHOWN", "CAP_KILL"]}"#).expect("sets");
        let sets = Sets::new(Some(&given));
        assert_eq!(sets, Sets { permitted: 0b10_0001, ..Sets::default() });
        assert_eq!(Sets::new(None), Sets::default());
        assert_eq!(sets.granted_by(0b1), Sets { permitted: 0b1, ..Sets::default() });
        assert_eq!(not_granted_by(0b1, &given).collect::<Vec<_>>(), ["CAP_KILL"]);
    }
}
