//! A container without a mount namespace of its own: its mounts are the machine's, so they outlive it.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::beneath;
use crate::error::Error;

/// No more mounts than this are taken off a root file system.
const MOST: usize = 16;

/// The id of the mount a directory is on (proc_pid_fdinfo(5)).
///
/// # Errors
/// The directory cannot be opened.
pub fn mount_id(path: &Path) -> Result<u64, Error> {
    let failure = |error: std::io::Error| Error::io(format!("find the mount of {}", path.display()), error);
    let fd = beneath::directory(path).map_err(|error| failure(error.into()))?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(failure)?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| failure(std::io::ErrorKind::InvalidData.into()))
}

/// Detaches what was mounted at `rootfs` since it was on the mount `beneath`. Can be done again.
///
/// # Errors
/// The kernel's reason.
pub fn detach(rootfs: &Path, beneath: u64) -> Result<(), Error> {
    for _ in 0..MOST {
        // Removed, or as it was.
        if mount_id(rootfs).map_or(true, |id| id == beneath) {
            return Ok(());
        }
        match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount: its owner has taken away even what was beneath.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(Error::io(format!("unmount {}", rootfs.display()), error)),
        }
    }
    Ok(())
}
