//! Paths of the container that nothing shows behind, and paths nothing can be written to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::beneath::{self, Last};
use super::device;
use super::plan::Protected;
use crate::error::Error;
use crate::sys::mount::{self, Change, FileSystem, attribute};

/// Where paths are looked up.
pub struct Places<'a> {
    pub root: BorrowedFd<'a>,
    /// File systems of the kernel in it, and where they were mounted.
    pub kernel: &'a [(PathBuf, OwnedFd)],
}

impl<'a> Places<'a> {
    /// Covers files by the null device, and directories by one empty directory, the same for all.
    pub fn mask(&self, paths: &[Protected]) -> Result<(), Error> {
        let (mut null, mut empty) = (None, None);
        for protected in paths {
            let Some(target) = self.find(protected)? else { continue };
            let failure = |error| Error::io(format!("{}: mask", protected.place), error);
            let stat = fstat(&target).map_err(|error| failure(error.into()))?;
            if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                let cover = match &empty {
                    // Only an attached mount can be cloned: the first one is the very mount, the others are its clones.
                    None => empty_directory().map_err(failure)?,
                    Some(first) => clone(first).map_err(failure)?,
                };
                mount::attach(cover.as_fd(), target.as_fd()).map_err(failure)?;
                empty.get_or_insert(cover);
                continue;
            }
            if null.is_none() {
                null = Some(device::null(self.root)?);
            }
            if let Some(null) = &null {
                let cover = clone(null).map_err(failure)?;
                mount::attach(cover.as_fd(), target.as_fd()).map_err(failure)?;
            }
        }
        Ok(())
    }

    /// Makes each path a read-only mount of itself, with what is mounted below it.
    pub fn make_read_only(&self, paths: &[Protected]) -> Result<(), Error> {
        for protected in paths {
            let Some(target) = self.find(protected)? else { continue };
            let failure = |error| Error::io(format!("{}: make it read-only", protected.place), error);
            let tree = mount::clone_tree(target.as_fd(), Path::new(""), true, true).map_err(failure)?;
            let read_only = Change::set(attribute::READ_ONLY);
            mount::change(tree.as_fd(), false, read_only).map_err(failure)?;
            mount::attach(tree.as_fd(), target.as_fd()).map_err(failure)?;
        }
        Ok(())
    }

    /// What is not there, or not to be reached even by the container's root, needs no protection.
    fn find(&self, protected: &Protected) -> Result<Option<OwnedFd>, Error> {
        let within = |(place, fd): &'a (PathBuf, OwnedFd)| Some((fd.as_fd(), protected.path.strip_prefix(place).ok()?));
        let inner = self.kernel.iter().rev().find_map(within).filter(|(_, path)| !path.as_os_str().is_empty());
        let (root, path) = inner.unwrap_or((self.root, &protected.path));
        match beneath::find(root, path, Last::Follow) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(None),
            Err(error) => Err(Error::io(&protected.place, error)),
        }
    }
}

/// A mount of nothing.
pub fn empty_directory() -> std::io::Result<OwnedFd> {
    let tmpfs = FileSystem::open("tmpfs")?;
    for (key, value) in [("source", Some("tmpfs")), ("nr_blocks", Some("1")), ("nr_inodes", Some("1"))] {
        tmpfs.set(key, value)?;
    }
    tmpfs.set("ro", None)?;
    tmpfs.set("mode", Some("755"))?;
    let attributes = attribute::READ_ONLY | attribute::NO_SUID | attribute::NO_DEV | attribute::NO_EXEC;
    tmpfs.create(attributes)
}

fn clone(mount: &OwnedFd) -> std::io::Result<OwnedFd> {
    mount::clone_tree(mount.as_fd(), Path::new(""), false, true)
}
