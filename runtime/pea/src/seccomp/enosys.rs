//! The prologue: system calls newer than the profile do not exist.
//!
//! C libraries try a new system call first and fall back on an old one when the kernel answers ENOSYS. A profile that
//! was written before the new call knows nothing of it, so its default action (mostly EPERM) would answer, and programs
//! would fail instead of falling back. A call whose number is beyond every call that the profile names is taken for
//! one its author could not know.
//!
//! Only loads of the number and the architecture, comparisons with constants and returns are used: with these the kernel
//! still finds out beforehand which calls are always allowed, and does not run the filter for them.

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use super::architecture::{self, X32};
use super::assemble::{answer, jump, load_arch, load_number};
use super::newer;
use crate::sys::seccomp::Instruction;

/// Beyond the newest call that a profile names, for one kind of calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Range {
    /// The calls' architecture, as filters see it.
    audit: u32,
    /// The largest number the profile names.
    newest: u32,
    /// The first number of another kind of calls.
    end: u32,
}

/// -1 is no call, but what a tracer sets to have one skipped.
const SKIPPED: u32 = u32::MAX;
/// From here on are calls of 32-bit Arm alone (`__ARM_NR_BASE`).
const ARM: u32 = 0x000f_0000;

/// The instructions to put before the filter of this profile.
pub fn prologue(seccomp: &LinuxSeccomp) -> Vec<Instruction> {
    if !refuses(seccomp) {
        return Vec::new();
    }
    let ranges = architecture::all(seccomp).into_iter().filter_map(|arch| range(seccomp, arch));
    ranges.flat_map(block).collect()
}

/// Where the default lets new calls through, or hands them to a tracer, the kernel or the tracer answers; and some
/// profiles answer ENOSYS by themselves.
fn refuses(seccomp: &LinuxSeccomp) -> bool {
    match seccomp.default_action() {
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace => false,
        LinuxSeccompAction::ScmpActErrno => seccomp.default_errno_ret() != Some(libc::ENOSYS as u32),
        _ => true,
    }
}

fn range(seccomp: &LinuxSeccomp, arch: ScmpArch) -> Option<Range> {
    let end = match arch {
        ScmpArch::X8664 => X32,
        ScmpArch::Arm => ARM,
        _ => SKIPPED,
    };
    let number = |name: &String| ScmpSyscall::from_name_by_arch(name, arch).ok().map(ScmpSyscall::as_raw_syscall);
    // Negative are calls that other architectures have.
    let number = move |name: &String| u32::try_from(number(name)?).ok();
    let rules = seccomp.syscalls().iter().flatten();
    let numbers = rules.flat_map(|rule| rule.names().iter().filter_map(number).chain(newer::numbers(rule, arch)));
    let newest = numbers.filter(|number| *number < end).max()?;
    Some(Range { audit: architecture::audit(arch)?, newest, end })
}

/// ```text
///    load arch;  if it is another: skip
///    load number;  if it is not beyond the newest: skip;  if it is of another kind: skip
///    return ENOSYS
/// ```
fn block(range: Range) -> [Instruction; 6] {
    let [arch, other] = load_arch(range.audit, 4);
    [
        arch,
        other,
        load_number(),
        jump(libc::BPF_JGT, range.newest, 0, 2),
        jump(libc::BPF_JGE, range.end, 1, 0),
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::interpret::{Call, run};
    use super::*;

    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    /// Stands for the filter behind the prologue.
    const FILTER: u32 = 7;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ARM_32: u32 = 0x4000_0028;

    fn profile(default: &str, architectures: &[&str], names: &[&str]) -> LinuxSeccomp {
        let rule = json!({"names": names, "action": "SCMP_ACT_ALLOW"});
        let value = json!({"defaultAction": default, "architectures": architectures, "syscalls": [rule]});
        serde_json::from_value(value).expect("a profile")
    }

    fn answer(seccomp: &LinuxSeccomp, arch: u32, number: u32) -> u32 {
        let mut program = prologue(seccomp);
        program.push(super::answer(FILTER));
        run(&program, &Call::new(arch, number, &[]))
    }

    /// Numbers of linux/unistd.h: openat2 is 437 everywhere; read is 0 on x86-64 and 3 on i386.
    #[test]
    fn a_call_beyond_the_newest_is_missing_on_each_architecture_by_its_own_numbers() {
        let both = profile("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], &["read", "write"]);
        assert_eq!(answer(&both, X86_64, 1), FILTER);
        assert_eq!(answer(&both, X86_64, 2), ENOSYS);
        assert_eq!(answer(&both, I386, 4), FILTER);
        assert_eq!(answer(&both, I386, 5), ENOSYS);
        let newer = profile("SCMP_ACT_KILL_PROCESS", &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], &["read", "openat2"]);
        for arch in [X86_64, I386] {
            assert_eq!(answer(&newer, arch, 437), FILTER);
            assert_eq!(answer(&newer, arch, 438), ENOSYS);
        }
    }

    #[test]
    fn architectures_not_named_and_the_skipped_call_are_left_to_the_filter() {
        let one = profile("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"], &["read"]);
        assert_eq!(answer(&one, I386, 500), FILTER);
        assert_eq!(answer(&one, X86_64, u32::MAX), FILTER);
    }

    #[test]
    fn x32_has_numbers_of_its_own_on_the_architecture_of_x86_64() {
        let plain = profile("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86_64"], &["openat2"]);
        assert_eq!(answer(&plain, X86_64, 438), ENOSYS);
        assert_eq!(answer(&plain, X86_64, X32 | 438), FILTER);
        let both = profile("SCMP_ACT_ERRNO", &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"], &["openat2"]);
        assert_eq!(answer(&both, X86_64, 438), ENOSYS);
        assert_eq!(answer(&both, X86_64, X32 | 437), FILTER);
        assert_eq!(answer(&both, X86_64, X32 | 438), ENOSYS);
    }

    #[test]
    fn calls_of_arm_alone_do_not_count_as_the_newest() {
        let arm = profile("SCMP_ACT_ERRNO", &["SCMP_ARCH_ARM"], &["openat2", "cacheflush", "set_tls"]);
        assert_eq!(answer(&arm, ARM_32, 437), FILTER);
        assert_eq!(answer(&arm, ARM_32, 438), ENOSYS);
        assert_eq!(answer(&arm, ARM_32, 0x000f_0005), FILTER);
    }

    #[test]
    fn there_is_no_prologue_where_new_calls_pass_or_get_enosys_anyway() {
        for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
            assert_eq!(prologue(&profile(default, &[], &["read"])), [], "{default}");
        }
        let mut own = profile("SCMP_ACT_ERRNO", &[], &["read"]);
        own.set_default_errno_ret(Some(libc::ENOSYS as u32));
        assert_eq!(prologue(&own), []);
        assert_eq!(prologue(&profile("SCMP_ACT_ERRNO", &[], &["shoe_polish"])), []);
    }
}
