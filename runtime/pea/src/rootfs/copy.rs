//! Copies what a tmpfs covers into it (`tmpcopyup`).
//!
//! With owners, modes, times, and extended attributes, file capabilities and access lists among them.
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

use crate::sys::xattr;

/// Copies the content of a directory, and its owner.
pub fn tree(from: OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fstat(&from)?;
    let to = openat(to, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    content(from.as_fd(), to.as_fd())?;
    fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    attributes(&from, &to)
}

fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    for entry in Dir::from_fd(dup(from)?)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name)?;
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
            content(inner.as_fd(), copy.as_fd())?;
            finish(&copy, &stat)?;
            attributes(&inner, &copy)
        }
        SFlag::S_IFREG => {
            let mut source = File::from(openat(from, name, IN, Mode::empty())?);
            let mut copy = File::from(openat(to, name, OUT, Mode::S_IRWXU)?);
            io::copy(&mut source, &mut copy)?;
            finish(&copy, &stat)?;
            attributes(&source, &copy)
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

/// Copies the extended attributes. What the tmpfs does not take of them, or not from a user namespace, it would not take
/// from the container's programs either, and is left out. To be done last: a new owner takes the capabilities from a file.
fn attributes(from: &impl AsFd, to: &impl AsFd) -> io::Result<()> {
    for name in or_none(xattr::names(from.as_fd()))? {
        if let Some(value) = or_none(xattr::get(from.as_fd(), &name).map(Some))? {
            or_none(xattr::set(to.as_fd(), &name, &value))?;
        }
    }
    Ok(())
}

fn or_none<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM | libc::EACCES | libc::ENODATA)) =>
        {
            Ok(T::default())
        }
        result => result,
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
