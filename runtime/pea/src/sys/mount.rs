//! Mounts by descriptor (Linux 5.12): mount trees that are attached nowhere yet, and file systems being configured.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;

use nix::NixPath;

use super::{check, own};

/// The per-mount attributes of mount_setattr(2), as fsmount(2) takes them too.
pub mod attribute {
    pub const READ_ONLY: u64 = 0x1;
    pub const NO_SUID: u64 = 0x2;
    pub const NO_DEV: u64 = 0x4;
    pub const NO_EXEC: u64 = 0x8;
    /// The field that holds one of the three access time modes.
    pub const ACCESS_TIME: u64 = 0x70;
    pub const RELATIVE_ACCESS_TIME: u64 = 0x00;
    pub const NO_ACCESS_TIME: u64 = 0x10;
    pub const STRICT_ACCESS_TIME: u64 = 0x20;
    pub const NO_DIR_ACCESS_TIME: u64 = 0x80;
    pub const ID_MAP: u64 = 0x0010_0000;
    pub const NO_SYMLINK_FOLLOW: u64 = 0x0020_0000;
}

/// What mount_setattr(2) is to change (`struct mount_attr`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Change {
    pub set: u64,
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
    user_namespace: u64,
}

impl Change {
    /// Nothing but the propagation.
    pub fn propagation(propagation: u64) -> Self {
        Self { propagation, ..Self::default() }
    }

    /// Nothing but attributes that are set.
    pub fn set(attributes: u64) -> Self {
        Self { set: attributes, ..Self::default() }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

pub const CLONE: c_uint = 1;
pub const CLOSE_ON_EXEC: c_uint = libc::O_CLOEXEC as c_uint;
const RECURSIVE: c_uint = 0x8000; // AT_RECURSIVE
pub const EMPTY_PATH: c_uint = libc::AT_EMPTY_PATH as c_uint;
const NO_FOLLOW: c_uint = libc::AT_SYMLINK_NOFOLLOW as c_uint;

/// Clones the mount (tree) at a path; the clone is attached nowhere (open_tree(2)).
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool, follow: bool) -> io::Result<OwnedFd> {
    let mut flags = CLONE | CLOSE_ON_EXEC | EMPTY_PATH;
    flags |= if recursive { RECURSIVE } else { 0 };
    flags |= if follow { 0 } else { NO_FOLLOW };
    let fd = path.with_nix_path(|path| {
        // SAFETY: the path is terminated and outlives the call.
        check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
    })??;
    Ok(own(fd))
}

/// Attaches a mount tree on top of what a descriptor refers to (move_mount(2)).
pub fn attach(tree: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> io::Result<()> {
    /// Both paths are empty: the descriptors themselves are meant.
    const EMPTY_PATHS: c_uint = 0x04 | 0x40;
    let (from, to, empty) = (tree.as_raw_fd(), onto.as_raw_fd(), c"".as_ptr());
    // SAFETY: the empty paths are terminated.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, EMPTY_PATHS) }).map(drop)
}

/// Changes a mount, or the whole tree beneath it, all or nothing (mount_setattr(2)).
pub fn change(mount: BorrowedFd<'_>, recursive: bool, change: Change) -> io::Result<()> {
    let flags = EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    let (empty, size) = (c"".as_ptr(), size_of::<Change>());
    // SAFETY: the structure is of that size and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), empty, flags, &change, size) }).map(drop)
}

/// Maps the ids of a mount that is attached nowhere yet by the mapping of a user namespace.
pub fn map_ids(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let user_namespace = user_namespace.as_raw_fd() as u64;
    change(mount, recursive, Change { set: attribute::ID_MAP, user_namespace, ..Change::default() })
}

/// A file system being configured (fsopen(2), fspick(2)).
pub struct FileSystem(OwnedFd);

/// The commands of fsconfig(2).
#[derive(Clone, Copy)]
enum Command {
    SetFlag = 0,
    SetString = 1,
    Create = 6,
    Reconfigure = 7,
}

impl FileSystem {
    /// A new one of that type, for the namespaces of the calling process.
    pub fn open(kind: &str) -> io::Result<Self> {
        const CLOSE_ON_EXEC: c_uint = 1;
        let kind = CString::new(kind)?;
        // SAFETY: the name is terminated and outlives the call.
        check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC) }).map(own).map(Self)
    }

    /// The mounted one behind a descriptor, to be reconfigured.
    pub fn pick(mount: BorrowedFd<'_>) -> io::Result<Self> {
        const CLOSE_ON_EXEC: c_uint = 1;
        const EMPTY_PATH: c_uint = 8;
        let (fd, flags) = (mount.as_raw_fd(), CLOSE_ON_EXEC | EMPTY_PATH);
        // SAFETY: the empty path is terminated.
        check(unsafe { libc::syscall(libc::SYS_fspick, fd, c"".as_ptr(), flags) }).map(own).map(Self)
    }

    /// Sets an option: `key=value`, or `key` alone.
    pub fn set(&self, key: &str, value: Option<&str>) -> io::Result<()> {
        let key = CString::new(key)?;
        match value.map(CString::new).transpose()? {
            Some(value) => self.configure(Command::SetString, key.as_ptr(), value.as_ptr()),
            None => self.configure(Command::SetFlag, key.as_ptr(), ptr::null()),
        }
    }

    /// Makes the file system, and a mount of it that is attached nowhere (fsmount(2)).
    pub fn create(&self, attributes: u64) -> io::Result<OwnedFd> {
        const CLOSE_ON_EXEC: c_uint = 1;
        self.configure(Command::Create, ptr::null(), ptr::null())?;
        // SAFETY: plain integers.
        check(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), CLOSE_ON_EXEC, attributes as c_uint) })
            .map(own)
    }

    /// Applies the options to a mounted file system.
    pub fn reconfigure(&self) -> io::Result<()> {
        self.configure(Command::Reconfigure, ptr::null(), ptr::null())
    }

    /// What the kernel has to say about a refused option; empty when it is silent.
    pub fn complaint(&self) -> String {
        let mut text = [0; 512];
        // One message a read: "e tmpfs: Bad value for 'size'".
        let length = nix::unistd::read(self.0.as_fd(), &mut text).unwrap_or(0);
        String::from_utf8_lossy(&text[..length]).trim_start_matches("e ").trim().to_owned()
    }

    fn configure(&self, command: Command, key: *const c_char, value: *const c_char) -> io::Result<()> {
        let (fd, command) = (self.0.as_raw_fd(), command as c_uint);
        // SAFETY: key and value are terminated, or null where the command takes none, and outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key, value, 0 as c_int) }).map(drop)
    }
}
