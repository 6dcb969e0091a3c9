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
    let mut surveyor = Surveyor { home: Netns::current()?, mounts: BTreeSet::new(), found: Survey::default() };
    surveyor.mounts(Path::new("/proc/self"))?;
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
    /// The mount namespaces looked through, each from the root it was looked at from: device and inode of both.
    mounts: BTreeSet<[u64; 4]>,
    found: Survey,
}

impl Surveyor {
    /// What is mounted where a process can see it. A runtime may have mounts of its own (`PrivateMounts=` of
    /// `systemd.exec(5)`), and a pod that is being made has no process yet.
    fn mounts(&mut self, process: &Path) -> Result<(), Error> {
        let root = process.join("root");
        let Some(space) = there(fs::metadata(process.join("ns/mnt")))? else { return Ok(()) };
        let Some(top) = there(fs::metadata(&root))? else { return Ok(()) };
        if !self.mounts.insert([space.dev(), space.ino(), top.dev(), top.ino()]) {
            return Ok(());
        }
        let mountinfo = match fs::read(process.join("mountinfo")) {
            // It ends just now (`mounts_open_common` in `fs/proc_namespace.c`).
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            read => there(read)?,
        };
        let points = mounts(&mountinfo.unwrap_or_default());
        points.iter().try_for_each(|point| self.namespace(&root.join(point.strip_prefix("/").unwrap_or(point))))
    }

    /// A process: its threads' namespaces, those it has open, and those it sees mounted.
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
        self.mounts(process)
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
fn mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        root.starts_with(b"net:[").then(|| unescape(point))
    };
    mountinfo.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// A mount point without the octal escapes of `mountinfo`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text;
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
        let text = b"22 1 0:21 / /proc rw - proc proc rw\n\
            40 22 0:4 net:[4026532281] /run/netns/a\\040b rw shared:2 - nsfs nsfs rw\n\
            41 22 0:4 mnt:[4026532282] /run/snapd/ns/x.mnt rw - nsfs nsfs rw\n";
        assert_eq!(mounts(&text[..]), [PathBuf::from("/run/netns/a b")]);
    }

    #[test]
    fn a_namespace_held_by_a_mount_that_another_process_sees_is_found() {
        let script = format!(
            "unshare -n -m sh -c 'mount -t tmpfs none /mnt && touch \"/mnt/a b\" && mount --bind /proc/self/ns/net \"/mnt/a b\" &&
            stat -L -c \"%d %i\" /proc/self/ns/net && exec nsenter --net=/proc/{}/ns/net cat'",
            std::process::id()
        );
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", &script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = sh.spawn().unwrap();
        // When the answer to a line comes back, nothing but the mount holds the namespace.
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        std::io::Write::write_all(&mut stdin, b"there\n").unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout)).map(Result::unwrap);
        let told = lines.next().unwrap();
        let identity: Vec<u64> = told.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(lines.next().unwrap(), "there");
        let found = survey().unwrap().namespaces;
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(found.contains(&(identity[0], identity[1])));
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
