//! Which devices a container may make and open (`linux.resources.devices`).
//!
//! With cgroup v1 the `devices` controller is told the rules. The unified hierarchy has no such
//! controller: there a BPF program, made of the same rules, is attached to the container's cgroup. A process that joins
//! later is bound by it too, and whatever programs the groups above have stay in force.

mod program;
mod unit;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::value::write;
use super::{Kind as HierarchyKind, hierarchies};
use crate::error::{Error, ErrorKind, reason};
use crate::sys::{bpf, process};

/// What can be done with a device, as a set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Access(u8);

impl Access {
    const ALL: Self = Self(0b111);
    const MKNOD: Self = Self(0b001);

    /// As the kernel numbers them (`BPF_DEVCG_ACC_*`): mknod 1, read 2, write 4.
    fn bits(self) -> u8 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let bit = |letter| "mrw".find(letter).map(|position| 1 << position);
        let bits = text.chars().try_fold(0, |bits, letter| Some(bits | bit(letter)?))?;
        (bits != 0).then_some(Self(bits))
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        [(2, "r"), (4, "w"), (1, "m")].iter().filter(|(bit, _)| self.0 & bit != 0).try_for_each(|(_, c)| f.write_str(c))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Block,
    Character,
}

/// One rule; what is absent matches everything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<i32>,
    minor: Option<i32>,
    access: Access,
}

const EVERYTHING_DENIED: Rule = Rule { allow: false, kind: None, major: None, minor: None, access: Access::ALL };

/// Allowed whatever the rules given say, as by every other runtime: the devices each container has (runtime-spec,
/// "Default Devices"), net/tun, which many rely on, and to make the node of any device; to open it is another thing.
const DEFAULTS: [Rule; 12] = [
    Rule { access: Access::MKNOD, ..character(None, None) },
    Rule { access: Access::MKNOD, kind: Some(Kind::Block), ..character(None, None) },
    character(Some(1), Some(3)),    // null
    character(Some(1), Some(5)),    // zero
    character(Some(1), Some(7)),    // full
    character(Some(1), Some(8)),    // random
    character(Some(1), Some(9)),    // urandom
    character(Some(5), Some(0)),    // tty
    character(Some(5), Some(1)),    // console
    character(Some(5), Some(2)),    // ptmx
    character(Some(136), None),     // pts
    character(Some(10), Some(200)), // net/tun
];

const fn character(major: Option<i32>, minor: Option<i32>) -> Rule {
    Rule { allow: true, kind: Some(Kind::Character), major, minor, access: Access::ALL }
}

impl Rule {
    fn is_for_everything(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, Access::ALL)
    }

    /// A rule for all kinds that is not for all devices becomes one for each kind: a v1 controller takes any rule of
    /// type "a" for "everything".
    fn parse(given: &LinuxDeviceCgroup) -> Result<Vec<Self>, String> {
        let access = given.access().as_deref().unwrap_or_default();
        let access = Access::parse(access).ok_or_else(|| format!("access: {access:?} is not made of r, w and m"))?;
        let (major, minor) = (number("major", given.major())?, number("minor", given.minor())?);
        let of = |kind| Self { allow: given.allow(), kind, major, minor, access };
        match given.typ().unwrap_or_default() {
            LinuxDeviceType::A if of(None).is_for_everything() => Ok(vec![of(None)]),
            LinuxDeviceType::A => Ok(vec![of(Some(Kind::Character)), of(Some(Kind::Block))]),
            LinuxDeviceType::B => Ok(vec![of(Some(Kind::Block))]),
            LinuxDeviceType::C | LinuxDeviceType::U => Ok(vec![of(Some(Kind::Character))]),
            LinuxDeviceType::P => Err("type: \"p\" (a FIFO) is not a kind of device".to_owned()),
        }
    }

    /// As a v1 controller reads it (devices.rst).
    fn line(&self) -> String {
        let kind = match self.kind {
            None => 'a',
            Some(Kind::Block) => 'b',
            Some(Kind::Character) => 'c',
        };
        let number = |number: Option<i32>| number.map_or("*".to_owned(), |number| number.to_string());
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// Minus one is another way to say "any". No device of Linux has numbers beyond these.
fn number(what: &str, given: Option<i64>) -> Result<Option<i32>, String> {
    match given {
        None | Some(-1) => Ok(None),
        Some(number) => match i32::try_from(number) {
            Ok(number) if number >= 0 => Ok(Some(number)),
            _ => Err(format!("{what}: {number} is not the number of a device")),
        },
    }
}

/// The rules of one container, checked; in their order, of which the last that applies decides.
#[derive(Clone, Debug)]
pub(crate) struct Rules(Vec<Rule>);

impl Rules {
    pub(crate) fn parse(given: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        // What is not allowed is denied. A v1 group inherits its parent's rules, so this must be said.
        let mut rules = vec![EVERYTHING_DENIED];
        for (index, each) in given.iter().enumerate() {
            let wrong = |text| Error::spec(format!("config.json: linux.resources.devices[{index}]: {text}"));
            rules.extend(Rule::parse(each).map_err(wrong)?);
        }
        Ok(Self(rules))
    }

    /// With the defaults, which have the last word.
    fn all(&self) -> Vec<Rule> {
        self.0.iter().copied().chain(DEFAULTS).collect()
    }

    /// A privileged container's, for which there is nothing to enforce.
    fn allow_everything(&self) -> bool {
        self.0.iter().rev().take_while(|rule| rule.allow).any(Rule::is_for_everything)
    }
}

/// Has the kernel check the program for those rules, which takes it a while, where [`enforce`] will need one. What fails
/// here fails again there.
pub(crate) fn load_ahead(rules: &Rules) -> Option<OwnedFd> {
    let all = hierarchies().ok()?;
    let v1 = all.iter().any(|hierarchy| hierarchy.controls("devices"));
    if v1 || rules.allow_everything() { None } else { load(rules).ok() }
}

fn load(rules: &Rules) -> io::Result<OwnedFd> {
    // Kernels before 5.11 count programs as locked memory. Where this fails the limit may be high enough.
    let _ = process::set_limit(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY);
    bpf::load_device_program(&program::program(&rules.all()), c"Apache-2.0")
}

/// Puts the rules in force for the container's cgroup, by the program that was loaded ahead, if one was.
pub(crate) fn enforce(path: &Path, rules: &Rules, loaded: Option<OwnedFd>) -> Result<(), Error> {
    let all = hierarchies()?;
    if let Some(hierarchy) = all.iter().find(|hierarchy| hierarchy.controls("devices")) {
        return enforce_v1(&hierarchy.dir(path), rules);
    }
    if rules.allow_everything() {
        return Ok(());
    }
    let Some(unified) = all.iter().find(|hierarchy| hierarchy.kind == HierarchyKind::Unified) else {
        let text = "limit the container's devices: this machine has neither a devices controller nor cgroup v2";
        return Err(Error::new(ErrorKind::Unsupported, text));
    };
    let dir = unified.dir(path);
    let cgroup = File::open(&dir).map_err(|error| Error::io(format!("open cgroup {}", dir.display()), error))?;
    let attached = loaded
        .map_or_else(|| load(rules), Ok)
        .and_then(|program| bpf::attach_device_program(program.as_fd(), cgroup.as_fd()));
    match attached {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && unprivileged() => Ok(()),
        Err(error) => {
            let text = format!(
                "limit the devices of cgroup {} by a BPF program: {} (the kernel must have CONFIG_CGROUP_BPF, and this \
                 process CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN)",
                dir.display(),
                reason(&error)
            );
            Err(Error::new(Error::io("", error).kind(), text))
        }
        Ok(()) => Ok(()),
    }
}

/// Tells a v1 controller, rule by rule.
fn enforce_v1(dir: &Path, rules: &Rules) -> Result<(), Error> {
    for rule in rules.all() {
        let file = dir.join(if rule.allow { "devices.allow" } else { "devices.deny" });
        let line = rule.line();
        match write(&file, &line) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) && unprivileged() => {
                return Ok(());
            }
            written => written.map_err(|error| {
                Error::io(format!("linux.resources.devices: write {line} to {}", file.display()), error)
            })?,
        }
    }
    Ok(())
}

/// Whether this process is not the machine's root. The kernel opens no device whose node belongs to a user namespace,
/// and takes no rules from there: there is nothing to enforce.
fn unprivileged() -> bool {
    // Only the machine's own user namespace maps every user to itself.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !nix::unistd::geteuid().is_root() || !map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(json: Value) -> Result<Rules, Error> {
        Rules::parse(&serde_json::from_value::<Vec<_>>(json).expect("rules"))
    }

    fn as_v1(json: Value) -> Vec<String> {
        let line = |rule: &Rule| format!("{} {}", if rule.allow { "allow" } else { "deny" }, rule.line());
        parse(json).expect("rules").0.iter().map(line).collect()
    }

    #[test]
    fn what_is_not_allowed_is_denied_from_the_first_rule_on() {
        assert_eq!(as_v1(json!([])), ["deny a *:* rwm"]);
    }

    #[test]
    fn a_rule_for_both_kinds_does_not_become_one_for_everything() {
        assert_eq!(
            as_v1(json!([{"allow": true, "major": 8, "minor": -1, "access": "wr"}, {"allow": true, "access": "r"}])),
            ["deny a *:* rwm", "allow c 8:* rw", "allow b 8:* rw", "allow c *:* r", "allow b *:* r"]
        );
        assert_eq!(
            as_v1(json!([{"allow": true, "type": "a", "access": "rwm"}])),
            ["deny a *:* rwm", "allow a *:* rwm"]
        );
    }

    #[test]
    fn wrong_rules_are_refused_with_their_place() {
        for (rule, phrase) in [
            (json!({"allow": true}), "access"),
            (json!({"allow": true, "access": "rx"}), "access"),
            (json!({"allow": true, "access": "r", "major": -2}), "major: -2"),
            (json!({"allow": true, "access": "r", "minor": 4_294_967_296_i64}), "minor: 4294967296"),
            (json!({"allow": true, "access": "r", "type": "p"}), "FIFO"),
        ] {
            let error = parse(json!([{"allow": false, "access": "rwm"}, rule])).expect_err(phrase).to_string();
            assert!(error.contains("devices[1]") && error.contains(phrase), "{error}");
        }
    }

    #[test]
    fn only_all_devices_with_no_exception_are_everything() {
        let everything = json!({"allow": true, "access": "rwm"});
        let exception = json!({"allow": false, "type": "b", "access": "w"});
        let more = json!({"allow": true, "type": "b", "access": "w"});
        let allow_everything = |rules: Value| parse(rules).expect("rules").allow_everything();
        assert!(allow_everything(json!([exception, everything, more])));
        assert!(!allow_everything(json!([everything, exception, more])));
        assert!(!allow_everything(json!([more])));
        assert!(!allow_everything(json!([])));
    }
}
