//! Pseudo-terminals (pty(7), ioctl_tty(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{check, own, passing};

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// The slave of `master`, opened through the master itself, so that no path inside the container is trusted.
pub fn open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: the request reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes its flags by value and returns a new descriptor.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into()).map(own)
}

/// The descriptor that comes over a console socket.
pub fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let (_, descriptor) = passing::receive(socket.as_fd(), &mut [0; 256])?;
    descriptor.ok_or_else(|| io::Error::other("the message has no descriptor in it"))
}

/// Makes the terminal the controlling one of this session.
pub fn set_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes an int by value.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// The size of a terminal.
pub fn size(terminal: impl AsFd) -> io::Result<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one winsize.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) }.into())?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of a terminal; its foreground processes get SIGWINCH.
pub fn set_size(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) }.into()).map(drop)
}
