//! The file a program runs from.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, own};

/// A read-only mount of that file, attached nowhere (open_tree(2), mount_setattr(2); Linux 5.12).
pub fn read_only_mount(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is an empty, terminated string; the call returns a new descriptor.
    let tree = check(unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) }).map(own)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    let at = libc::AT_EMPTY_PATH;
    // SAFETY: the attributes are of that size and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), at, &attributes, size) })?;
    Ok(tree)
}
