//! From rules to the program that the kernel asks at each mknod and open of a device.
//!
//! The program is given the device and the accesses wanted, and goes through the rules from the last to the first: for
//! each access the first rule met that speaks of it decides. It allows when every access wanted was allowed.

use super::{Access, Kind, Rule};
use crate::sys::bpf::{Instruction, registers};

// What the kernel asks about: `struct bpf_cgroup_dev_ctx`, three words of four bytes, at register 1.
const WORD_REQUEST: i16 = 0; // the accesses in the high half, the kind of the device in the low one
const WORD_MAJOR: i16 = 4;
const WORD_MINOR: i16 = 8;

// Registers. By convention 0 holds the answer and 1 the argument.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// The accesses that no rule has decided about yet.
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Instruction codes (linux/bpf.h): class, size or operation, source.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_IF_ANY: u8 = 0x45;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;

/// The program for these rules; what none of them speaks of is denied.
pub fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, WORD_REQUEST),
        Instruction { code: MOVE_REGISTER, registers: registers(WANTED, KIND), offset: 0, immediate: 0 },
        with(AND, KIND, 0, 0xffff),
        with(SHIFT_RIGHT, WANTED, 0, 16),
        load(MAJOR, WORD_MAJOR),
        load(MINOR, WORD_MINOR),
    ];
    for rule in rules.iter().rev() {
        if rule.is_for_everything() {
            // No earlier rule matters, and the kernel refuses a program with code that is never reached.
            program.extend(answer(rule.allow));
            return program;
        }
        program.extend(block(rule));
    }
    program.extend(answer(false));
    program
}

/// One rule: the device's properties compared, each of which may lead past the end; then what it decides.
fn block(rule: &Rule) -> Vec<Instruction> {
    let decision = match (rule.access, rule.allow) {
        // Whatever is still wanted: said at once, which spares the kernel's check of the program the way on from here.
        (Access::ALL, allow) => answer(allow).to_vec(),
        (access, true) => allow(access),
        (access, false) => deny(access),
    };
    let kind = rule.kind.map(|kind| match kind {
        Kind::Block => 1,
        Kind::Character => 2,
    });
    let properties = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)];
    let compared: Vec<_> = properties.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
    let comparison = |(index, (register, value)): (usize, &(u8, i32))| {
        let rest = compared.len() - index - 1 + decision.len();
        with(JUMP_UNLESS_EQUAL, *register, rest as i16, *value)
    };
    compared.iter().enumerate().map(comparison).chain(decision.iter().copied()).collect()
}

/// Denies when one of the rule's accesses is wanted, still undecided.
fn deny(access: Access) -> Vec<Instruction> {
    let [set, exit] = answer(false);
    vec![with(JUMP_IF_ANY, WANTED, 1, access.bits().into()), with(JUMP, 0, 2, 0), set, exit]
}

/// Takes the rule's accesses off those wanted; when none is left, all were allowed.
fn allow(access: Access) -> Vec<Instruction> {
    let [set, exit] = answer(true);
    let others = Access::ALL.bits() & !access.bits();
    vec![with(AND, WANTED, 0, others.into()), with(JUMP_UNLESS_EQUAL, WANTED, 2, 0), set, exit]
}

fn answer(allow: bool) -> [Instruction; 2] {
    [with(MOVE, ANSWER, 0, allow.into()), with(EXIT, 0, 0, 0)]
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: registers(register, CONTEXT), offset, immediate: 0 }
}

fn with(code: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: registers(register, 0), offset, immediate }
}

#[cfg(test)]
mod tests {
    use super::super::{DEFAULTS, Rules};
    use super::*;

    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    /// What the program answers, by running it as the kernel would.
    fn run(program: &[Instruction], kind: char, device: (i64, i64), access: u32) -> bool {
        let request = access << 16 | if kind == 'b' { 1 } else { 2 };
        let mut registers = [0_i64; 16];
        let mut next = 0_usize;
        loop {
            let Instruction { code, registers: numbers, offset, immediate } = program[next];
            let (to, from) = (usize::from(numbers & 15), usize::from(numbers >> 4));
            next += 1;
            let jump = match code {
                EXIT => return registers[0] == 1,
                LOAD_WORD => {
                    assert_eq!(from, 1);
                    registers[to] = [i64::from(request), device.0, device.1][offset as usize / 4];
                    false
                }
                MOVE => {
                    registers[to] = immediate.into();
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND => {
                    registers[to] &= i64::from(immediate);
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP => true,
                JUMP_UNLESS_EQUAL => registers[to] != i64::from(immediate),
                JUMP_IF_ANY => registers[to] & i64::from(immediate) != 0,
                code => panic!("instruction {code:#x}"),
            };
            assert!(offset >= 0 || !jump, "the kernel refuses loops");
            if jump {
                next += offset as usize;
            }
        }
    }

    fn rules(json: serde_json::Value) -> Vec<Rule> {
        Rules::parse(&serde_json::from_value::<Vec<_>>(json).expect("rules")).expect("rules").all()
    }

    /// Every instruction can be reached, and the last one is an exit: what the kernel checks first.
    fn assert_well_formed(program: &[Instruction]) {
        let mut reached = vec![false; program.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            match program[at].code {
                EXIT => {}
                JUMP => open.push(at + 1 + program[at].offset as usize),
                JUMP_UNLESS_EQUAL | JUMP_IF_ANY => open.extend([at + 1, at + 1 + program[at].offset as usize]),
                _ => open.push(at + 1),
            }
        }
        assert!(reached.iter().all(|each| *each), "{reached:?}");
    }

    #[test]
    fn the_default_devices_are_allowed_and_others_can_be_made_only() {
        for given in [serde_json::json!([]), serde_json::json!([{"allow": false, "access": "rwm"}])] {
            let program = program(&rules(given));
            assert_well_formed(&program);
            for minor in [3, 5, 7, 8, 9] {
                assert!(run(&program, 'c', (1, minor), READ | WRITE), "1:{minor}");
                assert!(!run(&program, 'b', (1, minor), READ), "b 1:{minor}");
            }
            for device in [(5, 0), (5, 1), (5, 2), (10, 200), (136, 0), (136, 77)] {
                assert!(run(&program, 'c', device, READ | WRITE), "{device:?}");
            }
            for (kind, device) in [('b', (8, 0)), ('b', (254, 0)), ('c', (1, 1)), ('c', (10, 229)), ('c', (5, 3))] {
                assert!(run(&program, kind, device, MKNOD), "{kind} {device:?}");
                for access in [READ, WRITE, READ | WRITE, READ | MKNOD] {
                    assert!(!run(&program, kind, device, access), "{kind} {device:?} {access}");
                }
            }
        }
    }

    #[test]
    fn the_last_rule_that_speaks_of_an_access_decides() {
        let program = program(&rules(serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "access": "rw"},
            {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"},
            {"allow": true, "type": "c", "minor": 9, "access": "r"},
            {"allow": true, "type": "c", "minor": 9, "access": "w"},
        ])));
        assert_well_formed(&program);
        assert!(run(&program, 'b', (8, 0), READ | WRITE));
        assert!(run(&program, 'b', (8, 1), READ));
        assert!(!run(&program, 'b', (8, 1), WRITE));
        assert!(!run(&program, 'b', (8, 1), READ | WRITE));
        assert!(!run(&program, 'c', (8, 0), READ));
        assert!(run(&program, 'c', (77, 9), READ | WRITE), "two rules together");
        assert!(!run(&program, 'c', (77, 8), READ));
    }

    #[test]
    fn all_of_a_kind_is_not_all() {
        let program = program(&rules(serde_json::json!([{"allow": true, "type": "c", "access": "rwm"}])));
        assert_well_formed(&program);
        assert!(run(&program, 'c', (4, 4), READ | WRITE));
        assert!(!run(&program, 'b', (4, 4), READ));
    }

    #[test]
    fn a_rule_for_everything_makes_the_earlier_ones_moot() {
        let allowed = rules(serde_json::json!([
            {"allow": false, "type": "b", "major": 8, "access": "rwm"},
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "b", "major": 9, "access": "w"},
        ]));
        let program = program(&allowed);
        assert_well_formed(&program);
        assert!(run(&program, 'b', (8, 0), READ | WRITE));
        assert!(run(&program, 'b', (9, 0), READ));
        assert!(!run(&program, 'b', (9, 0), WRITE));
    }

    #[test]
    fn hundreds_of_rules_make_a_program_too() {
        let many: Vec<Rule> = (0..500)
            .map(|minor| Rule {
                allow: true,
                kind: Some(Kind::Block),
                major: Some(8),
                minor: Some(minor),
                access: Access::ALL,
            })
            .chain(DEFAULTS)
            .collect();
        let program = program(&many);
        assert_well_formed(&program);
        assert!(run(&program, 'b', (8, 499), WRITE) && !run(&program, 'b', (8, 500), WRITE));
    }
}
