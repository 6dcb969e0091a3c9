//! Namespaces to be made and to be joined (config-linux.md, "Namespaces").

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Spec};

use crate::error::{Error, reason};
use crate::sys;
use crate::sys::clone::NEWTIME;

/// The clocks a time namespace may set forward or back.
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// What becomes of each kind of namespace. Kinds that are not named stay the caller's.
#[derive(Debug)]
pub struct Namespaces {
    made: CloneFlags,
    joined: Vec<Joined>,
    /// The text for /proc/self/timens_offsets.
    offsets: String,
}

/// A namespace that is there already, held open.
#[derive(Debug)]
struct Joined {
    kind: CloneFlags,
    /// For errors: the kind and the path.
    what: String,
    file: File,
}

impl Namespaces {
    /// Reads the specification and opens what is to be joined, checking that it is of its kind. Later the path might
    /// not be readable any more, or lead to another's.
    pub fn open(spec: &Spec) -> Result<Self, Error> {
        let linux = crate::spec::linux(spec);
        let mut namespaces = Self { made: CloneFlags::empty(), joined: Vec::new(), offsets: offsets(linux)? };
        for each in linux.namespaces().as_deref().unwrap_or_default() {
            match each.path() {
                Some(path) if !path.as_os_str().is_empty() => namespaces.joined.push(Joined::open(each)?),
                _ => namespaces.made |= flag(each.typ()),
            }
        }
        if !namespaces.offsets.is_empty() && !namespaces.makes(NEWTIME) {
            return Err(Error::spec("config.json: linux.timeOffsets: needs a new namespace of type \"time\""));
        }
        Ok(namespaces)
    }

    /// Whether a namespace of that kind is made.
    pub fn makes(&self, kind: CloneFlags) -> bool {
        self.made.contains(kind)
    }

    /// Whether a namespace of that kind is joined.
    pub fn joins(&self, kind: CloneFlags) -> bool {
        self.joined.iter().any(|each| each.kind == kind)
    }

    /// Whether the container has another user namespace than its creator.
    pub fn user(&self) -> bool {
        self.makes(CloneFlags::CLONE_NEWUSER) || self.joins(CloneFlags::CLONE_NEWUSER)
    }

    /// Whether the container has a cgroup namespace of its own.
    pub fn cgroup(&self) -> bool {
        self.makes(CloneFlags::CLONE_NEWCGROUP) || self.joins(CloneFlags::CLONE_NEWCGROUP)
    }

    /// What clone3 makes at once. A cgroup namespace has as its root the cgroup its maker is in, and the clocks of a
    /// time namespace can be set only before anybody is in it; the init makes these two itself.
    pub fn for_clone(&self) -> CloneFlags {
        self.made.difference(CloneFlags::CLONE_NEWCGROUP | NEWTIME)
    }

    /// Whether the namespaces must be joined by a process in between, before the init is cloned: only children enter a
    /// pid namespace, and whoever is in a user namespace can join those it owns, and can not join the machine's.
    pub fn need_joiner(&self) -> bool {
        self.joins(CloneFlags::CLONE_NEWPID) || (self.user() && !self.joined.is_empty())
    }

    /// Joins all there is to join.
    ///
    /// Those that belong to the machine can be joined only before the user namespace; those that belong to the user
    /// namespace, for a caller without privilege, only after it. So whatever is refused at first gets a second try.
    pub fn join(&self) -> Result<(), Error> {
        let (user, others): (Vec<&Joined>, Vec<&Joined>) =
            self.joined.iter().partition(|each| each.kind == CloneFlags::CLONE_NEWUSER);
        let mut refused = Vec::new();
        for each in others {
            match setns(each.file.as_fd(), each.kind) {
                Ok(()) => {}
                Err(Errno::EPERM) if !user.is_empty() => refused.push(each),
                Err(error) => return Err(each.failure(error)),
            }
        }
        for each in user.into_iter().chain(refused) {
            setns(each.file.as_fd(), each.kind).map_err(|error| each.failure(error))?;
        }
        Ok(())
    }

    /// The network namespace that the init is in, or will be.
    pub fn network_of(&self, init: i32) -> Result<File, Error> {
        let joined = self.joined.iter().find(|each| each.kind == CloneFlags::CLONE_NEWNET);
        let opened = match joined {
            Some(joined) => joined.file.try_clone(),
            None => File::open(format!("/proc/{init}/ns/net")),
        };
        opened.map_err(|error| Error::io("open the container's network namespace", error))
    }

    /// Makes the time namespace, sets its clocks, and enters it.
    pub fn make_time(&self) -> Result<(), Error> {
        if !self.makes(NEWTIME) {
            return Ok(());
        }
        unshare(NEWTIME).map_err(|error| Error::io("make a time namespace", error))?;
        if !self.offsets.is_empty() {
            let path = "/proc/self/timens_offsets";
            let written =
                File::options().write(true).open(path).and_then(|mut file| file.write_all(self.offsets.as_bytes()));
            written.map_err(|error| {
                Error::io(format!("linux.timeOffsets: write {:?} to {path}", self.offsets.replace('\n', ", ")), error)
            })?;
        }
        let children = File::open("/proc/self/ns/time_for_children");
        let children = children.map_err(|error| Error::io("open /proc/self/ns/time_for_children", error))?;
        setns(children.as_fd(), NEWTIME).map_err(|error| Error::io("enter the time namespace", error))
    }

    /// Makes the cgroup namespace. Its root is the cgroup this process is in.
    pub fn make_cgroup(&self) -> Result<(), Error> {
        if !self.makes(CloneFlags::CLONE_NEWCGROUP) {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|error| Error::io("make a cgroup namespace", error))
    }
}

impl Joined {
    fn open(namespace: &LinuxNamespace) -> Result<Self, Error> {
        let path = namespace.path().clone().unwrap_or_default();
        let what = format!("config.json: linux.namespaces: {} namespace {}", namespace.typ(), path.display());
        // Whatever else the path leads to, a pipe or a terminal, must do nothing by being opened.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path);
        let file = file.map_err(|error| Error::spec(format!("{what}: {}", reason(&error))))?;
        let kind = flag(namespace.typ());
        match sys::namespace_type(&file) {
            Ok(found) if found == kind.bits() => Ok(Self { kind, what, file }),
            _ => Err(Error::spec(format!("{what}: this is no {} namespace", namespace.typ()))),
        }
    }

    fn failure(&self, error: Errno) -> Error {
        Error::io(format!("{}: join it", self.what), error)
    }
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => NEWTIME,
    }
}

/// A line a clock: its name, seconds, nanoseconds.
fn offsets(linux: &Linux) -> Result<String, Error> {
    let given = linux.time_offsets().clone().unwrap_or_default();
    if let Some(unknown) = given.keys().find(|clock| !CLOCKS.contains(&clock.as_str())) {
        let text = format!("config.json: linux.timeOffsets: {unknown:?} is not one of {}", CLOCKS.join(", "));
        return Err(Error::spec(text));
    }
    let line = |clock: &&str| {
        let offset = given.get(*clock)?;
        Some(format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)))
    };
    Ok(CLOCKS.iter().filter_map(line).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn open(linux: serde_json::Value) -> Result<Namespaces, Error> {
        let spec = json!({"ociVersion": "1.2.0", "linux": linux});
        Namespaces::open(&serde_json::from_value(spec).expect("a specification"))
    }

    #[test]
    fn all_but_two_kinds_are_made_by_the_clone() {
        let kinds = ["pid", "network", "ipc", "uts", "mount", "user", "cgroup", "time"];
        let all: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        let namespaces = open(json!({"namespaces": all})).expect("namespaces");
        assert!(namespaces.makes(CloneFlags::CLONE_NEWCGROUP) && namespaces.makes(NEWTIME) && namespaces.user());
        assert_eq!(namespaces.for_clone().bits() as u32, 0x7c02_0000);
        assert!(!namespaces.need_joiner());
    }

    #[test]
    fn offsets_are_lines_of_the_kernels_form() {
        let given = json!({"boottime": {"secs": -5}, "monotonic": {"secs": 1, "nanosecs": 2}});
        let namespaces = open(json!({"namespaces": [{"type": "time"}], "timeOffsets": given})).expect("namespaces");
        assert_eq!(namespaces.offsets, "monotonic 1 2\nboottime -5 0\n");
        open(json!({"namespaces": [{"type": "time"}], "timeOffsets": {"realtime": {}}})).expect_err("not settable");
        open(json!({"namespaces": [], "timeOffsets": {"boottime": {"secs": 1}}})).expect_err("the machine's clocks");
    }

    #[test]
    fn a_process_in_between_joins_where_the_init_could_not() {
        let own = |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/self/ns/{file}")});
        let need = |list: &[serde_json::Value]| open(json!({"namespaces": list})).expect("namespaces").need_joiner();
        assert!(!need(&[own("network", "net"), own("ipc", "ipc")]));
        assert!(need(&[own("pid", "pid")]));
        assert!(need(&[own("user", "user")]));
        assert!(need(&[own("network", "net"), json!({"type": "user"})]));
    }
}
