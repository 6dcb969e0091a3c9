//! One mount, from its plan and its source to a place beneath the root.

use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount as mount_by_path, umount2};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{chdir, fchdir, symlinkat};

use super::beneath::{self, Last, Missing};
use super::copy;
use super::plan::{Kind, Mount};
use super::source::{self, Source};
use super::{procfs, protect};
use crate::error::Error;
use crate::sys::mount::{self, Change, FileSystem, attribute};

/// fsconfig(2) takes no longer value.
const LONGEST_VALUE: usize = 255;

/// What an owner of a user namespace may not mount unless the namespace of that kind is his, too; the machine's, with
/// the rights he has there, is shown instead.
const MACHINES_OWN: [(&str, &str); 3] = [("sysfs", "/sys"), ("proc", "/proc"), ("mqueue", "/dev/mqueue")];

/// Where mounts go, and what they depend on.
pub struct Target<'a> {
    pub root: BorrowedFd<'a>,
    pub user_namespace: bool,
}

impl Target<'_> {
    /// Attaches a bind mount, whose attributes are set already.
    pub fn bind(&self, mount: &Mount, tree: &OwnedFd) -> Result<(), Error> {
        let directory = is(tree, SFlag::S_IFDIR).map_err(|error| mount.failure("open its source", error))?;
        self.attach(mount, tree, if directory { Missing::Directory } else { Missing::File })
    }

    /// The same for a tree that was opened before the mounts it comes after in the list.
    ///
    /// The kernel lists mounts in the order of their making, and readers of that list take it for the order of mounting.
    /// Only what is attached can be cloned here, so a clone takes the place of the attached tree.
    pub fn bind_anew(&self, mount: &Mount, tree: &OwnedFd) -> Result<(), Error> {
        self.bind(mount, tree)?;
        let again = |error: std::io::Error| mount.failure("bind it again", error);
        if !is(tree, SFlag::S_IFDIR).map_err(|error| again(error.into()))? {
            return Ok(());
        }
        let clone = mount::clone_tree(tree.as_fd(), Path::new(""), true, true).map_err(again)?;
        fchdir(tree)
            .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
            .and_then(|()| chdir("/"))
            .map_err(|error| again(error.into()))?;
        self.bind(mount, &clone)
    }

    /// Copies a link instead of mounting what it leads to (`copy-symlink`).
    pub fn copy_link(&self, mount: &Mount, target: &Path) -> Result<(), Error> {
        let failure = |error: Errno| mount.failure("copy the link", error);
        let (dir, name) = beneath::parent(self.root, &mount.destination).map_err(failure)?;
        match symlinkat(target, &dir, name.as_os_str()) {
            Ok(()) => Ok(()),
            // The same link from an earlier container.
            Err(Errno::EEXIST)
                if nix::fcntl::readlinkat(&dir, name.as_os_str()).is_ok_and(|found| Path::new(&found) == target) =>
            {
                Ok(())
            }
            Err(error) => Err(failure(error)),
        }
    }

    /// Makes a file system and attaches it. `delay`: attributes that are left out for now.
    pub fn file_system(&self, mount: &Mount, source: &Source, delay: u64) -> Result<OwnedFd, Error> {
        let Kind::FileSystem { kind, .. } = &mount.kind else {
            return Err(mount.wrong("a bug: not a file system"));
        };
        let mode = self.present_mode(mount);
        let fd = match self.make(mount, mode, delay) {
            Ok(fd) => fd,
            Err(Refused::Permission(error)) if self.user_namespace => {
                let Some((_, path)) = MACHINES_OWN.iter().find(|(name, _)| name == kind) else { return Err(error) };
                return self.machines_own(mount, Path::new(path));
            }
            Err(Refused::TooLong) => return self.file_system_by_path(mount),
            Err(Refused::Permission(error) | Refused::Otherwise(error)) => return Err(error),
        };
        if let Source::Namespace(namespace) = source {
            let recursive = mount.id_map.as_ref().is_some_and(|map| map.recursive);
            mount::map_ids(fd.as_fd(), recursive, namespace.as_fd()).map_err(|error| mount.failure("idmap", error))?;
        }
        if mount.options.copy_up && kind == "tmpfs" {
            self.copy_up(mount, &fd)?;
        }
        // A new mount has the other attributes from its birth.
        let mut rest = mount.clone();
        rest.options.own = Change::set(mount.options.own.set & attribute::NO_SYMLINK_FOLLOW);
        source::change(&rest, &fd)?;
        self.attach(mount, &fd, Missing::Directory)?;
        Ok(fd)
    }

    /// Binds what the machine has of a kind, with the options asked for on all of it.
    fn machines_own(&self, mount: &Mount, path: &Path) -> Result<OwnedFd, Error> {
        let failure = |error| mount.failure(format_args!("bind {}", path.display()), error);
        let tree = mount::clone_tree(beneath::anywhere(), path, true, true).map_err(failure)?;
        mount::change(tree.as_fd(), true, Change::set(mount.options.own.set)).map_err(failure)?;
        source::change(mount, &tree)?;
        self.attach(mount, &tree, Missing::Directory)?;
        // The machine's cgroups come along with its sysfs, and are none of the container's business.
        let cgroups = mount.destination.join("fs/cgroup");
        if let (true, Ok(cgroups)) = (mount.is("sysfs"), beneath::find(self.root, &cgroups, Last::Follow)) {
            let cover = protect::empty_directory().map_err(failure)?;
            mount::attach(cover.as_fd(), cgroups.as_fd()).map_err(failure)?;
        }
        Ok(tree)
    }

    /// Changes what is mounted at the destination.
    pub fn remount(&self, mount: &Mount) -> Result<(), Error> {
        let target = beneath::find(self.root, &mount.destination, Last::Follow)
            .map_err(|error| mount.failure("find the mount", error))?;
        if mount.options.remount && mount.options.bind.is_none() && !mount.options.data.is_empty() {
            let failure = |error| mount.failure("remount", error);
            let picked = FileSystem::pick(target.as_fd()).map_err(failure)?;
            configure(mount, &picked, None)?;
            picked.reconfigure().map_err(failure)?;
        }
        source::change(mount, &target)
    }

    /// A directory or file to mount upon, made when it is missing.
    pub fn destination(&self, mount: &Mount, missing: Missing) -> Result<OwnedFd, Error> {
        let failure = |error: Errno| mount.failure("make the mount point", error);
        let plain = mount.is("proc") || mount.is("sysfs");
        let last = if plain || mount.options.no_follow_destination { Last::NoFollow } else { Last::Follow };
        let fd = beneath::find_or_make(self.root, &mount.destination, missing, last).map_err(failure)?;
        // What is masked and read-only there must be what the container finds there.
        if plain && !is(&fd, SFlag::S_IFDIR).map_err(failure)? {
            return Err(mount.wrong("a directory is required there, and no symbolic link"));
        }
        if procfs::is_of_a_process(self.root, &mount.destination, &fd).map_err(failure)? {
            return Err(mount.over_a_process());
        }
        Ok(fd)
    }

    fn attach(&self, mount: &Mount, tree: &OwnedFd, missing: Missing) -> Result<(), Error> {
        let target = self.destination(mount, missing)?;
        let Err(error) = mount::attach(tree.as_fd(), target.as_fd()) else { return Ok(()) };
        let step = match &mount.kind {
            Kind::Bind { source, .. } => format!("bind {}", source.display()),
            _ => "attach the file system".to_owned(),
        };
        // A directory and a file: move_mount(2) only calls this invalid.
        let differ = is(tree, SFlag::S_IFDIR) != is(&target, SFlag::S_IFDIR);
        let error = if differ { Errno::ENOTDIR.into() } else { error };
        Err(mount.failure(step, error))
    }

    /// A tmpfs over a directory takes over its mode.
    fn present_mode(&self, mount: &Mount) -> Option<u32> {
        if !mount.is("tmpfs") || mount.options.value("mode").is_some() {
            return None;
        }
        let present = beneath::find(self.root, &mount.destination, Last::Follow).ok()?;
        fstat(&present).ok().map(|stat| stat.st_mode & 0o7777)
    }

    fn make(&self, mount: &Mount, mode: Option<u32>, delay: u64) -> Result<OwnedFd, Refused> {
        let Kind::FileSystem { kind, .. } = &mount.kind else {
            return Err(Refused::Otherwise(mount.wrong("a bug: not a file system")));
        };
        if mount.options.data.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() > LONGEST_VALUE)) {
            return Err(Refused::TooLong);
        }
        let refused = |error: std::io::Error, complaint: String| {
            let permission = error.raw_os_error() == Some(libc::EPERM);
            let mut step = format!("mount {kind}");
            if !complaint.is_empty() {
                let _ = write!(step, ": {complaint}");
            }
            let error = mount.failure(step, error);
            if permission { Refused::Permission(error) } else { Refused::Otherwise(error) }
        };
        let file_system = FileSystem::open(kind).map_err(|error| refused(error, String::new()))?;
        configure(mount, &file_system, mode).map_err(Refused::Otherwise)?;
        let attributes = mount.options.own.set & !delay & !attribute::NO_SYMLINK_FOLLOW;
        file_system.create(attributes).map_err(|error| refused(error, file_system.complaint()))
    }

    /// The same by mount(2), for options too long for fsconfig(2) (overlayfs with many layers).
    fn file_system_by_path(&self, mount: &Mount) -> Result<OwnedFd, Error> {
        let Kind::FileSystem { kind, source } = &mount.kind else {
            return Err(mount.wrong("a bug: not a file system"));
        };
        let failure = |error: Errno| mount.failure(format_args!("mount {kind}"), error);
        let option = |(key, value): &(String, Option<String>)| match value {
            // A label has commas.
            Some(value) if key == "context" => format!("{key}=\"{value}\""),
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        let data = mount.options.data.iter().map(option).collect::<Vec<_>>().join(",");
        let target = self.destination(mount, Missing::Directory)?;
        // mount(2) takes a path only; the one of the working directory leads nowhere else.
        fchdir(&target).map_err(failure)?;
        let mounted =
            mount_by_path(Some(source.as_str()), ".", Some(kind.as_str()), MsFlags::empty(), Some(data.as_str()));
        chdir("/").map_err(failure)?;
        mounted.map_err(failure)?;
        let fd = beneath::find(self.root, &mount.destination, Last::Follow).map_err(failure)?;
        source::change(mount, &fd)?;
        Ok(fd)
    }

    /// Fills a new tmpfs with what it is about to cover.
    fn copy_up(&self, mount: &Mount, tmpfs: &OwnedFd) -> Result<(), Error> {
        let failure = |error: std::io::Error| mount.failure("tmpcopyup", error);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        match beneath::open_in(self.root, &mount.destination, flags) {
            Ok(covered) => copy::tree(covered, tmpfs).map_err(failure),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(failure(error.into())),
        }
    }
}

/// Why a file system was not made.
enum Refused {
    Permission(Error),
    TooLong,
    Otherwise(Error),
}

pub fn configure(mount: &Mount, file_system: &FileSystem, mode: Option<u32>) -> Result<(), Error> {
    let set = |key: &str, value: Option<&str>| {
        file_system.set(key, value).map_err(|error| {
            let option = value.map_or(key.to_owned(), |value| format!("{key}={value}"));
            let complaint = file_system.complaint();
            let colon = if complaint.is_empty() { "" } else { ": " };
            mount.failure(format_args!("option {option}{colon}{complaint}"), error)
        })
    };
    if let Kind::FileSystem { source, .. } = &mount.kind {
        set("source", Some(source))?;
        // What lies on a device may not even be opened for writing.
        if source.starts_with('/') && mount.options.own.set & attribute::READ_ONLY != 0 {
            set("ro", None)?;
        }
    }
    if let Some(mode) = mode {
        set("mode", Some(&format!("{mode:o}")))?;
    }
    mount.options.data.iter().try_for_each(|(key, value)| set(key, value.as_deref()))
}

/// What sort of file a descriptor refers to.
pub fn is(fd: &OwnedFd, kind: SFlag) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == kind)
}
