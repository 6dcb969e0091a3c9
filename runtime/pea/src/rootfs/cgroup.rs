//! The mount of type "cgroup": the container's own cgroups, in whatever layout the machine has.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::symlinkat;

use super::Context;
use super::beneath::{self, Last, Missing};
use super::mount::{Target, configure};
use super::plan::Mount;
use super::source;
use crate::error::Error;
use crate::sys::mount::{self, Change, FileSystem, attribute};

/// Where every distribution mounts them.
const MACHINES: &str = "/sys/fs/cgroup";

impl Target<'_> {
    /// Mounts the container's cgroups. The container is in them by now, and in its cgroup namespace.
    pub fn cgroup(&self, mount: &Mount, context: &Context) -> Result<(), Error> {
        let unified = statfs(MACHINES).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let tree = if unified { unified_tree(mount, context)? } else { hierarchies(mount, context)? };
        let target = self.destination(mount, Missing::Directory)?;
        mount::attach(tree.as_fd(), target.as_fd()).map_err(|error| mount.failure("attach the cgroups", error))?;
        if !unified {
            fill(mount, context, target_of(self, mount)?)?;
        }
        Ok(())
    }
}

/// What is now mounted at the destination.
fn target_of(target: &Target<'_>, mount: &Mount) -> Result<OwnedFd, Error> {
    beneath::find(target.root, &mount.destination, Last::Follow)
        .map_err(|error| mount.failure("find the mounted directory", error))
}

/// cgroup v2: the hierarchy as the container's cgroup namespace shows it.
///
/// In the machine's namespace it is the machine's own mount. Another one would show the same, and set the options of the
/// whole hierarchy (`nsdelegate`) to those of this mount, that is to none (cgroup-v2.rst, "Mounting").
fn unified_tree(mount: &Mount, context: &Context) -> Result<OwnedFd, Error> {
    let failure = |error| mount.failure("mount cgroup2", error);
    if !context.cgroup_namespace && mount.options.data.is_empty() {
        let tree = machines_tree(mount, context)?;
        source::change(mount, &tree)?;
        return Ok(tree);
    }
    let made = FileSystem::open("cgroup2").map_err(failure)?;
    configure(mount, &made, None)?;
    let made = made.create(mount.options.own.set & !attribute::NO_SYMLINK_FOLLOW);
    let tree = match made {
        Ok(tree) => tree,
        // Neither the hierarchy nor its namespace belong to the user namespace: what the machine has, then.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBUSY)) => machines_tree(mount, context)?,
        Err(error) => return Err(failure(error)),
    };
    source::change(mount, &tree)?;
    Ok(tree)
}

/// What of the machine's mount the container shall see.
fn machines_tree(mount: &Mount, context: &Context) -> Result<OwnedFd, Error> {
    let path = match context.cgroup_namespace {
        true => inside(Path::new(MACHINES), &context.cgroup),
        false => PathBuf::from(MACHINES),
    };
    mount::clone_tree(beneath::anywhere(), &path, true, true)
        .map_err(|error| mount.failure(format_args!("bind {}", path.display()), error))
}

/// cgroup v1: a directory in which each hierarchy has its place.
fn hierarchies(mount: &Mount, _: &Context) -> Result<OwnedFd, Error> {
    let failure = |error| mount.failure("mount tmpfs", error);
    let tmpfs = FileSystem::open("tmpfs").map_err(failure)?;
    for (key, value) in [("source", "tmpfs"), ("mode", "755")] {
        tmpfs.set(key, Some(value)).map_err(failure)?;
    }
    tmpfs.create(mount.options.own.set & !attribute::READ_ONLY).map_err(failure)
}

/// Binds the container's cgroup of each hierarchy, with links for controllers that share one (`cpu` to `cpu,cpuacct`).
fn fill(mount: &Mount, context: &Context, dir: OwnedFd) -> Result<(), Error> {
    let entries = fs::read_dir(MACHINES).map_err(|error| mount.failure(format_args!("read {MACHINES}"), error))?;
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let failure = |error: std::io::Error| mount.failure(format_args!("bind {}", path.display()), error);
        if let Ok(link) = fs::read_link(&path) {
            symlinkat(link.as_path(), &dir, name.as_os_str()).map_err(|error| failure(error.into()))?;
            continue;
        }
        let kind = statfs(&path).map(|stat| stat.filesystem_type());
        if !matches!(kind, Ok(CGROUP_SUPER_MAGIC | CGROUP2_SUPER_MAGIC)) {
            continue;
        }
        let tree = match mount::clone_tree(beneath::anywhere(), &inside(&path, &context.cgroup), false, true) {
            // A hierarchy the container is not in.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            tree => tree.map_err(failure)?,
        };
        source::change(mount, &tree)?;
        mkdirat(&dir, name.as_os_str(), Mode::from_bits_truncate(0o755)).map_err(|error| failure(error.into()))?;
        let place =
            beneath::find(dir.as_fd(), Path::new(&name), Last::NoFollow).map_err(|error| failure(error.into()))?;
        mount::attach(tree.as_fd(), place.as_fd()).map_err(failure)?;
    }
    let own = Change::set(mount.options.own.set);
    mount::change(dir.as_fd(), false, own).map_err(|error| mount.failure("set its options", error))
}

fn inside(mountpoint: &Path, cgroup: &Path) -> PathBuf {
    mountpoint.join(cgroup.strip_prefix("/").unwrap_or(cgroup))
}
