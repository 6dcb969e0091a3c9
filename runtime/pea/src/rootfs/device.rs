//! The device nodes of a container: those every container has, and `linux.devices`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, chdir, fchdir, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::beneath::{self, Last, Missing, normal};
use super::id_map::Mappings;
use crate::error::Error;
use crate::sys::mount::{self, Change, FileSystem, attribute};

/// One device node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// As errors name it.
    pub place: String,
    /// Absolute and normal, in the container; the same on the machine where it must be bound.
    pub path: PathBuf,
    kind: SFlag,
    number: libc::dev_t,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What each container has (runtime-spec, "Default Devices"): name, major and minor number.
const DEFAULTS: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// And the usual links, relative to `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The default devices and the given ones, of which those at the same path replace a default.
pub fn plan(given: &[LinuxDevice]) -> Result<Vec<Device>, Error> {
    let given: Vec<_> =
        given.iter().enumerate().map(|(index, each)| from_spec(index, each)).collect::<Result<_, _>>()?;
    let defaults = DEFAULTS.map(|(name, major, minor)| Device {
        place: format!("default device /dev/{name}"),
        path: Path::new("/dev").join(name),
        kind: SFlag::S_IFCHR,
        number: makedev(major, minor),
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let replaced = |device: &Device| given.iter().any(|each| each.path == device.path);
    Ok(defaults.into_iter().filter(|device| !replaced(device)).chain(given.iter().cloned()).collect())
}

fn from_spec(index: usize, given: &LinuxDevice) -> Result<Device, Error> {
    let place = format!("config.json: linux.devices[{index}] {}", given.path().display());
    let path = normal(given.path());
    if path == Path::new("/") || !given.path().is_absolute() {
        return Err(Error::spec(format!("{place}: path: not the path of a file")));
    }
    let kind = match given.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(Error::spec(format!("{place}: type: \"a\" is for rules only"))),
    };
    let number = |name: &str, number: i64| {
        u32::try_from(number)
            .map(u64::from)
            .map_err(|_| Error::spec(format!("{place}: {name}: {number} is not the number of a device")))
    };
    let number = match kind {
        SFlag::S_IFIFO => 0,
        // What is not given is read as 0, and no device has that number.
        _ if (given.major(), given.minor()) == (0, 0) => {
            return Err(Error::spec(format!(
                "{place}: major and minor: missing (they are required but for type \"p\")"
            )));
        }
        _ => makedev(number("major", given.major())?, number("minor", given.minor())?),
    };
    let mode = given.file_mode().unwrap_or(0o666) & 0o7777;
    Ok(Device { path, kind, number, mode, uid: given.uid().unwrap_or(0), gid: given.gid().unwrap_or(0), place })
}

impl Device {
    /// The machine's node of the same path, as a mount for where no node can be made.
    fn bind_source(&self) -> Result<OwnedFd, Error> {
        let failure = |error| self.bind_failure(error);
        let tree = mount::clone_tree(beneath::anywhere(), &self.path, false, true).map_err(failure)?;
        match self.is(tree.as_fd()).map_err(|error| failure(error.into()))? {
            true => Ok(tree),
            false => Err(Error::spec(format!(
                "{}: the machine has something else there, and this process may not make a device",
                self.place
            ))),
        }
    }

    /// Whether a descriptor refers to this very device.
    fn is(&self, fd: BorrowedFd<'_>) -> nix::Result<bool> {
        let stat = fstat(fd)?;
        Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == self.kind && stat.st_rdev == self.number)
    }

    /// Makes the node beneath the root.
    fn make(&self, dirs: &mut Dirs<'_>) -> Result<(), Error> {
        let failure = |error: Errno| Error::io(format!("{}: make the node", self.place), error);
        let root = dirs.root;
        let (dir, name) = dirs.parent(&self.path).map_err(failure)?;
        match mknodat(dir, name, self.kind, Mode::from_bits_truncate(self.mode), self.number) {
            Ok(()) if (self.uid, self.gid) == (0, 0) => return Ok(()),
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::EPERM) => return self.bind(root, self.bind_source()?),
            Err(error) => return Err(failure(error)),
        }
        // Whoever changes the root file system meanwhile: what is made the container's owner's is this device.
        let node = beneath::find(dir, Path::new(name), Last::NoFollow).map_err(failure)?;
        if !self.is(node.as_fd()).map_err(failure)? {
            // The image has something else of that name; it is covered.
            return self.bind(root, self.bind_source()?);
        }
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        fchownat(&node, "", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(failure)
    }

    fn bind(&self, root: BorrowedFd<'_>, source: OwnedFd) -> Result<(), Error> {
        let target = beneath::find_or_make(root, &self.path, Missing::File, Last::NoFollow);
        let target = target.map_err(|error| self.bind_failure(error.into()))?;
        let attributes = Change::set(attribute::NO_SUID | attribute::NO_EXEC);
        mount::change(source.as_fd(), false, attributes)
            .and_then(|()| mount::attach(source.as_fd(), target.as_fd()))
            .map_err(|error| self.bind_failure(error))
    }

    fn bind_failure(&self, error: std::io::Error) -> Error {
        Error::io(format!("{}: bind", self.place), error)
    }
}

/// Devices for a container that may not make any: those with a user namespace of their own.
#[derive(Debug)]
pub enum Prepared {
    /// The container makes them.
    None,
    /// A detached tmpfs in which they are, by their position in the list.
    Made(OwnedFd),
    /// The machine's own nodes, for lack of the right to make any.
    Bound(Vec<OwnedFd>),
}

/// Makes the devices on the machine, with the owners they have by the container's mapping.
pub fn prepare(devices: &[Device], own: &Mappings) -> Result<Prepared, Error> {
    let failure = |error| Error::io("linux.devices: make a tmpfs", error);
    let dir = FileSystem::open("tmpfs").and_then(|tmpfs| tmpfs.create(0)).map_err(failure)?;
    let mask = umask(Mode::empty());
    let made = devices.iter().enumerate().try_for_each(|(index, device)| {
        let failure = |error: Errno| (error, Error::io(format!("{}: make the node", device.place), error));
        let name = index.to_string();
        mknodat(&dir, name.as_str(), device.kind, Mode::from_bits_truncate(device.mode), device.number)
            .map_err(failure)?;
        if let Some((uid, gid)) = own.outside(device.uid, device.gid) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(&dir, name.as_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failure)?;
        }
        Ok(())
    });
    umask(mask);
    match made {
        Ok(()) => Ok(Prepared::Made(dir)),
        Err((Errno::EPERM, _)) => {
            Ok(Prepared::Bound(devices.iter().map(Device::bind_source).collect::<Result<_, _>>()?))
        }
        Err((_, error)) => Err(error),
    }
}

/// Makes all devices, or binds what was prepared.
pub fn make_all(root: BorrowedFd<'_>, devices: Vec<Device>, prepared: Prepared) -> Result<(), Error> {
    match prepared {
        Prepared::None => {
            // The modes are meant as they are written.
            let mask = umask(Mode::empty());
            let mut dirs = Dirs { root, last: None };
            let made = devices.iter().try_for_each(|device| device.make(&mut dirs));
            umask(mask);
            made
        }
        Prepared::Bound(trees) => devices.iter().zip(trees).try_for_each(|(device, tree)| device.bind(root, tree)),
        Prepared::Made(dir) => bind_made(root, &devices, &dir),
    }
}

/// Directories that devices are made in. It is nearly always the same.
struct Dirs<'a> {
    root: BorrowedFd<'a>,
    /// The last one, and its path.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Dirs<'_> {
    /// As [`beneath::parent`].
    fn parent<'p>(&mut self, path: &'p Path) -> nix::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL) };
        let dir = match self.last.take() {
            Some((known, dir)) if known == above => dir,
            _ => beneath::find_or_make(self.root, above, Missing::Directory, Last::Follow)?,
        };
        let (_, dir) = &*self.last.insert((above.to_owned(), dir));
        Ok((dir.as_fd(), name))
    }
}

/// Only what is attached can be cloned, so the tmpfs is for a moment: on top of the root, where no lookup beneath the
/// root meets it.
fn bind_made(root: BorrowedFd<'_>, devices: &[Device], dir: &OwnedFd) -> Result<(), Error> {
    let failure = |error: std::io::Error| Error::io("linux.devices: attach a tmpfs", error);
    mount::attach(dir.as_fd(), root).map_err(failure)?;
    let bound = devices.iter().enumerate().try_for_each(|(index, device)| {
        let node = mount::clone_tree(dir.as_fd(), Path::new(&index.to_string()), false, false)
            .map_err(|error| device.bind_failure(error))?;
        device.bind(root, node)
    });
    fchdir(dir)
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .map_err(|error| failure(error.into()))?;
    bound
}

/// Makes the links of `/dev`. What an image has there stays, but for `ptmx`, which must be the container's own.
pub fn make_links(root: BorrowedFd<'_>) -> Result<(), Error> {
    let failure = |what: &str, error| Error::io(format!("default link /dev/{what}"), error);
    let dev = beneath::find_or_make(root, Path::new("/dev"), Missing::Directory, Last::Follow)
        .map_err(|error| failure("", error))?;
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Err(Errno::EEXIST) if name == "ptmx" => {
                unlinkat(&dev, name, UnlinkatFlags::NoRemoveDir).map_err(|error| failure(name, error))?;
                symlinkat(target, &dev, name).map_err(|error| failure(name, error))?;
            }
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(failure(name, error)),
        }
    }
    Ok(())
}

/// The container's `/dev/null`, which is what it is called (the class of CVE-2025-31133).
pub fn null(root: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let failure = |error: Errno| Error::io("open the container's /dev/null", error);
    let fd = beneath::find(root, Path::new("/dev/null"), Last::NoFollow).map_err(failure)?;
    let stat = fstat(&fd).map_err(failure)?;
    let character = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    match character && stat.st_rdev == makedev(1, 3) {
        true => Ok(fd),
        false => {
            Err(Error::spec("the container's /dev/null is not the null device, and paths are to be masked with it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(json: Value) -> Result<Vec<Device>, Error> {
        plan(&serde_json::from_value::<Vec<_>>(json).expect("devices"))
    }

    #[test]
    fn a_given_device_replaces_the_default_of_its_path() {
        let devices = parse(json!([
            {"path": "/dev/./null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20600, "uid": 5, "gid": 6},
        ]))
        .expect("devices");
        assert_eq!(devices.len(), DEFAULTS.len());
        let null = devices.iter().find(|device| device.path == Path::new("/dev/null")).expect("null");
        assert_eq!((null.mode, null.uid, null.gid), (0o600, 5, 6));
    }

    #[test]
    fn wrong_devices_are_refused_with_their_place() {
        for (device, phrase) in [
            (json!({"path": "/", "type": "c", "major": 1, "minor": 3}), "path"),
            (json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3}), "path"),
            (json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 3}), "major: -1"),
            (json!({"path": "/dev/x", "type": "a"}), "type"),
            (json!({"path": "/dev/x", "type": "c"}), "major and minor: missing"),
            (json!({"path": "/dev/x", "type": "b", "major": 0, "minor": 0}), "major and minor: missing"),
        ] {
            let error = parse(json!([device])).expect_err(phrase).to_string();
            assert!(error.contains("linux.devices[0]") && error.contains(phrase), "{error}");
        }
    }
}
