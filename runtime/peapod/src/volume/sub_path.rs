//! subPath: a part of a volume, bound to a place no container can reach.
//!
//! A container that shares the volume may replace any part of the path by a link at any moment
//! (CVE-2017-1002101, CVE-2021-25741). The path is therefore opened once, by a kernel that refuses to
//! leave the volume, and what was opened is bound; its name is never looked up again.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

use super::VolumeError;
use super::error::failed;
use super::mount;

/// Binds `sub_path` of the volume at `volume` to `target`, which is made.
pub(super) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<(), Refusal> {
    let opened = open(volume, Path::new(sub_path))?;
    let kind = fstat(&opened).map_err(io::Error::from).map_err(Refusal::Kernel)?.st_mode & SFlag::S_IFMT.bits();
    let made = if kind == SFlag::S_IFDIR.bits() { fs::create_dir(target) } else { File::create_new(target).map(drop) };
    made.map_err(failed("make", target)).map_err(Refusal::Volume)?;
    mount::bind(&opened, target).map_err(Refusal::Volume)
}

/// Why a subPath was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is not in the volume.
    Outside,
    /// Something else at that path.
    Kernel(io::Error),
    /// Not about the path.
    Volume(VolumeError),
}

/// Opens a path inside a volume. Directories that are not there are made, as by kubelet, with the mode of
/// the volume.
fn open(volume: &Path, sub_path: &Path) -> Result<OwnedFd, Refusal> {
    let root: OwnedFd = File::open(volume).map_err(failed("open", volume)).map_err(Refusal::Volume)?.into();
    match enter(&root, sub_path) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(refusal),
    }
    let mode = Mode::from_bits_truncate(fstat(&root).map_err(refusal)?.st_mode & 0o7777);
    let mut walked = PathBuf::new();
    let mut parent = enter(&root, Path::new(".")).map_err(refusal)?;
    for part in sub_path.components().filter(|part| matches!(part, Component::Normal(_))) {
        walked.push(part);
        parent = match enter(&root, &walked) {
            Err(Errno::ENOENT) => {
                mkdirat(&parent, part.as_os_str(), mode).map_err(refusal)?;
                let how = how(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW);
                let made = openat2(&parent, part.as_os_str(), how).map_err(refusal)?;
                // mkdir(2) takes our umask off.
                fchmod(&made, mode).map_err(refusal)?;
                made
            }
            other => other.map_err(refusal)?,
        };
    }
    enter(&root, sub_path).map_err(refusal)
}

fn enter(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    openat2(root, path, how(OFlag::O_PATH))
}

fn how(flags: OFlag) -> OpenHow {
    let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(inside)
}

fn refusal(error: Errno) -> Refusal {
    match error {
        Errno::EXDEV => Refusal::Outside,
        error => Refusal::Kernel(error.into()),
    }
}
