//! From a profile to a program, by libseccomp.

use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::{architecture, enosys, newer};
use crate::error::Error;
use crate::sys::seccomp::{Instruction, LONGEST};

/// The size of an instruction.
pub const SIZE: usize = 8;

/// From so many system calls on, a tree of comparisons is faster than a list. (libseccomp up to 2.5.4 makes a wrong
/// tree of no rules at all.)
const TREE: usize = 32;

/// The program of a profile: our prologue, then libseccomp's part.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<Instruction>, Error> {
    let mut program = newer::prologue(seccomp);
    program.extend(enosys::prologue(seccomp));
    program.extend(rules(seccomp)?);
    if program.len() > LONGEST {
        let text = format!(
            "config.json: linux.seccomp: the filter has {} instructions, of which the kernel takes {LONGEST}",
            program.len()
        );
        return Err(Error::spec(text));
    }
    Ok(program)
}

fn rules(seccomp: &LinuxSeccomp) -> Result<Vec<Instruction>, Error> {
    let default = action(seccomp.default_action(), seccomp.default_errno_ret());
    let mut context = ScmpFilterContext::new(default).map_err(|error| failure("defaultAction", &error))?;
    for arch in architecture::all(seccomp) {
        context.add_arch(arch).map_err(|error| failure(&format!("architectures: {arch:?}"), &error))?;
    }
    let rules = seccomp.syscalls().as_deref().unwrap_or_default();
    if rules.iter().map(|rule| rule.names().len()).sum::<usize>() > TREE {
        // A library that has no trees makes a list.
        let _ = context.set_ctl_optimize(2);
    }
    for rule in rules {
        let action = action(rule.action(), rule.errno_ret());
        // What happens anyway is no rule; libseccomp would refuse it.
        if action != default {
            add(&mut context, rule, action)?;
        }
    }
    export(&context)
}

fn failure(what: &str, error: &dyn std::error::Error) -> Error {
    Error::spec(format!("config.json: linux.seccomp: {what}: {error}"))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    // Checked to be small enough.
    let data = errno.map_or(libc::EPERM as u16, |errno| errno as u16);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(data.into()),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(data),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    }
}

/// A name the library does not know is skipped: profiles name what some kernels have, and others have not.
fn add(context: &mut ScmpFilterContext, rule: &LinuxSyscall, action: ScmpAction) -> Result<(), Error> {
    let conditions: Vec<_> = rule.args().iter().flatten().map(condition).collect();
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        let added = match each_alone(rule) {
            true => conditions
                .iter()
                .try_for_each(|one| context.add_rule_conditional(action, call, std::slice::from_ref(one)).map(drop)),
            false => context.add_rule_conditional(action, call, &conditions).map(drop),
        };
        added.map_err(|error| failure(&format!("a rule for {name}"), &error))?;
    }
    Ok(())
}

/// All conditions of a rule must hold, unless two of them are about the same argument: then one is enough, as profiles
/// written for runc and crun expect.
fn each_alone(rule: &LinuxSyscall) -> bool {
    let indices: Vec<usize> = rule.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    indices.iter().enumerate().any(|(position, index)| indices[..position].contains(index))
}

fn condition(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), second),
    };
    ScmpArgCompare::new(argument.index() as u32, operator, value)
}

/// The library writes programs to descriptors only.
fn export(context: &ScmpFilterContext) -> Result<Vec<Instruction>, Error> {
    let file = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).map_err(|error| Error::io("make a memfd", error))?;
    context.export_bpf(&file).map_err(|error| failure("compile the filter", &error))?;
    let (mut file, mut bytes) = (File::from(file), Vec::new());
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map_err(|error| Error::io("read the compiled filter", error))?;
    decode(&bytes).ok_or_else(|| Error::internal("libseccomp wrote half an instruction"))
}

/// Instructions as the kernel reads them from memory; none when there is a part of one, or nothing.
pub fn decode(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (instructions, rest) = bytes.as_chunks::<SIZE>();
    let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; SIZE]| Instruction {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    (rest.is_empty() && !instructions.is_empty()).then(|| instructions.iter().map(instruction).collect())
}

/// The reverse of [`decode`].
pub fn encode(program: &[Instruction]) -> impl Iterator<Item = u8> {
    program.iter().flat_map(|each| {
        let ([c0, c1], [k0, k1, k2, k3]) = (each.code.to_ne_bytes(), each.k.to_ne_bytes());
        [c0, c1, each.jt, each.jf, k0, k1, k2, k3]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::interpret::{Call, run};
    use super::*;

    fn profile(value: Value) -> LinuxSeccomp {
        serde_json::from_value(value).expect("a profile")
    }

    fn call(name: &str, arguments: &[u64]) -> Call {
        let native = libseccomp::ScmpArch::native();
        let number = ScmpSyscall::from_name(name).expect("a known call").as_raw_syscall();
        Call::new(architecture::audit(native).expect("known"), number as u32, arguments)
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

    #[test]
    fn every_action_becomes_what_the_kernel_calls_it() {
        let actions = [
            ("SCMP_ACT_KILL", None, libc::SECCOMP_RET_KILL_THREAD),
            ("SCMP_ACT_KILL_THREAD", None, libc::SECCOMP_RET_KILL_THREAD),
            ("SCMP_ACT_KILL_PROCESS", None, libc::SECCOMP_RET_KILL_PROCESS),
            ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
            ("SCMP_ACT_ERRNO", None, EPERM),
            ("SCMP_ACT_ERRNO", Some(38), libc::SECCOMP_RET_ERRNO | 38),
            ("SCMP_ACT_TRACE", None, libc::SECCOMP_RET_TRACE | 1),
            ("SCMP_ACT_TRACE", Some(77), libc::SECCOMP_RET_TRACE | 77),
            ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
            ("SCMP_ACT_NOTIFY", None, libc::SECCOMP_RET_USER_NOTIF),
        ];
        for (action, errno, expected) in actions {
            let rule = json!({"names": ["mkdir"], "action": action, "errnoRet": errno});
            let program =
                compile(&profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))).expect("compiles");
            assert_eq!(run(&program, &call("mkdir", &[])), expected, "{action} {errno:?}");
            assert_eq!(run(&program, &call("rmdir", &[])), ALLOW, "{action} concerns others");
        }
    }

    #[test]
    fn every_operator_compares_all_64_bits() {
        const BIG: u64 = 0x1_0000_0005;
        let operators = [
            ("SCMP_CMP_NE", BIG, None, [true, false, true]),
            ("SCMP_CMP_LT", BIG, None, [true, false, false]),
            ("SCMP_CMP_LE", BIG, None, [true, true, false]),
            ("SCMP_CMP_EQ", BIG, None, [false, true, false]),
            ("SCMP_CMP_GE", BIG, None, [false, true, true]),
            ("SCMP_CMP_GT", BIG, None, [false, false, true]),
            ("SCMP_CMP_MASKED_EQ", 0x1_0000_0003, Some(0x1_0000_0001u64), [false, true, false]),
        ];
        for (operator, value, two, matches) in operators {
            let argument = json!({"index": 2, "op": operator, "value": value, "valueTwo": two});
            let rule = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [argument]});
            let program =
                compile(&profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))).expect("compiles");
            for (given, expected) in [5, BIG, 0x2_0000_0000].into_iter().zip(matches) {
                let result = run(&program, &call("read", &[0, 0, given]));
                assert_eq!(result == EPERM, expected, "{operator} {given:#x}");
            }
        }
    }

    #[test]
    fn conditions_of_different_arguments_must_all_hold_and_of_one_argument_any() {
        let rule = |second: u32| {
            let args = json!([
                {"index": 0, "op": "SCMP_CMP_EQ", "value": 1},
                {"index": second, "op": "SCMP_CMP_EQ", "value": 2},
            ]);
            let rule = json!({"names": ["dup2"], "action": "SCMP_ACT_ERRNO", "args": args});
            compile(&profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))).expect("compiles")
        };
        let results = |program: &[Instruction]| {
            [[1, 2], [1, 3], [2, 2], [3, 3]].map(|arguments| run(program, &call("dup2", &arguments)) == EPERM)
        };
        assert_eq!(results(&rule(1)), [true, false, false, false]);
        assert_eq!(results(&rule(0)), [true, true, true, false]);
    }

    #[test]
    fn unknown_names_and_rules_that_repeat_the_default_are_no_error() {
        let rules = json!([
            {"names": ["shoe_polish", "mkdir", ""], "action": "SCMP_ACT_ALLOW"},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        ]);
        let program =
            compile(&profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}))).expect("compiles");
        assert_eq!(run(&program, &call("mkdir", &[])), ALLOW);
        assert_eq!(run(&program, &call("link", &[])), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        assert_eq!(run(&program, &call("rmdir", &[])), EPERM);
    }

    #[test]
    fn an_architecture_that_is_not_named_is_killed_and_the_own_one_is_always_named() {
        let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"});
        // mkdirat's number there.
        let foreign = Call::new(architecture::audit(libseccomp::ScmpArch::Aarch64).expect("known"), 34, &[]);
        let mut spec = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        for architectures in [json!(null), json!(["SCMP_ARCH_RISCV64"])] {
            spec["architectures"] = architectures;
            let program = compile(&profile(spec.clone())).expect("compiles");
            assert_eq!(run(&program, &foreign), libc::SECCOMP_RET_KILL_THREAD);
            assert_eq!(run(&program, &call("mkdir", &[])), EPERM);
        }
        spec["architectures"] = json!(["SCMP_ARCH_AARCH64"]);
        assert_eq!(run(&compile(&profile(spec)).expect("compiles"), &foreign), EPERM);
    }
}
