//! Removing a directory with all that is in it, but nothing that is mounted in it.
//!
//! A container may have written the tree: it can be as deep as the disk allows, so nothing here
//! recurses. Each directory found is moved up to the top and its turn comes later.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::VolumeError;
use super::error::failed;

/// Directories that were moved to the top begin like this.
const MOVED: &str = ".peapod-removing-";

/// Removes a tree if it is there. Links are removed, not followed.
///
/// # Errors
///
/// [`VolumeError::Mounted`] at the first mount point: what is mounted there is not touched.
pub fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("remove", path)(Errno::EINVAL));
    };
    let parent = match openat2(AT_FDCWD, parent, how(ResolveFlag::empty())) {
        Ok(parent) => parent,
        Err(Errno::ENOENT) => return Ok(()),
        Err(error) => return Err(failed("open", parent)(error)),
    };
    match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(error) => return Err(refused(path)(error)),
    }
    let mut removal = Removal { top: enter(&parent, name, path)?, path, waiting: VecDeque::new(), number: 0 };
    removal.empty(None)?;
    while let Some(directory) = removal.waiting.pop_front() {
        removal.empty(Some(&directory))?;
        unlinkat(&removal.top, directory.as_str(), UnlinkatFlags::RemoveDir).map_err(refused(path))?;
    }
    unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(refused(path))
}

struct Removal<'a> {
    top: OwnedFd,
    path: &'a Path,
    /// Names at the top of directories that are not empty yet.
    waiting: VecDeque<String>,
    number: u64,
}

impl Removal<'_> {
    /// Empties a directory at the top, or the top itself.
    fn empty(&mut self, directory: Option<&str>) -> Result<(), VolumeError> {
        let opened;
        let at = match directory {
            Some(directory) => {
                opened = enter(&self.top, OsStr::new(directory), &self.path.join(directory))?;
                &opened
            }
            None => &self.top,
        };
        // Read whole before anything changes: a directory that changes may be read with gaps.
        let listing = PathBuf::from(format!("/proc/self/fd/{}", at.as_raw_fd()));
        let names: io::Result<Vec<_>> =
            fs::read_dir(&listing).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        for name in names.map_err(failed("read", self.path))? {
            let removed = match unlinkat(at, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Err(Errno::EISDIR) => unlinkat(at, name.as_os_str(), UnlinkatFlags::RemoveDir),
                other => other,
            };
            match removed {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    let moved = move_up(&self.top, &mut self.number, at, &name)
                        .map_err(refused(&self.path.join(directory.unwrap_or_default()).join(&name)))?;
                    self.waiting.push_back(moved);
                }
                Err(error) => {
                    return Err(refused(&self.path.join(directory.unwrap_or_default()).join(&name))(error));
                }
            }
        }
        Ok(())
    }
}

/// Moves a directory to the top under a name that is free. The kernel refuses for a mount point.
fn move_up(top: &OwnedFd, number: &mut u64, at: &OwnedFd, name: &OsStr) -> nix::Result<String> {
    loop {
        let moved = format!("{MOVED}{number}");
        *number += 1;
        match renameat(at, name, top, moved.as_str()) {
            // Left there by a removal that was cut off.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            Ok(()) => return Ok(moved),
            Err(error) => return Err(error),
        }
    }
}

fn enter(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, VolumeError> {
    let stay = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
    openat2(parent, name, how(stay)).map_err(refused(path))
}

fn how(resolve: ResolveFlag) -> OpenHow {
    OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve)
}

/// What the kernel says of a mount point: EXDEV on entering it, EBUSY on removing or moving it.
fn refused(path: &Path) -> impl FnOnce(Errno) -> VolumeError {
    let path = path.to_owned();
    move |error| match error {
        Errno::EXDEV | Errno::EBUSY => VolumeError::Mounted { path },
        error => failed("remove", &path)(error),
    }
}
