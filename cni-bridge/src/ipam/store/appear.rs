//! Writing files: those that are whole from the moment they have a name, and those that need not be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use super::present;

/// Gives a file without a name this one; false when there is such a file.
fn name(file: &File, path: &Path) -> io::Result<bool> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, source.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a file with this text appear at once under its name; false when there is such a file.
pub(super) fn appear(directory: &Path, path: &Path, text: &str) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if let Ok(mut file) = options.clone().custom_flags(libc::O_TMPFILE).open(directory) {
        file.write_all(text.as_bytes())?;
        if let Ok(named) = name(&file, path) {
            return Ok(named);
        }
    }
    // File systems of networks have no files without names. One name is enough under the lock; it is no address,
    // so nobody takes it for a lease. It may be left of a crash, linked to a lease: never truncate it.
    let aside = directory.join(".new");
    present(fs::remove_file(&aside))?;
    options.create_new(true).open(&aside)?.write_all(text.as_bytes())?;
    let linked = match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true),
    };
    fs::remove_file(&aside)?;
    linked
}

/// Writes a file in place. Not emptied first: ext4 then writes it to the disk at once, to be safe against a power
/// cut (`auto_da_alloc` in `ext4(5)`), which is not worth it here.
///
/// A link or a pipe of that name makes way: what a link leads to is not ours to write, and a pipe would hold us.
pub(in crate::ipam) fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut file = match options.open(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            fs::remove_file(path)?;
            options.open(path)?
        }
        opened => opened?,
    };
    file.write_all(text)?;
    let length = u64::try_from(text.len()).unwrap_or_default();
    if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
}
