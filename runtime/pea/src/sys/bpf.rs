//! BPF programs that decide about devices (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, own};

/// One instruction as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    pub code: u8,
    /// The destination in the low half, the source in the high one (on a little-endian machine; see [`registers`]).
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The two register numbers in one byte: bit fields, whose order is the machine's.
pub const fn registers(destination: u8, source: u8) -> u8 {
    if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source }
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// Beside the programs of the groups above, of which every one has its say.
const ALLOW_MULTI: u32 = 1 << 1;

/// The part of `union bpf_attr` that loading a program reads.
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` that attaching a program reads.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Hands a program to the kernel, which checks it; it lives as long as it is open or attached.
pub fn load_device_program(instructions: &[Instruction], license: &CStr) -> io::Result<OwnedFd> {
    let attributes = Load {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"pea_devices\0\0\0\0\0",
    };
    let size = size_of::<Load>();
    // SAFETY: the attributes are of that size, and what they point to outlives the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &attributes, size) }).map(own)
}

/// Has a program decide for the processes of a cgroup (a directory of the unified hierarchy) and of those below.
pub fn attach_device_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    let size = size_of::<Attach>();
    // SAFETY: the attributes are of that size and outlive the call; both descriptors are open.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attributes, size) }).map(drop)
}
