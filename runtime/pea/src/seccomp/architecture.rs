//! Architectures: the specification's names, libseccomp's, and the kernel's.

use libseccomp::ScmpArch;
use oci_spec::runtime::{Arch, LinuxSeccomp};

/// In the numbers of x32's calls (`__X32_SYSCALL_BIT`), whose architecture is that of x86-64.
pub const X32: u32 = 0x4000_0000;

/// libseccomp's name of an architecture.
pub fn of(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// The architectures a filter of this profile knows, each once: those given, and always the machine's own.
pub fn all(seccomp: &LinuxSeccomp) -> Vec<ScmpArch> {
    let native = ScmpArch::native();
    let mut all = vec![native];
    for arch in seccomp.architectures().iter().flatten() {
        let arch = match of(*arch) {
            ScmpArch::Native => native,
            arch => arch,
        };
        if !all.contains(&arch) {
            all.push(arch);
        }
    }
    all
}

/// The value a filter finds in `seccomp_data.arch` (linux/audit.h, `AUDIT_ARCH_*`).
///
/// libseccomp's tokens are these values, but for x32, which the kernel tells from x86-64 by the number of the call.
pub fn audit(arch: ScmpArch) -> Option<u32> {
    let names = [
        (ScmpArch::X86, 0x4000_0003),
        (ScmpArch::X8664, 0xc000_003e),
        (ScmpArch::X32, 0xc000_003e),
        (ScmpArch::Arm, 0x4000_0028),
        (ScmpArch::Aarch64, 0xc000_00b7),
        (ScmpArch::Mips, 0x0000_0008),
        (ScmpArch::Mips64, 0x8000_0008),
        (ScmpArch::Mips64N32, 0xa000_0008),
        (ScmpArch::Mipsel, 0x4000_0008),
        (ScmpArch::Mipsel64, 0xc000_0008),
        (ScmpArch::Mipsel64N32, 0xe000_0008),
        (ScmpArch::Ppc, 0x0000_0014),
        (ScmpArch::Ppc64, 0x8000_0015),
        (ScmpArch::Ppc64Le, 0xc000_0015),
        (ScmpArch::S390, 0x0000_0016),
        (ScmpArch::S390X, 0x8000_0016),
        (ScmpArch::Parisc, 0x0000_000f),
        (ScmpArch::Parisc64, 0x8000_000f),
        (ScmpArch::Riscv64, 0xc000_00f3),
        (ScmpArch::Loongarch64, 0xc000_0102),
        (ScmpArch::M68k, 0x0000_0004),
        (ScmpArch::Sh, 0x4000_002a),
        (ScmpArch::Sheb, 0x0000_002a),
    ];
    names.iter().find(|(each, _)| *each == arch).map(|(_, value)| *value)
}
