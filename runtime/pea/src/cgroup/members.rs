//! Who is in a cgroup.

use std::fs;
use std::path::{Path, PathBuf};

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
    let file = dir.join("cgroup.procs");
    match fs::read_to_string(&file) {
        // 0 stands for a process of another pid namespace, whom we have no name for.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // Gone, or a group of threads, whose processes are listed above it.
        Err(error) if gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(Error::io(format!("read {}", file.display()), error)),
    }
    children(dir)?.iter().try_for_each(|child| collect(child, pids))
}

/// The child groups; none where the group is gone.
pub fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if gone(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("read {}", dir.display()), error)),
    }
}
