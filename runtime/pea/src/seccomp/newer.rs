//! System calls that libseccomp has no name for yet.
//!
//! A profile may name calls that came after the library. Such a name would be skipped: one that is to be allowed would
//! be missing, and one that is to be refused would pass. Rules for them go before the library's part.

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSyscall};

use super::architecture::{self, X32};
use super::assemble::{load_arch, load_number, when_equal};
use crate::sys::seccomp::Instruction;

/// The first of [`CALLS`].
const FIRST: u32 = 451;

/// In their order: from Linux 5.1 on a call has the same number everywhere (include/uapi/asm-generic/unistd.h).
const CALLS: [&str; 19] = [
    "cachestat",
    "fchmodat2",
    "map_shadow_stack",
    "futex_wake",
    "futex_wait",
    "futex_requeue",
    "statmount",
    "listmount",
    "lsm_get_self_attr",
    "lsm_set_self_attr",
    "lsm_list_modules",
    "mseal",
    "setxattrat",
    "getxattrat",
    "listxattrat",
    "removexattrat",
    "open_tree_attr",
    "file_getattr",
    "file_setattr",
];

/// Where numbers begin at another one (arch/mips/include/uapi/asm/unistd.h) the calls stay unknown.
fn base(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X32 => Some(X32),
        ScmpArch::Mips
        | ScmpArch::Mipsel
        | ScmpArch::Mips64
        | ScmpArch::Mipsel64
        | ScmpArch::Mips64N32
        | ScmpArch::Mipsel64N32 => None,
        _ => Some(0),
    }
}

/// The number of a call that is not the library's to handle.
fn number(name: &str) -> Option<u32> {
    let number = FIRST + CALLS.iter().position(|each| *each == name)? as u32;
    ScmpSyscall::from_name(name).is_err().then_some(number)
}

/// The numbers that the rule is for on that architecture, by our table. Conditions are the library's affair.
pub fn numbers(rule: &LinuxSyscall, arch: ScmpArch) -> impl Iterator<Item = u32> {
    let base = base(arch).filter(|_| rule.args().as_ref().is_none_or(Vec::is_empty));
    rule.names().iter().filter_map(move |name| Some(base? + number(name)?))
}

/// The instructions for them, to stand before everything else.
pub fn prologue(seccomp: &LinuxSeccomp) -> Vec<Instruction> {
    let default = seccomp.default_action().as_u32(seccomp.default_errno_ret());
    let mut program = Vec::new();
    for arch in architecture::all(seccomp) {
        let mut calls: Vec<(u32, u32)> = Vec::new();
        for rule in seccomp.syscalls().iter().flatten() {
            let action = rule.action().as_u32(rule.errno_ret());
            for number in numbers(rule, arch).filter(|_| action != default) {
                // Of two rules for a call the first counts.
                if !calls.iter().any(|(earlier, _)| *earlier == number) {
                    calls.push((number, action));
                }
            }
        }
        if let Some(audit) = architecture::audit(arch).filter(|_| !calls.is_empty()) {
            let body = calls.iter().flat_map(|(number, action)| when_equal(*number, *action));
            // At most two for each call of the table.
            program.extend(load_arch(audit, 1 + 2 * calls.len() as u8));
            program.push(load_number());
            program.extend(body);
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::compile::compile;
    use super::super::interpret::{Call, run};
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const AARCH64: u32 = 0xc000_00b7;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
    const MSEAL: u32 = 462;

    fn program(default: &str, rules: Value) -> Vec<Instruction> {
        let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"];
        let profile = json!({"defaultAction": default, "architectures": architectures, "syscalls": rules});
        compile(&serde_json::from_value(profile).expect("a profile")).expect("compiles")
    }

    #[test]
    fn between_the_library_and_the_table_no_number_is_missing() {
        let last = FIRST + CALLS.len() as u32 - 1;
        for number in 424..=last {
            let known = ScmpSyscall::from(number as i32).get_name();
            let ours = number.checked_sub(FIRST).map(|index| CALLS[index as usize].to_owned());
            match (known, ours) {
                (Ok(known), Some(ours)) => assert_eq!(known, ours),
                (Err(_), None) => panic!("{number} has no name"),
                _ => {}
            }
        }
        let numbers = [(MSEAL, "mseal"), (452, "fchmodat2"), (469, "file_setattr")];
        assert!(numbers.iter().all(|(number, name)| CALLS[(number - FIRST) as usize] == *name));
    }

    #[test]
    fn a_call_newer_than_the_library_is_allowed_or_refused_as_the_profile_says() {
        let rules = |action: &str| json!([{"names": ["read", "mseal", "cachestat"], "action": action}]);
        let allowed = program("SCMP_ACT_ERRNO", rules("SCMP_ACT_ALLOW"));
        let refused = program("SCMP_ACT_ALLOW", rules("SCMP_ACT_ERRNO"));
        for (arch, bit) in [(X86_64, 0), (X86_64, X32), (AARCH64, 0)] {
            let answer = |program: &[Instruction], number: u32| run(program, &Call::new(arch, number | bit, &[]));
            assert_eq!(answer(&allowed, MSEAL), ALLOW);
            assert_eq!(answer(&allowed, MSEAL - 1), ERRNO | libc::EPERM as u32, "older than the newest named");
            assert_eq!(answer(&allowed, MSEAL + 1), ERRNO | libc::ENOSYS as u32, "newer than the newest named");
            assert_eq!(answer(&refused, MSEAL), ERRNO | libc::EPERM as u32);
            assert_eq!(answer(&refused, MSEAL + 1), ALLOW);
        }
    }
}
