//! Every network namespace of the node, and every address in them.
//!
//! It grows with all that runs on the node: only for when the alternative is to refuse a pod.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

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
    let mut surveyor = Surveyor { home: Netns::current()?, found: Survey::default() };
    surveyor.mounts()?;
    for process in fs::read_dir("/proc").map_err(looking)? {
        let process = process.map_err(looking)?.path();
        if process.file_name().is_some_and(|name| name.as_bytes().iter().all(u8::is_ascii_digit)) {
            match surveyor.process(&process) {
                Err(error) if error.errno() == Some(Errno::EACCES) && may_do_more_than_we(&process) => {}
                looked => looked?,
            }
        }
    }
    Ok(surveyor.found)
}

fn looking(error: io::Error) -> Error {
    Error::io("look for network namespaces", error)
}

/// What has ended since it was listed is none.
fn there<T>(outcome: io::Result<T>) -> Result<Option<T>, Error> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        outcome => outcome.map(Some).map_err(looking),
    }
}

struct Surveyor {
    home: Netns,
    found: Survey,
}

impl Surveyor {
    fn mounts(&mut self) -> Result<(), Error> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(looking)?;
        mounts(&mountinfo).iter().try_for_each(|path| self.namespace(path))
    }

    /// A process: its threads' namespaces, and those it has open.
    fn process(&mut self, process: &Path) -> Result<(), Error> {
        let Some(threads) = there(fs::read_dir(process.join("task")))? else { return Ok(()) };
        for thread in threads {
            let Some(thread) = there(thread)? else { continue };
            self.namespace(&thread.path().join("ns/net"))?;
        }
        let Some(files) = there(fs::read_dir(process.join("fd")))? else { return Ok(()) };
        for file in files {
            let Some(path) = there(file)?.map(|file| file.path()) else { continue };
            let target = there(fs::read_link(&path))?;
            if target.is_some_and(|target| target.as_os_str().as_bytes().starts_with(b"net:[")) {
                self.namespace(&path)?;
            }
        }
        Ok(())
    }

    /// A namespace, which may be known already.
    fn namespace(&mut self, path: &Path) -> Result<(), Error> {
        let Some(meta) = there(fs::metadata(path))? else { return Ok(()) };
        if self.found.namespaces.contains(&(meta.dev(), meta.ino())) {
            return Ok(());
        }
        let netns = match Netns::open(path) {
            // Gone since, or the descriptor is another file's by now.
            Err(Error::NotANamespace { .. }) => return Ok(()),
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ESRCH)) => return Ok(()),
            opened => opened?,
        };
        let meta = netns.file().metadata().map_err(looking)?;
        let mut socket = netns.inside(&self.home, RouteSocket::open)??;
        self.found.addresses.extend(address::everywhere(&mut socket)?);
        self.found.namespaces.insert((meta.dev(), meta.ino()));
        Ok(())
    }
}

/// Whether a process has a capability that this one has not. Then it does not let itself be looked at, and is no pod:
/// whoever makes pods has no less than they.
fn may_do_more_than_we(process: &Path) -> bool {
    let permitted = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let read = |path: &Path, key: &str| permitted(&fs::read_to_string(path).ok()?, key);
    match (read(&process.join("status"), "CapPrm:"), read(Path::new("/proc/self/status"), "CapEff:")) {
        (Some(theirs), Some(ours)) => theirs & !ours != 0,
        // It has ended.
        (None, _) => true,
        (_, None) => false,
    }
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
