//! Who is in a cgroup.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::{dirs, gone};
use crate::error::Error;

/// Every process in the cgroup and below, in any hierarchy; sorted.
pub fn pids(path: &Path) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    for dir in dirs(path)? {
        collect(&dir, &mut pids)?;
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Adds the processes of one hierarchy's directory and of those below.
pub fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    walk(dir, &mut |step| match step {
        Step::Into(group) => add(group, dir, pids),
        Step::OutOf(..) => Ok(()),
    })
}

fn add(group: BorrowedFd<'_>, dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    let read = || io::read_to_string(File::from(openat(group, "cgroup.procs", READ, Mode::empty())?));
    match read() {
        // 0 stands for a process of another pid namespace, whom we have no name for.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // Gone, or a group of threads, whose processes are listed above it.
        Err(error) if gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(Error::io(format!("read cgroup.procs in {}", dir.display()), error)),
    }
    Ok(())
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC);

/// What happens on a walk.
pub enum Step<'a> {
    /// This group is entered.
    Into(BorrowedFd<'a>),
    /// All below it have been walked: the group that it is in, and its name there.
    OutOf(BorrowedFd<'a>, &'a OsStr),
}

/// Walks over all groups below `dir`, and `dir` itself, which is only entered. There are none where it is gone.
///
/// A container that may make groups can make them deeper than any path is long, and than there are descriptors for; so it
/// goes down by names and up by "..", with two descriptors.
pub fn walk(dir: &Path, visit: &mut dyn FnMut(Step<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let failure = |error: Errno| Error::io(format!("read {}", dir.display()), error);
    let mut here = match open(dir, READ | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(error) if gone(&error.into()) => return Ok(()),
        opened => opened.map_err(failure)?,
    };
    visit(Step::Into(here.as_fd()))?;
    // Of each group on the way down: its name, and the names of those beside it that are still to come.
    let mut way: Vec<(OsString, Vec<OsString>)> = Vec::new();
    let mut next = children(&here).map_err(failure)?;
    loop {
        if let Some(name) = next.pop() {
            match openat(&here, name.as_os_str(), READ | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
                Err(error) if gone(&error.into()) => continue,
                opened => here = opened.map_err(failure)?,
            }
            visit(Step::Into(here.as_fd()))?;
            way.push((name, std::mem::replace(&mut next, children(&here).map_err(failure)?)));
        } else if let Some((name, rest)) = way.pop() {
            here = openat(&here, "..", READ | OFlag::O_DIRECTORY, Mode::empty()).map_err(failure)?;
            visit(Step::OutOf(here.as_fd(), &name))?;
            next = rest;
        } else {
            return Ok(());
        }
    }
}

/// The names of the child groups; none where the group is gone.
fn children(dir: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut names = Vec::new();
    let mut entries = match Dir::openat(dir, ".", READ | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(error) if gone(&error.into()) => return Ok(names),
        entries => entries?,
    };
    for entry in entries.iter() {
        let entry = match entry {
            Err(error) if gone(&error.into()) => break,
            entry => entry?,
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == Some(Type::Directory) && name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
