//! Everything opened from outside, before the container can have a say in what a path means.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstatat, stat};
use nix::unistd::{chroot, fchdir};

use crate::error::Error;
use crate::socket::open_dir;
use crate::store::Init;
use crate::sys::clone::NEWTIME;
use crate::sys::process;

/// Namespaces by their file in /proc/PID/ns.
const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("time", NEWTIME),
];

/// The container's init, looked at from outside.
///
/// All goes through its directory in /proc, which stays its own: once it has ended nothing is found there any more,
/// whoever gets its number.
pub struct Door {
    init: Init,
    pidfd: OwnedFd,
    namespaces: CloneFlags,
    root: OwnedFd,
}

/// The part of it that is needed inside, too.
pub struct Inner {
    /// The cgroup namespace, when it is not ours. It is joined last: from within it our own cgroup cannot be seen, and
    /// then v2 refuses to make a process of ours in another (cgroup-v2.rst, "Delegation Containment").
    pub cgroup_namespace: Option<OwnedFd>,
    /// The machine's /proc.
    pub proc: File,
    pub console: Option<UnixStream>,
}

/// The stat file of the container's init, which tells from anywhere whether it is coming to its end.
pub struct Watch {
    init: Init,
    stat: File,
}

impl Watch {
    /// Whether the init has ended, or is about to.
    pub fn is_ending(&self) -> bool {
        let mut text = [0; 1024];
        let length = self.stat.read_at(&mut text, 0).unwrap_or(0);
        self.init.is_ending_by(&String::from_utf8_lossy(&text[..length]))
    }
}

/// What [`open`] found: the door, what is kept inside, and the init's /proc/PID/cgroup.
pub struct Opened {
    pub door: Door,
    pub cgroup_namespace: Option<OwnedFd>,
    pub proc: File,
    pub cgroup: String,
}

/// Opens all there is to open of a container's init; `None` when it has ended.
pub fn open(init: Init) -> Result<Option<(Opened, Watch)>, Error> {
    let proc = open_dir(Path::new("/proc")).map_err(|error| Error::io("open /proc", error))?;
    let Ok(own) = openat(&proc, init.pid.to_string().as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) else {
        return Ok(None);
    };
    let of = Of { dir: own.as_fd(), init };
    let Ok(stat) = of.file("stat", OFlag::O_RDONLY) else { return Ok(None) };
    let watch = Watch { init, stat: stat.into() };
    match of.open(&watch) {
        Ok(Some((door, cgroup_namespace, cgroup))) => {
            Ok(Some((Opened { door, cgroup_namespace, proc, cgroup }, watch)))
        }
        Ok(None) => Ok(None),
        // An init on its way out is alive for a while yet, but without namespaces and root: that is why.
        Err(_) if watch.is_ending() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A process's directory in /proc.
struct Of<'a> {
    dir: BorrowedFd<'a>,
    init: Init,
}

type Parts = (Door, Option<OwnedFd>, String);

impl Of<'_> {
    fn open(&self, watch: &Watch) -> Result<Option<Parts>, Error> {
        let failed =
            |what: &'static str| move |error: nix::Error| Error::io(format!("open the container's {what}"), error);
        // It is that very process, and if it is still there then the pidfd is its, too.
        let pidfd =
            process::pidfd_open(self.init.pid).map_err(|error| Error::io("open the container's init", error))?;
        if watch.is_ending() {
            return Ok(None);
        }
        let namespaces = self.differing().map_err(failed("namespaces"))?;
        let cgroup_namespace = match self.differs("cgroup").map_err(failed("namespaces"))? {
            true => Some(self.file("ns/cgroup", OFlag::O_RDONLY).map_err(failed("cgroup namespace"))?),
            false => None,
        };
        let root = self.file("root", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(failed("root"))?;
        let cgroup = self.file("cgroup", OFlag::O_RDONLY).map_err(failed("cgroup"))?;
        let cgroup =
            io::read_to_string(File::from(cgroup)).map_err(|error| Error::io("read the container's cgroup", error))?;
        Ok(Some((Door { init: self.init, pidfd, namespaces, root }, cgroup_namespace, cgroup)))
    }

    fn file(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        openat(self.dir, name, flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// The namespaces that are not ours: joining one's own fails for some, and means nothing for any.
    fn differing(&self) -> nix::Result<CloneFlags> {
        let mut flags = CloneFlags::empty();
        for (name, flag) in NAMESPACES {
            if self.differs(name)? {
                flags |= flag;
            }
        }
        Ok(flags)
    }

    fn differs(&self, name: &str) -> nix::Result<bool> {
        // A kind this kernel does not have.
        let Ok(own) = stat(format!("/proc/self/ns/{name}").as_str()) else { return Ok(false) };
        let theirs = fstatat(self.dir, format!("ns/{name}").as_str(), AtFlags::empty())?;
        Ok((own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino))
    }
}

impl Door {
    /// Enters the container with the calling process; its children will be in the pid namespace, too.
    pub fn enter(self) -> Result<(), Error> {
        // All in one call, so that joining the user namespace does not take away the right to join the others.
        if !self.namespaces.is_empty() {
            setns(self.pidfd.as_fd(), self.namespaces).map_err(|error| {
                Error::io(format!("join the namespaces of process {} ({:?})", self.init.pid, self.namespaces), error)
            })?;
        }
        // The root of the mount namespace is not the container's where it was made without pivot_root.
        fchdir(&self.root).map_err(|error| Error::io("enter the container's root", error))?;
        chroot(".").map_err(|error| Error::io("change to the container's root", error))
    }
}
