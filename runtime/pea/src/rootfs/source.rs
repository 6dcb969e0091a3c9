//! What is opened on the machine, before there is a container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::beneath;
use super::descriptors::Room;
use super::device::{self, Prepared};
use super::plan::{Kind, Mount, Plan};
use super::propagation::Propagation;
use crate::error::Error;
use crate::sys::mount;

/// What one mount or device starts from.
#[derive(Debug)]
pub enum Source {
    /// Nothing that is opened beforehand.
    None,
    /// A detached mount tree, with all its attributes.
    Tree(OwnedFd),
    /// The user namespace whose mapping the mount is to have.
    Namespace(OwnedFd),
    /// A link that is to be copied and not followed.
    Link(PathBuf),
    /// To be opened in the container's mount namespace: see [`ahead`].
    Later,
}

/// What is opened on the machine, in the order of the plan's mounts and devices. The descriptors are closed on exec.
#[derive(Debug)]
pub struct Sources {
    pub root: Source,
    pub mounts: Vec<Source>,
    pub devices: Prepared,
    /// As long as all of them are open.
    pub room: Option<Room>,
}

impl Plan {
    /// Opens the root file system and the sources of bind mounts, with the caller's rights on them.
    ///
    /// # Errors
    /// The mount, its source and the kernel's reason.
    pub fn open(&self) -> Result<Sources, Error> {
        let room = Room::make(self.mounts.len() + self.devices.len())
            .map_err(|error| Error::io("raise the limit of open descriptors", error))?;
        let root = match open_root(&self.rootfs, self.base()) {
            Ok(tree) => Source::Tree(tree),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Source::Later,
            Err(error) => return Err(Error::io(format!("root file system {}", self.rootfs.display()), error)),
        };
        let later = matches!(root, Source::Later);
        let open = |mount: &Mount| match mount.kind {
            Kind::Bind { .. } if later || !ahead(self, mount) => Ok(Source::Later),
            Kind::Bind { .. } => open_bind(mount, self.base_of(mount)),
            _ => match &mount.id_map {
                Some(map) => map.namespace().map(Source::Namespace).map_err(|error| mount.failure("idmap", error)),
                None => Ok(Source::None),
            },
        };
        let devices = match self.user_namespace && !later {
            true => device::prepare(&self.devices, &self.own)?,
            false => Prepared::None,
        };
        Ok(Sources { root, mounts: self.mounts.iter().map(open).collect::<Result<_, _>>()?, devices, room })
    }
}

/// Whether a source must be opened before there is a container: when its user namespace has no rights on the source, when
/// a mount shall be the machine's peer (in the container's namespace nothing is, in the machine's everything), and when the path would mean something
/// else there. The others are opened when it is their turn, for the kernel lists mounts in the order of their making.
///
/// Without privilege (rootless) nothing can be opened here.
fn ahead(plan: &Plan, mount: &Mount) -> bool {
    let elsewhere = matches!(&mount.kind, Kind::Bind { source, .. } if source.starts_with("/proc"));
    !plan.mount_namespace || plan.user_namespace || mount.id_map.is_some() || plan.base_of(mount).is_none() || elsewhere
}

/// The root file system and whatever is mounted below it.
pub fn open_root(path: &Path, base: Propagation) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(beneath::anywhere(), path, true, true)?;
    mount::change(tree.as_fd(), true, base.change())?;
    Ok(tree)
}

/// The source of a bind mount, with all the attributes of the mount. `base`: its propagation before what is asked for,
/// when it is not the one its source has.
pub fn open_bind(mount: &Mount, base: Option<Propagation>) -> Result<Source, Error> {
    let Kind::Bind { source, recursive } = &mount.kind else { return Ok(Source::None) };
    let failure = |error: io::Error| mount.failure(format_args!("bind {}", source.display()), error);
    let options = &mount.options;
    if options.copy_symlink && fs::symlink_metadata(source).map_err(failure)?.is_symlink() {
        return Ok(Source::Link(fs::read_link(source).map_err(failure)?));
    }
    let follow = !options.no_follow_source;
    let tree = mount::clone_tree(beneath::anywhere(), source, *recursive, follow).map_err(failure)?;
    if let Some(base) = base {
        mount::change(tree.as_fd(), true, base.change()).map_err(failure)?;
    }
    change(mount, &tree)?;
    if let Some(map) = &mount.id_map {
        let idmap = |error| mount.failure(format_args!("bind {}: idmap", source.display()), error);
        let namespace = map.namespace().map_err(idmap)?;
        mount::map_ids(tree.as_fd(), map.recursive, namespace.as_fd()).map_err(idmap)?;
    }
    Ok(Source::Tree(tree))
}

/// Gives a mount the attributes and the propagation asked for.
pub fn change(mount: &Mount, fd: &OwnedFd) -> Result<(), Error> {
    let options = &mount.options;
    for (recursive, change) in [(true, options.tree), (false, options.own)] {
        if !change.is_empty() {
            mount::change(fd.as_fd(), recursive, change).map_err(|error| mount.failure("set its options", error))?;
        }
    }
    options.propagation.iter().try_for_each(|each| {
        mount::change(fd.as_fd(), each.recursive, each.change())
            .map_err(|error| mount.failure("set its propagation", error))
    })
}
