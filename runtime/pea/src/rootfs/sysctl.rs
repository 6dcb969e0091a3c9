//! `linux.sysctl`: kernel parameters, of which a container may set those of its own namespaces.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::beneath;
use crate::error::{Error, ErrorKind};
use crate::sys;
use crate::sys::mount::FileSystem;

/// One parameter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sysctl {
    name: String,
    /// Beneath the root of procfs.
    path: PathBuf,
    value: String,
}

/// Prefixes or whole names, and the namespace they belong to (namespaces(7)).
const NAMESPACED: [(&str, LinuxNamespaceType); 11] = [
    ("net/", LinuxNamespaceType::Network),
    ("fs/mqueue/", LinuxNamespaceType::Ipc),
    ("kernel/msgmax", LinuxNamespaceType::Ipc),
    ("kernel/msgmnb", LinuxNamespaceType::Ipc),
    ("kernel/msgmni", LinuxNamespaceType::Ipc),
    ("kernel/msg_next_id", LinuxNamespaceType::Ipc),
    ("kernel/sem", LinuxNamespaceType::Ipc),
    ("kernel/sem_next_id", LinuxNamespaceType::Ipc),
    ("kernel/shm", LinuxNamespaceType::Ipc), // shmall, shmmax, shmmni, shm_next_id, shm_rmid_forced
    ("kernel/domainname", LinuxNamespaceType::Uts),
    ("user/", LinuxNamespaceType::User),
];

/// Checks the parameters against the namespaces the container has; in the order of their names.
pub fn plan(linux: &Linux) -> Result<Vec<Sysctl>, Error> {
    let mut all = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        let wrong = |text: String| Error::spec(format!("config.json: linux.sysctl: {name}: {text}"));
        let path = path(name).ok_or_else(|| wrong("not the name of a parameter".to_owned()))?;
        check(linux, &path).map_err(wrong)?;
        all.push(Sysctl { name: name.clone(), path: Path::new("sys").join(path), value: value.clone() });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Names are written with dots or with slashes; the first separator tells which, and the other one is part of a name
/// (sysctl(8)): net.ipv4.conf.eth0/1.forwarding is net/ipv4/conf/eth0.1/forwarding.
fn path(name: &str) -> Option<String> {
    let path: String = match name.find(['.', '/']).map(|place| &name[place..=place]) {
        Some(".") => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        Some(_) => name.to_owned(),
        None => return None,
    };
    path.split('/').all(|part| !part.is_empty() && part != "." && part != "..").then_some(path)
}

fn check(linux: &Linux, path: &str) -> Result<(), String> {
    if path == "kernel/hostname" {
        return Err("the host's name is given by `hostname`".to_owned());
    }
    let matches = |name: &str| match name {
        "kernel/shm" => path.starts_with(name),
        _ if name.ends_with('/') => path.starts_with(name),
        _ => path == name,
    };
    let Some((_, kind)) = NAMESPACED.iter().find(|(name, _)| matches(name)) else {
        return Err("this belongs to no namespace, but to the whole machine".to_owned());
    };
    let own = linux.namespaces().iter().flatten().find(|each| each.typ() == *kind);
    let Some(namespace) = own else {
        return Err(format!("the container has no {kind} namespace of its own"));
    };
    match namespace.path() {
        Some(path) if !path.as_os_str().is_empty() && is_our_own(path, *kind) => {
            Err(format!("the {kind} namespace {} is the machine's", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether a path leads to the namespace this process is in.
fn is_our_own(path: &Path, kind: LinuxNamespaceType) -> bool {
    let file = match kind {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        _ => "user",
    };
    let inode = |path: &Path| nix::sys::stat::stat(path).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    inode(path).is_some_and(|theirs| inode(&Path::new("/proc/self/ns").join(file)) == Some(theirs))
}

/// Sets the parameters through `proc`, the root of the container's own procfs, or one of our own when it has none.
///
/// No link and no other mount is passed on the way, so that the value goes to the parameter that is named and nowhere
/// else (the class of CVE-2025-52881).
pub fn apply(all: &[Sysctl], proc: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    if all.is_empty() {
        return Ok(());
    }
    let own;
    let proc = match proc {
        Some(proc) => proc,
        None => {
            own = private_procfs().map_err(|error| Error::io("linux.sysctl: mount a procfs", error))?;
            own.as_fd()
        }
    };
    all.iter().try_for_each(|each| each.write(proc))
}

fn private_procfs() -> std::io::Result<OwnedFd> {
    FileSystem::open("proc")?.create(sys::mount::attribute::NO_EXEC | sys::mount::attribute::NO_SUID)
}

impl Sysctl {
    fn write(&self, proc: BorrowedFd<'_>) -> Result<(), Error> {
        let what = || format!("config.json: linux.sysctl: {}: write {:?}", self.name, self.value);
        let file = match beneath::open_plain(proc, &self.path, OFlag::O_WRONLY) {
            Err(Errno::EXDEV | Errno::EROFS) => {
                let own = private_procfs().map_err(|error| Error::io(what(), error))?;
                beneath::open_plain(own.as_fd(), &self.path, OFlag::O_WRONLY)
            }
            file => file,
        };
        let written = file.map_err(std::io::Error::from).map(File::from).and_then(|mut file| {
            // One write: the kernel takes each as a value of its own.
            file.write_all(self.value.as_bytes())
        });
        written.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => {
                Error::new(ErrorKind::InvalidSpec, format!("{}: the kernel takes no such value", what()))
            }
            Some(libc::ENOENT) => Error::new(ErrorKind::InvalidSpec, format!("{}: there is no such parameter", what())),
            _ => Error::io(what(), error),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan_one(name: &str, namespaces: &[&str]) -> Result<PathBuf, String> {
        let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
        let linux = serde_json::from_value(json!({"sysctl": {name: "1"}, "namespaces": namespaces}));
        let planned = plan(&linux.expect("linux")).map_err(|error| error.to_string())?;
        Ok(planned[0].path.clone())
    }

    #[test]
    fn both_ways_to_write_a_name_are_understood() {
        let path = |name| plan_one(name, &["network"]).expect(name);
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), Path::new("sys/net/ipv4/conf/eth0.1/forwarding"));
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), Path::new("sys/net/ipv4/conf/eth0.1/forwarding"));
    }

    #[test]
    fn a_parameter_needs_the_namespace_it_belongs_to() {
        for (name, namespace) in [
            ("net.core.somaxconn", "network"),
            ("kernel.shmmax", "ipc"),
            ("kernel.shm_rmid_forced", "ipc"),
            ("fs.mqueue.msg_max", "ipc"),
            ("kernel.domainname", "uts"),
            ("user.max_net_namespaces", "user"),
        ] {
            plan_one(name, &[namespace]).expect(name);
            let error = plan_one(name, &["mount"]).expect_err(name);
            assert!(error.contains(name) && error.contains(&namespace[..3]), "{error}");
        }
    }

    #[test]
    fn the_machines_parameters_and_paths_that_lead_elsewhere_are_refused() {
        let all = ["network", "ipc", "uts", "user"];
        for name in [
            "kernel.hostname",
            "kernel.core_pattern",
            "vm.swappiness",
            "kernel.semx",
            "net",
            "net/../kernel/core_pattern",
            "net..core",
            "kernel/shm/../core_pattern",
        ] {
            plan_one(name, &all).expect_err(name);
        }
    }
}
