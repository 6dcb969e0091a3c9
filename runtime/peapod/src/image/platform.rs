//! Which of several images is the one for this machine.

use oci_spec::image::{Arch, Os};

/// This machine's architecture, as images call it.
pub(super) fn machine() -> Arch {
    match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "x86" => Arch::i386,
        "aarch64" => Arch::ARM64,
        "arm" => Arch::ARM,
        "powerpc64" if cfg!(target_endian = "little") => Arch::PowerPC64le,
        "riscv64" => Arch::RISCV64,
        "s390x" => Arch::s390x,
        other => Arch::Other(other.to_owned()),
    }
}

/// Whether an image for this system and architecture runs on this machine.
pub(super) fn fits(os: &Os, architecture: &Arch) -> bool {
    *os == Os::Linux && *architecture == machine()
}

/// How much a variant asks of the machine: the one every machine of the architecture has comes first.
pub(super) fn rank(variant: Option<&str>) -> u8 {
    match variant {
        None | Some("" | "v1") => 0,
        Some("v8") => 1,
        Some("v7") => 2,
        Some("v6") => 3,
        Some("v5") => 4,
        Some(_) => 5,
    }
}

/// `os/architecture[/variant]`.
pub(super) fn text(os: &Os, architecture: &Arch, variant: Option<&str>) -> String {
    match variant.filter(|variant| !variant.is_empty()) {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    }
}
