//! `linux.personality` (personality(2)).

use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain};

use crate::error::{Error, ErrorKind};

/// linux/personality.h. The specification names no flags yet; these are the kernel's own names.
const FLAGS: [(&str, u32); 11] = [
    ("UNAME26", 0x002_0000),
    ("ADDR_NO_RANDOMIZE", 0x004_0000),
    ("FDPIC_FUNCPTRS", 0x008_0000),
    ("MMAP_PAGE_ZERO", 0x010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x020_0000),
    ("READ_IMPLIES_EXEC", 0x040_0000),
    ("ADDR_LIMIT_32BIT", 0x080_0000),
    ("SHORT_INODE", 0x100_0000),
    ("WHOLE_SECONDS", 0x200_0000),
    ("STICKY_TIMEOUTS", 0x400_0000),
    ("ADDR_LIMIT_3GB", 0x800_0000),
];

/// The value for personality(2).
pub fn value(given: &LinuxPersonality) -> Result<libc::c_ulong, Error> {
    const PER_LINUX32: u32 = 0x0008;
    let mut value = match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    for name in given.flags().iter().flatten() {
        let Some((_, bit)) = FLAGS.iter().find(|(each, _)| each == name) else {
            let text = format!("config.json: linux.personality.flags: {name:?} is not known");
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        value |= bit;
    }
    Ok(value.into())
}
