//! Mounts whose files belong to other ids than on disk (mount_setattr(2), "ID-mapped mounts").

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use super::option::IdMapOption;
use crate::sys::process::{self, Fork};

/// One line of a uid_map or gid_map (user_namespaces(7)); for a mount, `inside` are the ids on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

impl From<&LinuxIdMapping> for Range {
    fn from(given: &LinuxIdMapping) -> Self {
        Self { inside: given.container_id(), outside: given.host_id(), size: given.size() }
    }
}

/// Where a mapping comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mappings {
    Ranges {
        uids: Vec<Range>,
        gids: Vec<Range>,
    },
    /// A user namespace that exists.
    Namespace(PathBuf),
    None,
}

impl Mappings {
    /// That of the container's user namespace.
    pub fn of_container(linux: &Linux) -> Self {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let Some(user) = namespaces.iter().find(|each| each.typ() == LinuxNamespaceType::User) else {
            return Self::None;
        };
        match user.path() {
            Some(path) if !path.as_os_str().is_empty() => Self::Namespace(path.clone()),
            _ => Self::Ranges {
                uids: linux.uid_mappings().iter().flatten().map(Range::from).collect(),
                gids: linux.gid_mappings().iter().flatten().map(Range::from).collect(),
            },
        }
    }

    /// What a user and a group of the container are on the machine, where that is known.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match self {
            Self::Ranges { uids, gids } => Some((outside(uids, uid)?, outside(gids, gid)?)),
            _ => None,
        }
    }
}

fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    let holds = |range: &&Range| id >= range.inside && id - range.inside < range.size;
    ranges.iter().find(holds).map(|range| range.outside + (id - range.inside))
}

/// The id map of one mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdMap {
    pub mappings: Mappings,
    /// For the mounts below it, too.
    pub recursive: bool,
}

type Given<'a> = Option<&'a [LinuxIdMapping]>;

impl IdMap {
    /// From the option, the mount's own mappings, and those of the container: `None` when the mount has no id map.
    pub fn new(option: Option<&IdMapOption>, given: (Given, Given), own: &Mappings) -> Result<Option<Self>, String> {
        let recursive = option.is_some_and(|option| option.recursive.0);
        let text = option.map(|option| option.mapping.as_str()).filter(|text| !text.is_empty());
        let ranges = |given: &[LinuxIdMapping]| given.iter().map(Range::from).collect();
        let mappings = match (text, given) {
            (Some(text), _) => parse(text, own)?,
            (None, (Some(uids), Some(gids))) => Mappings::Ranges { uids: ranges(uids), gids: ranges(gids) },
            (None, (None, None)) if option.is_none() => return Ok(None),
            (None, (None, None)) => own.clone(),
            (None, _) => return Err("uidMappings and gidMappings go together".to_owned()),
        };
        match mappings {
            Mappings::None => Err("idmap: there is neither a mapping nor a user namespace to take one from".to_owned()),
            Mappings::Ranges { uids, gids } if uids.is_empty() || gids.is_empty() => {
                Err("uidMappings and gidMappings must not be empty".to_owned())
            }
            mappings => Ok(Some(Self { mappings, recursive })),
        }
    }

    /// A user namespace with that mapping.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        match &self.mappings {
            Mappings::Ranges { uids, gids } => make_namespace(uids, gids),
            Mappings::Namespace(path) => File::open(path).map(OwnedFd::from),
            Mappings::None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

/// `uids=DISK-HOST-SIZE#...;gids=...`; with an "@" before a triplet its second number is one of the container's.
fn parse(text: &str, own: &Mappings) -> Result<Mappings, String> {
    let wrong = || format!("idmap: {text:?} is not uids=DISK-HOST-SIZE;gids=DISK-HOST-SIZE");
    let (own_uids, own_gids) = match own {
        Mappings::Ranges { uids, gids } => (uids.as_slice(), gids.as_slice()),
        _ => (&[][..], &[][..]),
    };
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (list, own, ranges) = match part.split_once('=') {
            Some(("uids", ranges)) => (&mut uids, own_uids, ranges),
            Some(("gids", ranges)) => (&mut gids, own_gids, ranges),
            _ => return Err(wrong()),
        };
        for triplet in ranges.split('#') {
            list.push(range(triplet, own).ok_or_else(wrong)?);
        }
    }
    Ok(Mappings::Ranges { uids, gids })
}

fn range(triplet: &str, own: &[Range]) -> Option<Range> {
    let bare = triplet.strip_prefix('@');
    let mut numbers = bare.unwrap_or(triplet).split('-').map(|number| number.parse::<u32>());
    let mut next = || numbers.next()?.ok();
    let mut range = Range { inside: next()?, outside: next()?, size: next()? };
    if bare.is_some() {
        range.outside = outside(own, range.outside)?;
    }
    numbers.next().is_none().then_some(range)
}

/// The namespace lives as long as its descriptor; a child that does nothing is its first inhabitant.
fn make_namespace(uids: &[Range], gids: &[Range]) -> io::Result<OwnedFd> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let pid = match process::fork_into(libc::CLONE_NEWUSER)? {
        Fork::Child => {
            drop(write);
            // End of file: the parent has what it wants, or is gone.
            let _ = File::from(read).read(&mut [0]);
            process::exit_now(0);
        }
        Fork::Parent(pid) => pid,
    };
    let namespace = fs::write(format!("/proc/{pid}/uid_map"), lines(uids))
        .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), lines(gids)))
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
    drop(write);
    process::wait(pid, true)?;
    namespace.map(OwnedFd::from)
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.size)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::option::Recursive;
    use super::*;

    const OWN: Range = Range { inside: 0, outside: 100_000, size: 1000 };

    fn own() -> Mappings {
        Mappings::Ranges { uids: vec![OWN], gids: vec![OWN] }
    }

    fn option_of(mapping: &str) -> IdMapOption {
        IdMapOption { recursive: Recursive(true), mapping: mapping.to_owned() }
    }

    #[test]
    fn a_mapping_comes_from_the_option_the_mount_or_the_container() {
        let map = |option: Option<&str>, given, own: &Mappings| {
            IdMap::new(option.map(option_of).as_ref(), given, own).map(|map| map.map(|map| map.mappings))
        };
        assert_eq!(map(None, (None, None), &own()), Ok(None));
        assert_eq!(map(Some(""), (None, None), &own()), Ok(Some(own())));
        let range = |inside, outside, size| Range { inside, outside, size };
        assert_eq!(
            map(Some("uids=0-1-10#@10-11-5;gids=0-100-10"), (None, None), &own()),
            Ok(Some(Mappings::Ranges {
                uids: vec![range(0, 1, 10), range(10, 100_011, 5)],
                gids: vec![range(0, 100, 10)]
            }))
        );
        let given = [LinuxIdMapping::default()];
        assert_eq!(
            map(None, (Some(&given), Some(&given)), &Mappings::None),
            Ok(Some(Mappings::Ranges { uids: vec![range(0, 0, 0)], gids: vec![range(0, 0, 0)] }))
        );
        map(None, (Some(&given), None), &own()).expect_err("half a mapping");
        map(Some(""), (None, None), &Mappings::None).expect_err("no mapping at all");
        map(Some("uids=0-1"), (None, None), &own()).expect_err("not a triplet");
        map(Some("uids=@5000-1-1;gids=@0-5000-1"), (None, None), &own()).expect_err("not in the container");
    }
}
