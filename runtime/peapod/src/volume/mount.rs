//! The one place that mounts and unmounts.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::VolumeError;
use super::error::failed;

/// More mounts than anybody stacks on one place.
const MOST_STACKED: usize = 16;

/// A tmpfs to be mounted.
pub(super) struct Tmpfs<'a> {
    /// What it is called in `/proc/mounts`.
    pub(super) name: &'a str,
    /// Its size at most, in bytes; half of the node's memory when absent, as the kernel has it.
    pub(super) size: Option<u64>,
    /// The mode of its root.
    pub(super) mode: u32,
    /// Nothing in it can be executed, be a device or give rights.
    pub(super) inert: bool,
}

/// Mounts a tmpfs at a directory.
pub(super) fn tmpfs(tmpfs: &Tmpfs<'_>, target: &Path) -> Result<(), VolumeError> {
    let size = tmpfs.size.map_or_else(String::new, |size| format!(",size={size}"));
    let data = format!("mode={:o}{size}", tmpfs.mode);
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let flags = if tmpfs.inert { inert } else { MsFlags::empty() };
    mount(Some(tmpfs.name), target, Some("tmpfs"), flags, Some(data.as_str()))
        .map_err(failed("mount a tmpfs at", target))
}

/// Mounts what an open file descriptor stands for, wherever its name leads by now, with what is mounted in it.
pub(super) fn bind(source: impl AsFd, target: &Path) -> Result<(), VolumeError> {
    let source = format!("/proc/self/fd/{}", source.as_fd().as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(failed("bind a subPath to", target))?;
    make_slave(target).map_err(failed("cut loose", target))
}

/// Cuts a mount, and those in it, loose from what it was bound from. Otherwise unmounting the one would
/// unmount what is mounted in the other (kernel: Documentation/filesystems/sharedsubtree.rst).
fn make_slave(target: &Path) -> nix::Result<()> {
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
}

/// Takes away whatever is mounted at a path, also when it is in use; nothing may be.
pub(super) fn unmount(target: &Path) -> Result<(), VolumeError> {
    for _ in 0..MOST_STACKED {
        // Done when it was bound, unless we were cut off just then.
        let cut = make_slave(target);
        match cut.and_then(|()| umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)) {
            Ok(()) => {}
            // Not a mount point; nothing there; something on the way is no directory.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(error) => return Err(failed("unmount", target)(error)),
        }
    }
    Err(VolumeError::Mounted { path: target.to_owned() })
}

/// Whether a file system of its own is mounted at a directory.
pub(super) fn is_file_system(directory: &Path) -> io::Result<bool> {
    let parent = directory.parent().unwrap_or(Path::new("/"));
    Ok(fs::symlink_metadata(directory)?.dev() != fs::symlink_metadata(parent)?.dev())
}
