//! Runs a filter on paper: what would the kernel do with this call?

use crate::sys::seccomp::Instruction;

const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// `struct seccomp_data`, as the words a filter can load.
pub struct Call([u32; 16]);

impl Call {
    pub fn new(arch: u32, number: u32, arguments: &[u64]) -> Self {
        let mut words = [0; 16];
        (words[0], words[1]) = (number, arch);
        for (index, argument) in arguments.iter().enumerate() {
            let [low, high] = [*argument as u32, (*argument >> 32) as u32];
            let pair = if cfg!(target_endian = "little") { [low, high] } else { [high, low] };
            words[4 + 2 * index..6 + 2 * index].copy_from_slice(&pair);
        }
        Self(words)
    }
}

/// The `SECCOMP_RET_*` value the program comes to; like the kernel, kills for what is no program.
pub fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Some(&Instruction { code, jt, jf, k }) = program.get(at) else { return KILL };
        let (class, operation) = (u32::from(code) & 0x07, u32::from(code) & 0xf0);
        at += 1;
        match class {
            libc::BPF_LD => accumulator = call.0.get(k as usize / 4).copied().unwrap_or(0),
            libc::BPF_ALU if operation == libc::BPF_AND => accumulator &= k,
            libc::BPF_RET => return k,
            libc::BPF_JMP if operation == libc::BPF_JA => at += k as usize,
            libc::BPF_JMP => {
                let holds = match operation {
                    libc::BPF_JEQ => accumulator == k,
                    libc::BPF_JGT => accumulator > k,
                    libc::BPF_JGE => accumulator >= k,
                    libc::BPF_JSET => accumulator & k != 0,
                    _ => return KILL,
                };
                at += usize::from(if holds { jt } else { jf });
            }
            _ => return KILL,
        }
    }
}
