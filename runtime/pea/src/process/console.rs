//! The terminal of a process: a pty of the container's own devpts, whose master goes to the caller's socket.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{OFlag, open as open_file};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::Error;
use crate::sys::{self, tty};

/// linux/magic.h
const DEVPTS_SUPER_MAGIC: FsType = FsType(0x1cd1);

/// Connects to the console socket; done outside of the container.
pub fn connect(path: &Path) -> Result<UnixStream, Error> {
    crate::socket::connect(path)
        .map_err(|error| Error::io(format!("connect to console socket {}", path.display()), error))
}

/// Opens a terminal inside the container, makes it the session's and the standard streams', and sends its master.
/// Returns its slave.
pub fn open(socket: BorrowedFd<'_>, size: Option<tty::Size>) -> Result<OwnedFd, Error> {
    let path = Path::new("/dev/pts/ptmx");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = open_file(path, flags, Mode::empty()).map_err(|error| Error::io("open /dev/pts/ptmx", error))?;
    // Anything could be mounted there by the container (the class of CVE-2025-52565).
    let kind = fstatfs(&master).map_err(|error| Error::io("statfs /dev/pts/ptmx", error))?.filesystem_type();
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(Error::spec("/dev/pts/ptmx of the container is not on a devpts file system"));
    }
    let slave = tty::open_slave(master.as_fd()).map_err(|error| Error::io("open the terminal", error))?;
    if let Some(size) = size {
        tty::set_size(master.as_fd(), size).map_err(|error| Error::io("set the terminal's size", error))?;
    }
    send(socket, &master)?;
    tty::set_controlling(slave.as_fd()).map_err(|error| Error::io("set the controlling terminal", error))?;
    for number in 0..3 {
        sys::set_stdio(slave.as_fd(), number).map_err(|error| Error::io("set a standard stream", error))?;
    }
    Ok(slave)
}

/// Hands a terminal's master over.
pub fn send(socket: BorrowedFd<'_>, master: &OwnedFd) -> Result<(), Error> {
    let fds = [master.as_raw_fd()];
    let name = [IoSlice::new(b"/dev/ptmx")];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &name, &message, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
        .map_err(|error| Error::io("send the terminal to the console socket", error))
}
