//! Every network namespace of the node, and every address in them.
//!
//! It grows with all that runs on the node: only for when the alternative is to refuse a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Error, Netns, RouteSocket, address};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// The namespaces: device and inode of each.
    pub namespaces: BTreeSet<(u64, u64)>,
    /// The addresses of all their interfaces.
    pub addresses: BTreeSet<IpAddr>,
}

/// Looks everywhere a namespace can be held: by a thread, by a mount, by an open file.
///
/// # Errors
/// When something could not be looked at: what was not seen may live there. What ends meanwhile is no error.
pub fn survey() -> Result<Survey, Error> {
    let mut found = BTreeMap::new();
    let looked = find(&mut found);
    looked.map_err(|error| Error::io("look for network namespaces", error))?;
    let home = Netns::current()?;
    let mut addresses = BTreeSet::new();
    for path in found.values() {
        let netns = match Netns::open(path) {
            Err(error) if error.errno().is_some_and(is_gone) => continue,
            opened => opened?,
        };
        let mut socket = netns.inside(&home, RouteSocket::open)??;
        addresses.extend(address::everywhere(&mut socket)?);
    }
    Ok(Survey { namespaces: found.into_keys().collect(), addresses })
}

fn is_gone(errno: nix::errno::Errno) -> bool {
    matches!(errno, nix::errno::Errno::ENOENT | nix::errno::Errno::ESRCH)
}

/// What has ended since it was listed is none.
fn there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.raw_os_error().is_some_and(|errno| is_gone(nix::errno::Errno::from_raw(errno))) => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn find(found: &mut BTreeMap<(u64, u64), PathBuf>) -> io::Result<()> {
    for mount in mounts(&fs::read_to_string("/proc/self/mountinfo")?) {
        add(mount, found)?;
    }
    for process in fs::read_dir("/proc")? {
        let process = process?;
        if !process.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        match find_of(&process.path(), found) {
            // Process 1 may have capabilities that we have not, and then does not let itself be looked at. It is
            // the machine's first, or the first of the container we are in: no pod.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && process.file_name() == "1" => {}
            looked => looked?,
        }
    }
    Ok(())
}

/// Of one process: its threads' namespaces, and those it has open.
fn find_of(process: &Path, found: &mut BTreeMap<(u64, u64), PathBuf>) -> io::Result<()> {
    let Some(threads) = there(fs::read_dir(process.join("task")))? else { return Ok(()) };
    for thread in threads {
        let Some(thread) = there(thread)? else { continue };
        add(thread.path().join("ns/net"), found)?;
    }
    let Some(files) = there(fs::read_dir(process.join("fd")))? else { return Ok(()) };
    for file in files {
        let Some(path) = there(file)?.map(|file| file.path()) else { continue };
        let target = there(fs::read_link(&path))?;
        if target.is_some_and(|target| target.as_os_str().as_bytes().starts_with(b"net:[")) {
            add(path, found)?;
        }
    }
    Ok(())
}

fn add(path: PathBuf, found: &mut BTreeMap<(u64, u64), PathBuf>) -> io::Result<()> {
    if let Some(meta) = there(fs::metadata(&path))? {
        found.entry((meta.dev(), meta.ino())).or_insert(path);
    }
    Ok(())
}

/// Where network namespaces are mounted, of `mountinfo` (`proc(5)`): a root `net:[inode]` of type nsfs.
fn mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        root.starts_with("net:[").then(|| unescape(point))
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// A mount point without the octal escapes of `mountinfo`.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten().and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    Path::new(std::ffi::OsStr::from_bytes(&bytes)).to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn mounts_of_namespaces_are_found_among_the_others() {
        let text = "22 1 0:21 / /proc rw - proc proc rw\n\
            40 22 0:4 net:[4026532281] /run/netns/a\\040b rw shared:2 - nsfs nsfs rw\n\
            41 22 0:4 mnt:[4026532282] /run/snapd/ns/x.mnt rw - nsfs nsfs rw\n";
        assert_eq!(mounts(text), [PathBuf::from("/run/netns/a b")]);
    }

    #[test]
    fn a_namespace_held_by_an_open_file_is_found_with_its_addresses() {
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            crate::netlink::loopback_up().unwrap();
            let mut socket = RouteSocket::open().unwrap();
            let lo = crate::netlink::link::by_name(&mut socket, "lo").unwrap().unwrap();
            socket.apply(vec![address::add(lo.index, "192.0.2.77/32".parse().unwrap(), false)]).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let held = std::thread::spawn(make).join().unwrap();
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).unwrap();
        let found = survey().unwrap();
        assert!(found.namespaces.contains(&identity(&held)), "held by descriptor {}", held.as_raw_fd());
        assert!(found.namespaces.contains(&identity(&home)));
        assert!(found.addresses.contains(&"192.0.2.77".parse().unwrap()));
        drop(held);
        assert!(
            !survey().unwrap().addresses.contains(&"192.0.2.77".parse().unwrap()),
            "gone with the last who held it"
        );
    }
}
