//! Standard streams that are /dev/null.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::stat::{SFlag, fstat, makedev};

use crate::error::Error;
use crate::sys;

/// Replaces those that are the machine's /dev/null by the container's own, which must be the root by now.
///
/// One from outside keeps a mount of the machine in use, and a checkpoint could not name it. A container whose own
/// /dev/null is something else, or is not there, keeps what it was given.
pub fn reopen_null() -> Result<(), Error> {
    let streams: [(RawFd, bool); 3] = [
        (0, is_null(std::io::stdin().as_fd())),
        (1, is_null(std::io::stdout().as_fd())),
        (2, is_null(std::io::stderr().as_fd())),
    ];
    if streams.iter().all(|(_, null)| !null) {
        return Ok(());
    }
    let own = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY).open("/dev/null");
    let Some(own) = own.ok().filter(|own| is_null(own.as_fd())) else { return Ok(()) };
    for (number, _) in streams.iter().filter(|(_, null)| *null) {
        sys::set_stdio(own.as_fd(), *number).map_err(|error| Error::io("set a standard stream", error))?;
    }
    Ok(())
}

/// Character device 1:3 (Documentation/admin-guide/devices.txt).
fn is_null(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|file| {
        SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR && file.st_rdev == makedev(1, 3)
    })
}
