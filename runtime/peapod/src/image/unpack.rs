//! A layer's archive as a directory for overlayfs (image specification, `layer.md`).
//!
//! What a layer removes is written there as `.wh.<name>` and `.wh..wh..opq`; overlayfs wants a character
//! device 0:0 and the attribute `trusted.overlay.opaque` (kernel: Documentation/filesystems/overlayfs.rst).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{SFlag, makedev};
use nix::sys::time::TimeSpec;
use tar::EntryType;

use super::tree::{Attributes, Place, Tree, kind};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of that form are aufs' own and mean nothing to a container.
const RESERVED: &[u8] = b".wh..wh.";

/// How pax headers carry extended attributes.
const PAX_XATTR: &str = "SCHILY.xattr.";

/// Extended attributes that are kept. overlayfs' own (`trusted.overlay.*`) would let a layer redirect its
/// directories to where it likes, and a label belongs to the machine it was made on.
const KEPT: &[&str] = &["security.capability", "system.posix_acl_", "user."];

/// Unpacks an archive into a directory that is empty.
///
/// # Errors
///
/// When the archive is damaged or would write outside of the directory; says at which entry.
pub(super) fn unpack(archive: impl Read, directory: &Path) -> io::Result<()> {
    let mut layer = Layer { tree: Tree::open(directory)?, directories: Vec::new(), removed: HashSet::new() };
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        layer.entry(&mut entry).map_err(|error| io::Error::new(error.kind(), format!("at entry {name:?}: {error}")))?;
    }
    // Making their entries has changed the directories' times; the deepest come first.
    layer.directories.sort_by(|one, other| other.0.cmp(&one.0));
    for (path, time) in std::mem::take(&mut layer.directories) {
        layer.place(&path)?.set_time(time)?;
    }
    Ok(())
}

struct Layer {
    tree: Tree,
    /// The directories made, and their times.
    directories: Vec<(PathBuf, TimeSpec)>,
    /// Where a whiteout stands: a directory that comes there hides what is below it.
    removed: HashSet<PathBuf>,
}

impl Layer {
    /// The place of a path; the empty path is the root.
    fn place(&mut self, path: &Path) -> io::Result<Place> {
        if path.as_os_str().is_empty() { self.tree.itself() } else { self.tree.place(path) }
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = inside(Path::new(OsStr::from_bytes(&entry.path_bytes())))?;
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&path, &name);
        }
        let attributes = attributes(entry)?;
        let place = self.place(&path)?;
        if kind.is_dir() {
            self.directory(&path, &place)?;
            place.set(&attributes)?;
            self.directories.push((path, attributes.mtime));
            return Ok(());
        }
        if path.as_os_str().is_empty() {
            return Err(invalid("the root of a layer has to be a directory"));
        }
        self.clear(&path, &place)?;
        if kind.is_hard_link() {
            // The attributes are those of the file it is another name of.
            let target = entry.link_name_bytes().ok_or_else(|| invalid("the link has no target"))?;
            let target = inside(Path::new(OsStr::from_bytes(&target)))?;
            return place.hard_link(&self.place(&target)?);
        }
        make(entry, kind, &place)?;
        place.set(&attributes)
    }

    /// A directory, which joins one that is there.
    fn directory(&mut self, path: &Path, place: &Place) -> io::Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        match place.stat()? {
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => Ok(()),
            there => {
                let hides = self.removed.remove(path);
                if there.is_some() {
                    self.clear(path, place)?;
                }
                place.directory()?;
                if hides { opaque(place) } else { Ok(()) }
            }
        }
    }

    /// Removes what stands where something else is to be. Later entries win, as in tar.
    fn clear(&mut self, path: &Path, place: &Place) -> io::Result<()> {
        let Some(stat) = place.stat()? else { return Ok(()) };
        if kind(&stat) == SFlag::S_IFDIR {
            self.directories.retain(|(directory, _)| !directory.starts_with(path));
        }
        self.tree.forget();
        self.removed.remove(path);
        place.remove()
    }

    /// What the layers below have is not to be seen.
    fn whiteout(&mut self, path: &Path, name: &[u8]) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        if name == OPAQUE {
            if !directory.as_os_str().is_empty() {
                // Makes the directory when its own entry is still to come.
                self.tree.place(path)?;
            }
            return opaque(&self.place(&directory)?);
        }
        if name.starts_with(RESERVED) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(invalid("the whiteout names nothing"));
        }
        let path = directory.join(hidden);
        let place = self.place(&path)?;
        match place.stat()? {
            // A whiteout is for the layers below; what this one has stays, a directory without theirs.
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => opaque(&place),
            Some(_) => Ok(()),
            None => {
                self.removed.insert(path);
                place.node(SFlag::S_IFCHR, makedev(0, 0))
            }
        }
    }
}

fn opaque(place: &Place) -> io::Result<()> {
    place.xattr("trusted.overlay.opaque", b"y")
}

/// Makes a file that is neither directory nor hard link.
fn make<R: Read>(entry: &mut tar::Entry<'_, R>, kind: EntryType, place: &Place) -> io::Result<()> {
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let size = entry.size();
            let copied = io::copy(entry, &mut place.file()?)?;
            if copied == size { Ok(()) } else { Err(invalid("the archive is cut off")) }
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or_else(|| invalid("the link has no target"))?;
            place.symlink(&target)
        }
        EntryType::Char => place.node(SFlag::S_IFCHR, device(entry)?),
        EntryType::Block => place.node(SFlag::S_IFBLK, device(entry)?),
        EntryType::Fifo => place.node(SFlag::S_IFIFO, 0),
        other => Err(invalid(&format!("entries of type {other:?} are not known"))),
    }
}

fn device<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<u64> {
    let header = entry.header();
    let (major, minor) = (header.device_major()?, header.device_minor()?);
    Ok(makedev(major.unwrap_or(0).into(), minor.unwrap_or(0).into()))
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Attributes> {
    let id = |number: u64| u32::try_from(number).map_err(|_| invalid("the owner's id is too large"));
    let header = entry.header();
    let (mode, uid, gid) = (header.mode()? & 0o7777, id(header.uid()?)?, id(header.gid()?)?);
    let seconds = header.mtime()?;
    let mut mtime = TimeSpec::new(i64::try_from(seconds).unwrap_or(i64::MAX), 0);
    let mut xattrs = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        if let Some(name) = key.strip_prefix(PAX_XATTR) {
            if KEPT.iter().any(|kept| name.starts_with(kept)) {
                xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        } else if key == "mtime"
            && let Some(time) = extension.value().ok().and_then(timestamp)
        {
            mtime = time;
        }
    }
    Ok(Attributes { mode, uid, gid, mtime, xattrs })
}

/// A pax time: seconds with any number of decimal places, possibly negative.
fn timestamp(text: &str) -> Option<TimeSpec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    // -1.25 is two seconds before, then three quarters on.
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => TimeSpec::new(seconds - 1, 1_000_000_000 - nanoseconds),
        _ => TimeSpec::new(seconds, nanoseconds),
    })
}

/// An entry's path below the root of the layer.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => inside.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid("the path contains \"..\"")),
        }
    }
    Ok(inside)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_have_fractions_and_may_lie_before_the_epoch() {
        for (text, seconds, nanoseconds) in
            [("5", 5, 0), ("5.25", 5, 250_000_000), ("-1.25", -2, 750_000_000), ("1.0000000019", 1, 1)]
        {
            assert_eq!(timestamp(text), Some(TimeSpec::new(seconds, nanoseconds)), "{text}");
        }
        assert_eq!(timestamp("x"), None);
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(inside(Path::new("/a/./b/")).unwrap(), Path::new("a/b"));
        assert_eq!(inside(Path::new("./")).unwrap(), Path::new(""));
        assert!(inside(Path::new("a/../../b")).is_err());
    }
}
