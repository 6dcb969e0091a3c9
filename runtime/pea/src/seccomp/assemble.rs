//! The few kinds of instructions that our own part of a filter is made of.

use crate::sys::seccomp::Instruction;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;

/// Loads the architecture, and skips so many instructions after these when it is another.
pub fn load_arch(audit: u32, skip: u8) -> [Instruction; 2] {
    /// Where `struct seccomp_data` has it.
    const ARCH: u32 = 4;
    [instruction(LOAD, ARCH, 0, 0), jump(libc::BPF_JEQ, audit, 0, skip)]
}

/// Loads the number of the call.
pub fn load_number() -> Instruction {
    /// Where `struct seccomp_data` has it.
    const NUMBER: u32 = 0;
    instruction(LOAD, NUMBER, 0, 0)
}

/// Returns `action` when the number loaded is this one.
pub fn when_equal(number: u32, action: u32) -> [Instruction; 2] {
    [jump(libc::BPF_JEQ, number, 0, 1), answer(action)]
}

/// Skips `jt` instructions when the comparison with `k` holds, else `jf`.
pub fn jump(operation: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    instruction(libc::BPF_JMP | operation | libc::BPF_K, k, jt, jf)
}

/// Ends the program with that action.
pub fn answer(action: u32) -> Instruction {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: code as u16, jt, jf, k }
}
