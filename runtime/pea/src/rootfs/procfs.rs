//! What of a container's procfs nothing may be mounted over.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::beneath::{self, Last};

/// The number of its root directory (PROC_ROOT_INO in linux/proc_fs.h).
const ROOT_INODE: u64 = 1;

/// Whether a name in procfs's root directory is a process, or leads to one.
pub fn is_process(name: &str) -> bool {
    name == "self" || name == "thread-self" || name.bytes().all(|digit| digit.is_ascii_digit())
}

/// Whether `target`, which was found at `path` beneath `root`, is what procfs says about a process. A link of the image may
/// have led there, and what is written to `/proc/self/attr` must reach the kernel (the class of CVE-2025-52881).
pub fn is_of_a_process(root: BorrowedFd<'_>, path: &Path, target: &OwnedFd) -> nix::Result<bool> {
    if fstatfs(target)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Ok(false);
    }
    for place in path.ancestors() {
        let Ok(fd) = beneath::find(root, place, Last::Follow) else { continue };
        if !is_root(&fd)? {
            continue;
        }
        let inner = path.strip_prefix(place).unwrap_or(Path::new(""));
        let Some(name) = inner.iter().next() else { return Ok(false) };
        // Links in procfs lead to the process that follows them.
        let linked = || beneath::open_unlinked(&fd, inner, OFlag::O_PATH).is_err();
        return Ok(name.to_str().is_some_and(is_process) || linked());
    }
    // Not by way of its root: by a link.
    Ok(true)
}

fn is_root(fd: &OwnedFd) -> nix::Result<bool> {
    Ok(fstat(fd)?.st_ino == ROOT_INODE && fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}
