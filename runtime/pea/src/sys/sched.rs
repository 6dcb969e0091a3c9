//! How a process is scheduled, on which processors, and where its memory comes from.

use std::io;

use super::check;

/// `struct sched_attr` in its second version (sched_setattr(2)). Linux before 5.3 takes it too while the clamps are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// Set by [`set_attributes`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as the next two.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    /// Utilization, as the next: nobody asks for it.
    pub clamp_min: u32,
    pub clamp_max: u32,
}

/// Sets the scheduling policy of this process.
pub fn set_attributes(attributes: Attributes) -> io::Result<()> {
    let attributes = Attributes { size: size_of::<Attributes>() as u32, ..attributes };
    // SAFETY: the kernel reads `size` bytes of the structure, which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// The processors this process may run on, a bit each; those beyond what the machine can have do not count.
pub fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) }).map(drop)
}

/// Sets the I/O priority of this process (ioprio_set(2)): the class, and the level in it.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: plain integers; 0 is this process.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << CLASS_SHIFT | level) }).map(drop)
}

/// Sets the memory policy of this process (set_mempolicy(2)): the mode with its flags, and the nodes, a bit each.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    let (mask, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel takes the number of bits for one too many.
        _ => (nodes.as_ptr(), nodes.len() * u64::BITS as usize + 1),
    };
    // SAFETY: the kernel reads as many bits as the slice has.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}
