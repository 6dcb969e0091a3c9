//! Removing a cgroup.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::AT_FDCWD;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::members::{Step, collect, walk};
use super::{checked, dirs, gone};
use crate::error::{Error, ErrorKind};

/// How long a dying process may keep its cgroup busy.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(2);

/// Removes the cgroup at this `cgroupsPath` and its empty children, in every hierarchy.
///
/// Succeeds when there is none, or the path is empty; fails when a process still lives in it.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    checked(path)?;
    let end = Instant::now() + REMOVAL_DEADLINE;
    let mut failure = None;
    // Every hierarchy gets its turn, whatever happened in the one before.
    for dir in dirs(path)? {
        if let Err(error) = remove_dir(&dir, end) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Removes the cgroup where nothing lives in it or below it any more; false where something is left of it.
pub(crate) fn remove_if_empty(path: &Path) -> bool {
    let gone = |dir: PathBuf| match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => gone(&error),
    };
    // An empty path has no directories, and a wrong one is for others to report.
    checked(path).is_ok() && dirs(path).is_ok_and(|dirs| dirs.into_iter().all(gone))
}

fn remove_dir(dir: &Path, end: Instant) -> Result<(), Error> {
    walk(dir, &mut |step| match step {
        Step::Into(_) => Ok(()),
        Step::OutOf(above, name) => remove_one(above, Path::new(name), end, dir),
    })?;
    remove_one(AT_FDCWD, dir, end, dir)
}

/// Removes the group of that name. `dir` is for errors: the name alone says little.
fn remove_one(above: BorrowedFd<'_>, name: &Path, end: Instant, dir: &Path) -> Result<(), Error> {
    let mut pause = Duration::from_micros(50);
    loop {
        let error: io::Error = match unlinkat(above, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => return Ok(()),
            Err(error) => error.into(),
        };
        if gone(&error) {
            return Ok(());
        }
        let mut members = Vec::new();
        collect(dir, &mut members)?;
        if error.raw_os_error() != Some(libc::EBUSY) || !members.is_empty() || Instant::now() >= end {
            let text =
                format!("remove cgroup {}: {} (processes: {members:?})", dir.display(), crate::error::reason(&error));
            let kind = if members.is_empty() { ErrorKind::Internal } else { ErrorKind::Busy };
            return Err(Error::new(kind, text));
        }
        // Empty, yet busy: its last process is on its way through the kernel's exit, for which v1 has no event.
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
