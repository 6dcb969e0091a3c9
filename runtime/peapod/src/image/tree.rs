//! A directory tree that nothing written into it can lead out of.
//!
//! A layer may hold links that point anywhere, and entries whose path goes through them. Every path is
//! therefore resolved by the kernel with the tree as root (openat2(2), RESOLVE_IN_ROOT), and every
//! operation is on a name in a directory opened that way.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{self, FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fstatat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

/// As many links as the kernel follows for one path (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The root of a tree.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory of the last place: neighbours come one after another.
    last: Option<(PathBuf, std::rc::Rc<OwnedFd>)>,
}

/// A name in a directory of a tree.
pub(super) struct Place {
    directory: std::rc::Rc<OwnedFd>,
    name: CString,
}

/// What there is to know of a file besides its content.
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: TimeSpec,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

impl Tree {
    /// Opens a directory as a tree.
    pub(super) fn open(root: &Path) -> io::Result<Tree> {
        Ok(Tree { root: File::open(root)?.into(), last: None })
    }

    /// The place a path names. Directories on the way that are not there are made; a link on the way is
    /// followed inside the tree.
    pub(super) fn place(&mut self, path: &Path) -> io::Result<Place> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or_else(|| io::Error::from(Errno::EINVAL))?;
        let directory = self.directory(parent)?;
        Ok(Place { directory, name: CString::new(name.as_bytes())? })
    }

    /// The place of the root itself.
    pub(super) fn itself(&mut self) -> io::Result<Place> {
        Ok(Place { directory: self.directory(Path::new(""))?, name: c".".to_owned() })
    }

    fn directory(&mut self, path: &Path) -> io::Result<std::rc::Rc<OwnedFd>> {
        if let Some((_, directory)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(directory.clone());
        }
        let opened = match self.enter(path) {
            Err(Errno::ENOENT) => {
                self.make(path, MOST_LINKS)?;
                self.enter(path)?
            }
            other => other?,
        };
        let opened = std::rc::Rc::new(opened);
        self.last = Some((path.to_owned(), opened.clone()));
        Ok(opened)
    }

    fn enter(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, if path.as_os_str().is_empty() { Path::new(".") } else { path }, how)
    }

    /// Makes the missing directories of a path, one after another. Where a link leads to nothing, what it
    /// leads to is made: it may well be there in a layer below.
    fn make(&self, path: &Path, links: usize) -> io::Result<()> {
        let mut parent = self.enter(Path::new(""))?;
        let mut walked = PathBuf::new();
        for part in path.components() {
            let above = walked.clone();
            walked.push(part);
            parent = match self.enter(&walked) {
                Err(Errno::ENOENT) => {
                    match stat::mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                        Err(Errno::EEXIST) if links > 0 => {
                            let target = readlinkat(&parent, part.as_os_str())?;
                            self.make(&from_root(&above.join(target)), links - 1)?;
                        }
                        made => made?,
                    }
                    self.enter(&walked)?
                }
                other => other?,
            };
        }
        Ok(())
    }

    /// Forgets the last directory, which may have been replaced.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

impl Place {
    /// What is there, links not followed; `None` when nothing is.
    pub(super) fn stat(&self) -> io::Result<Option<FileStat>> {
        match fstatat(&*self.directory, self.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A path to the place through the open directory, for what takes no directory: its last part is
    /// never followed by those who are given it.
    fn through(&self) -> PathBuf {
        let directory = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        Path::new(&directory).join(OsStr::from_bytes(self.name.to_bytes()))
    }

    /// Removes what is there, with all that is below it.
    pub(super) fn remove(&self) -> io::Result<()> {
        let Some(stat) = self.stat()? else { return Ok(()) };
        if kind(&stat) == SFlag::S_IFDIR {
            return fs::remove_dir_all(self.through());
        }
        Ok(unlinkat(&*self.directory, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir)?)
    }

    /// Makes a file and opens it for writing.
    pub(super) fn file(&self) -> io::Result<File> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(&*self.directory, self.name.as_c_str(), flags, Mode::from_bits_truncate(0o600))?;
        Ok(file.into())
    }

    /// Makes a directory.
    pub(super) fn directory(&self) -> io::Result<()> {
        Ok(stat::mkdirat(&*self.directory, self.name.as_c_str(), Mode::from_bits_truncate(0o700))?)
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(&self, target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(CString::new(target)?.as_c_str(), &*self.directory, self.name.as_c_str())?)
    }

    /// Makes another name of the file at `other`.
    pub(super) fn hard_link(&self, other: &Place) -> io::Result<()> {
        let (from, to): (&CStr, &CStr) = (&other.name, &self.name);
        Ok(linkat(&*other.directory, from, &*self.directory, to, LinkatFlags::empty())?)
    }

    /// Makes a device file or a FIFO.
    pub(super) fn node(&self, kind: SFlag, device: u64) -> io::Result<()> {
        Ok(stat::mknodat(&*self.directory, self.name.as_c_str(), kind, Mode::from_bits_truncate(0o600), device)?)
    }

    /// Sets one extended attribute.
    pub(super) fn xattr(&self, name: &str, value: &[u8]) -> io::Result<()> {
        xattr::set(self.through(), name, value)
    }

    /// Sets owner, extended attributes, mode and time, in the order in which none undoes another:
    /// chown(2) clears set-user-ID and file capabilities.
    pub(super) fn set(&self, attributes: &Attributes) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        fchownat(&*self.directory, self.name.as_c_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        for (name, value) in &attributes.xattrs {
            match self.xattr(name, value) {
                // A file system without them, or a link that cannot have them: as tar does.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPERM) && name.starts_with("user.") => {}
                other => other?,
            }
        }
        if self.stat()?.is_some_and(|stat| kind(&stat) != SFlag::S_IFLNK) {
            let mode = Mode::from_bits_truncate(attributes.mode);
            stat::fchmodat(&*self.directory, self.name.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        self.set_time(attributes.mtime)
    }

    /// Sets the times of access and change.
    pub(super) fn set_time(&self, time: TimeSpec) -> io::Result<()> {
        let flags = UtimensatFlags::NoFollowSymlink;
        Ok(stat::utimensat(&*self.directory, self.name.as_c_str(), &time, &time, flags)?)
    }
}

/// A path as seen from the root, above which there is nothing.
fn from_root(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => whole.push(part),
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    whole
}

/// The kind of a file.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Makes a directory for root alone, with those above it.
pub(super) fn private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}
