//! The ids of a new user namespace (user_namespaces(7)).

use std::fs;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, getegid, geteuid};
use oci_spec::runtime::{LinuxIdMapping, Spec};

use crate::error::{Error, ErrorKind, reason};

/// Which ids of the container are which ids outside.
#[derive(Clone, Debug)]
pub struct IdMaps {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// One line of a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

/// The kinds of ids: the kernel's file, and the program that may write it for those without privilege (shadow-utils).
const USERS: (&str, &str) = ("uid_map", "newuidmap");
const GROUPS: (&str, &str) = ("gid_map", "newgidmap");

impl IdMaps {
    /// The maps of the specification, for a namespace that is to be made.
    pub fn new(spec: &Spec) -> Result<Self, Error> {
        let linux = spec.linux().as_ref();
        let users = linux.and_then(|linux| linux.uid_mappings().as_deref());
        let groups = linux.and_then(|linux| linux.gid_mappings().as_deref());
        Ok(Self {
            users: ranges(users, geteuid().as_raw(), "/proc/self/uid_map")?,
            groups: ranges(groups, getegid().as_raw(), "/proc/self/gid_map")?,
        })
    }

    /// Writes the maps of the user namespace that the process is in. Done from outside of it.
    pub fn apply(&self, pid: i32) -> Result<(), Error> {
        let (uid, gid) = (geteuid(), getegid());
        if !uid.is_root() && is_self(&self.groups, gid.as_raw()) {
            // Who maps his own group himself must give up the right to drop groups (CVE-2014-8989).
            let path = format!("/proc/{pid}/setgroups");
            fs::write(&path, "deny").map_err(|error| Error::io(format!("write deny to {path}"), error))?;
        }
        write(pid, GROUPS, &self.groups, uid, is_self(&self.groups, gid.as_raw()))?;
        write(pid, USERS, &self.users, uid, is_self(&self.users, uid.as_raw()))
    }
}

/// Without maps everybody is himself; for those without privilege, root is whom they are.
fn ranges(given: Option<&[LinuxIdMapping]>, id: u32, own: &str) -> Result<Vec<Range>, Error> {
    let convert = |map: &LinuxIdMapping| Range { inside: map.container_id(), outside: map.host_id(), size: map.size() };
    let ranges: Vec<Range> = given.unwrap_or_default().iter().map(convert).collect();
    match (ranges.is_empty(), geteuid().is_root()) {
        (false, _) => Ok(ranges),
        (true, false) => Ok(vec![Range { inside: 0, outside: id, size: 1 }]),
        (true, true) => {
            let text = fs::read_to_string(own).map_err(|error| Error::io(format!("read {own}"), error))?;
            Ok(text.lines().filter_map(identity).collect())
        }
    }
}

/// The ids of one line of a map, each mapped to itself.
fn identity(line: &str) -> Option<Range> {
    let mut fields = line.split_whitespace();
    let (inside, size) = (fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?);
    Some(Range { inside, outside: inside, size })
}

/// The one map that the kernel lets anybody write: his own id.
fn is_self(ranges: &[Range], id: u32) -> bool {
    matches!(ranges, [Range { outside, size: 1, .. }] if *outside == id)
}

fn write(pid: i32, kind: (&str, &str), ranges: &[Range], uid: Uid, own: bool) -> Result<(), Error> {
    if !uid.is_root() && !own {
        return ask(pid, kind.1, ranges);
    }
    let lines: Vec<String> =
        ranges.iter().map(|Range { inside, outside, size }| format!("{inside} {outside} {size}\n")).collect();
    let (path, text) = (format!("/proc/{pid}/{}", kind.0), lines.concat());
    // All in a single write; the kernel takes no second one.
    fs::write(&path, &text).map_err(|error| Error::io(format!("write {:?} to {path}", text.replace('\n', ", ")), error))
}

/// Has the set-uid program write the map, as far as /etc/subuid and /etc/subgid allow.
fn ask(pid: i32, program: &str, ranges: &[Range]) -> Result<(), Error> {
    let numbers = ranges.iter().flat_map(|range| [range.inside, range.outside, range.size]);
    let arguments: Vec<String> = [pid as u32].into_iter().chain(numbers).map(|number| number.to_string()).collect();
    let done = Command::new(program).args(&arguments).stdin(Stdio::null()).output().map_err(|error| {
        let text = format!("{program}: {} (without privilege it has to map the ids; see subuid(5))", reason(&error));
        Error::new(ErrorKind::Permission, text)
    })?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Error::new(ErrorKind::Permission, format!("{program} {}: {}", arguments.join(" "), said.trim())))
}

/// Becomes root of the user namespace this process is in, and leaves the creator's groups behind.
pub fn become_root() -> Result<(), Error> {
    let root = |error: nix::Error| Error::io("become root of the user namespace (is id 0 mapped?)", error);
    // Refused where groups may not be dropped; they are not mapped then.
    let _ = nix::unistd::setgroups(&[]);
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).map_err(root)?;
    nix::unistd::setresuid(uid, uid, uid).map_err(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_id_alone_can_be_mapped_by_anybody() {
        let own = Range { inside: 0, outside: 7, size: 1 };
        assert!(is_self(&[own], 7));
        assert!(!is_self(&[own], 8));
        assert!(!is_self(&[own, Range { inside: 1, outside: 100_000, size: 10 }], 7));
        assert!(!is_self(&[Range { size: 2, ..own }], 7));
    }

    #[test]
    fn without_maps_every_id_is_itself() {
        let line = identity("         0     100000      65536");
        assert_eq!(line, Some(Range { inside: 0, outside: 0, size: 65_536 }));
        assert_eq!(identity("0"), None);
    }
}
