//! Paths inside the container's root, resolved by the kernel beneath it and never by string.
//!
//! The root file system comes from an image, that is from anybody, and another container may be changing it while this
//! one is set up. So every lookup is one openat2(2) that cannot leave the root (absolute links and ".." lead back into
//! it, magic links of procfs are refused), and what is done next is done to the descriptor it returned.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::fchdir;

/// How often a lookup is tried again that raced with a rename somewhere on its way (openat2(2), EAGAIN).
const ATTEMPTS: usize = 128;

/// As many links as the kernel follows in one lookup (path_resolution(7)).
const LONGEST_CHAIN: usize = 40;

/// What is to be there when there is nothing yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Missing {
    Directory,
    File,
}

/// Whether a link at the path's end is followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Last {
    Follow,
    NoFollow,
}

/// Opens a directory of the machine, for lookups beneath it.
pub fn directory(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Looks a path up beneath `root`: a descriptor for further calls, not for reading.
pub fn find(root: BorrowedFd<'_>, path: &Path, last: Last) -> nix::Result<OwnedFd> {
    let follow = if last == Last::Follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    open_in(root, path, OFlag::O_PATH | follow)
}

/// Opens a path beneath `root`.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens a path beneath `dir` that must not pass a link of any kind, nor a mount.
pub fn open_plain(dir: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let plain = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    resolve(dir, path, flags, plain)
}

/// Opens a path beneath `dir` that must not pass a link of any kind.
pub fn open_unlinked(dir: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    resolve(dir.as_fd(), path, flags, ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

fn resolve(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, how: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(how);
    for _ in 1..ATTEMPTS {
        match openat2(dir, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
    openat2(dir, path, how)
}

/// Looks a path up beneath `root` and makes what is missing of it.
///
/// Links that lead nowhere yet are followed beneath the root too: `/var/run` of many images is one.
pub fn find_or_make(root: BorrowedFd<'_>, path: &Path, missing: Missing, last: Last) -> nix::Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..LONGEST_CHAIN {
        match find(root, &path, last) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        match make(root, &path, missing)? {
            Made::All(fd) => return Ok(fd),
            Made::FoundLink(elsewhere) => path = elsewhere,
        }
    }
    Err(Errno::ELOOP)
}

/// The directory a path lies in, made when it is missing, and the path's last name.
pub fn parent(root: BorrowedFd<'_>, path: &Path) -> nix::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((find_or_make(root, parent, Missing::Directory, Last::Follow)?, name))
}

enum Made {
    All(OwnedFd),
    /// A link was in the way. The same path with the link's target in it.
    FoundLink(PathBuf),
}

/// Makes all that is missing of a path, without following any link in the part that is made.
fn make(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> nix::Result<Made> {
    // That all of it does not exist is known by now.
    let (mut dir, mut done, rest) = existing(root, path)?;
    for (index, name) in rest.iter().enumerate() {
        let last = index + 1 == rest.len();
        let made = match if last { missing } else { Missing::Directory } {
            Missing::Directory => is_new(mkdirat(&dir, name.as_os_str(), mode(0o755)))?,
            Missing::File => is_new(mknodat(&dir, name.as_os_str(), SFlag::S_IFREG, mode(0o644), 0))?,
        };
        if !made && let Ok(target) = readlinkat(&dir, name.as_os_str()) {
            // An absolute target replaces all that came before it.
            let rest: PathBuf = rest[index + 1..].iter().collect();
            return Ok(Made::FoundLink(done.join(target).join(rest)));
        }
        let kind = if last { OFlag::empty() } else { OFlag::O_DIRECTORY };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind;
        dir = openat(&dir, name.as_os_str(), flags, Mode::empty())?;
        done.push(name);
    }
    Ok(Made::All(dir))
}

/// The longest part of a path that exists, its path, and the names that are missing: of all of it that is known already.
fn existing(root: BorrowedFd<'_>, path: &Path) -> nix::Result<(OwnedFd, PathBuf, Vec<OsString>)> {
    let mut rest = Vec::new();
    for ancestor in path.ancestors() {
        let found = match ancestor {
            _ if ancestor == path => Err(Errno::ENOENT),
            _ if ancestor.as_os_str().is_empty() => find(root, Path::new("/"), Last::Follow),
            _ => find(root, ancestor, Last::Follow),
        };
        match (found, ancestor.components().next_back()) {
            (Err(Errno::ENOENT), Some(Component::Normal(name))) => rest.push(name.to_owned()),
            // What is missing has no parent.
            (Err(Errno::ENOENT), Some(Component::ParentDir)) => return Err(Errno::ENOENT),
            (Err(Errno::ENOENT), Some(_)) => {}
            (found, _) => {
                rest.reverse();
                return Ok((found?, Path::new("/").join(ancestor), rest));
            }
        }
    }
    Err(Errno::ENOENT)
}

/// Whether it was made just now, and was not there before.
fn is_new(result: nix::Result<()>) -> nix::Result<bool> {
    match result {
        Err(Errno::EEXIST) => Ok(false),
        other => other.map(|()| true),
    }
}

fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits)
}

/// The root of the file tree of the calling process.
pub fn own_root() -> nix::Result<OwnedFd> {
    directory(Path::new("/"))
}

/// Makes the directory at `path`, beneath the process's own root, its working directory.
///
/// No magic link of procfs is followed: until its program runs, a process on its way into the container has descriptors of
/// the machine, and a path like `/proc/self/fd/3` leads to them (the class of CVE-2024-21626).
pub fn enter(path: &Path) -> nix::Result<()> {
    let dir = resolve(anywhere(), path, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_NO_MAGICLINKS)?;
    fchdir(dir)
}

/// Makes what is missing of a directory of the process's own root; see [`enter`] for what is not followed.
pub fn make_directory(path: &Path) -> nix::Result<()> {
    find_or_make(own_root()?.as_fd(), path, Missing::Directory, Last::Follow).map(drop)
}

/// For paths of the machine, which are absolute.
pub fn anywhere() -> BorrowedFd<'static> {
    AT_FDCWD
}

/// The path, absolute and without "." and "..", as it is written: no link is looked at.
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("root/etc")).expect("root");
        fs::create_dir(dir.path().join("outside")).expect("outside");
        let root = directory(&dir.path().join("root")).expect("root");
        (dir, root)
    }

    fn inode(fd: &OwnedFd) -> u64 {
        nix::sys::stat::fstat(fd).expect("fstat").st_ino
    }

    fn make(root: &OwnedFd, path: &str, missing: Missing) -> nix::Result<u64> {
        find_or_make(root.as_fd(), Path::new(path), missing, Last::Follow).map(|fd| inode(&fd))
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let (dir, root) = tree();
        let made = make(&root, "/a/b/file", Missing::File).expect("a file");
        assert_eq!(fs::metadata(dir.path().join("root/a/b/file")).expect("the file").ino(), made);
        assert_eq!(make(&root, "/a/b/file", Missing::File), Ok(made), "a second time it is found");
        make(&root, "/a/b/c", Missing::Directory).expect("a directory");
        assert!(dir.path().join("root/a/b/c").is_dir());
    }

    #[test]
    fn links_lead_to_places_beneath_the_root_even_when_nothing_is_there() {
        let (dir, root) = tree();
        let outside = dir.path().join("outside");
        symlink(&outside, dir.path().join("root/absolute")).expect("a link");
        symlink("../../../outside", dir.path().join("root/etc/relative")).expect("a link");
        symlink("one/two", dir.path().join("root/missing")).expect("a link");
        for path in ["/absolute/x", "/etc/relative/x", "/missing/x"] {
            make(&root, path, Missing::File).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0);
        assert!(dir.path().join("root/outside/x").is_file());
        assert!(dir.path().join("root/one/two/x").is_file());
        assert!(dir.path().join("root").join(outside.strip_prefix("/").expect("absolute")).join("x").is_file());
    }

    #[test]
    fn circles_of_links_end() {
        let (dir, root) = tree();
        symlink("b", dir.path().join("root/a")).expect("a link");
        symlink("a", dir.path().join("root/b")).expect("a link");
        assert_eq!(make(&root, "/a/x", Missing::File), Err(Errno::ELOOP));
    }

    #[test]
    fn a_link_that_appears_during_the_lookup_leads_nowhere_else() {
        let (dir, root) = tree();
        let (inside, outside) = (dir.path().join("root/race"), dir.path().join("outside"));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = symlink(&outside, &inside);
                    let _ = fs::remove_file(&inside);
                    let _ = fs::create_dir(&inside);
                    let _ = fs::remove_dir_all(&inside);
                }
            });
            for round in 0..2000 {
                let _ = make(&root, &format!("/race/{round}"), Missing::Directory);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0);
    }

    #[test]
    fn paths_are_made_absolute_as_written() {
        for (path, normalized) in [("a/../b/./c", "/b/c"), ("/../x", "/x"), ("", "/"), ("/dev/", "/dev")] {
            assert_eq!(normal(Path::new(path)), Path::new(normalized));
        }
    }
}
