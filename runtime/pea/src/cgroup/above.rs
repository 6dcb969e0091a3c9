//! The cgroups above a container's that were made with it, and go with the last container that is below them.
//!
//! Who is the last need not be who made them, so it is written on them that they were made by us.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::hierarchies;
use crate::sys::xattr;

/// The kernel keeps the first for root in any hierarchy, the second for everybody in the unified one.
const MARKS: [&CStr; 2] = [c"trusted.pea.made", c"user.pea.made"];

/// Writes on a cgroup that it was made by us. Where that cannot be, it goes with the container that made it or stays.
pub fn mark(dir: &Path) {
    if let Some(dir) = open(dir) {
        let _ = MARKS.iter().any(|name| xattr::set(dir.as_fd(), name, b"1").is_ok());
    }
}

/// Removes what a container that is gone from `path` has above it: what is on its record as made by it, the deepest first,
/// and what is marked. In either case not what others are in.
pub fn remove(path: &Path, made: &[PathBuf]) {
    for dir in made {
        let _ = fs::remove_dir(dir);
    }
    let all = hierarchies().unwrap_or_default();
    for hierarchy in all.iter().filter(|_| !path.as_os_str().is_empty()) {
        let dir = hierarchy.dir(path);
        let above = dir.ancestors().skip(1).take_while(|above| *above != hierarchy.root());
        let _ = above.take_while(|above| is_marked(above)).try_for_each(fs::remove_dir);
    }
}

fn is_marked(dir: &Path) -> bool {
    open(dir).is_some_and(|dir| MARKS.iter().any(|name| xattr::get(dir.as_fd(), name).is_ok()))
}

fn open(dir: &Path) -> Option<File> {
    File::options().read(true).custom_flags(libc::O_DIRECTORY).open(dir).ok()
}
