//! Unix sockets whose path may be longer than the 107 bytes an address holds.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path an address holds, but for the NUL behind it (unix(7)).
const LONGEST: usize = 107;

/// A name for the socket at `path` that is short enough, and what must be held open for as long as it is used.
///
/// Going through a descriptor of the directory leaves the working directory alone.
fn short(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    if path.as_os_str().len() <= LONGEST {
        return Ok((None, path.to_owned()));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir = open_dir(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((Some(dir), path))
}

/// Opens a directory only to look things up in it.
pub fn open_dir(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

/// Connects to the socket at `path`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_dir, short) = short(path)?;
    UnixStream::connect(short)
}

/// Listens at `path`, which must not exist.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let (_dir, short) = short(path)?;
    UnixListener::bind(short)
}

/// Binds a datagram socket at `path`, which must not exist.
pub fn bind_datagrams(path: &Path) -> io::Result<UnixDatagram> {
    let (_dir, short) = short(path)?;
    UnixDatagram::bind(short)
}
