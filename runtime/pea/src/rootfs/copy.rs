//! Copies what a tmpfs covers into it (`tmpcopyup`).
//!
//! Everything is reached by descriptors and without following links: the tree is the image's, or another container's.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, dup, fchown, fchownat, symlinkat};

/// Copies the content of a directory, and its owner.
pub fn tree(from: OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fstat(&from)?;
    let to = openat(to, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    content(from, to.as_fd())?;
    fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    Ok(())
}

fn content(from: OwnedFd, to: BorrowedFd<'_>) -> io::Result<()> {
    let dir = dup(&from)?;
    for entry in Dir::from_fd(from)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(dir.as_fd(), to, name)?;
        }
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    const IN: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);
    const OUT: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_CLOEXEC);
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let inner = openat(from, name, IN | OFlag::O_DIRECTORY, Mode::empty())?;
            let copy = openat(to, name, IN | OFlag::O_DIRECTORY, Mode::empty())?;
            content(inner, copy.as_fd())?;
            finish(&copy, &stat)
        }
        SFlag::S_IFREG => {
            let mut source = File::from(openat(from, name, IN, Mode::empty())?);
            let mut copy = File::from(openat(to, name, OUT, Mode::S_IRWXU)?);
            io::copy(&mut source, &mut copy)?;
            finish(&copy, &stat)
        }
        SFlag::S_IFLNK => {
            symlinkat(OsStr::from_bytes(readlinkat(from, name)?.as_bytes()), to, name)?;
            unopened(to, name, &stat)
        }
        // A socket nobody listens on; devices and FIFOs.
        _ => {
            mknodat(to, name, kind, Mode::from_bits_truncate(stat.st_mode & 0o7777), stat.st_rdev)?;
            unopened(to, name, &stat)
        }
    }
}

/// The owner first: changing it clears the set-user-id bit.
fn finish(copy: &impl AsFd, stat: &FileStat) -> io::Result<()> {
    fchown(copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(copy.as_fd(), Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let (accessed, modified) = times(stat);
    Ok(futimens(copy.as_fd(), &accessed, &modified)?)
}

fn unopened(dir: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (accessed, modified) = times(stat);
    Ok(utimensat(dir, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}
