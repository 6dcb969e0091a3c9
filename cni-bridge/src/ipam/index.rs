//! The index beside the leases: which addresses an attachment has, without reading all of them.
//!
//! `<dataDir>/.<network>/<containerID>:<ifname>` has a line for each address of the attachment, then whence it was made
//! ([`Origin`]). The reference, which has no such thing, reads every lease at every ADD and DEL (10 µs each).
//!
//! The leases are the truth. The index is complete while the directory of leases is *sealed*: its modification time was
//! set, at the end of a call of ours, to one made from the index's own modification time and this boot's identity.
//! Whoever else adds or removes a lease changes it, as does a call of ours that is killed halfway, and as does a boot.
//! Then the next call reads all leases once and brings the index up to date. (Keeping the time in a file of ours
//! instead would miss a change within the same tick of the kernel's clock, up to 10 ms.)

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::boot;
use super::store::appear::overwrite;
use crate::spec::Attachment;

/// The index of one network.
#[derive(Debug, Clone)]
pub(super) struct Index {
    leases: PathBuf,
    directory: PathBuf,
}

/// Whence an attachment was made. It tells later whether the attachment can still be alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The boot it was made in.
    pub boot: String,
    /// The pod's network namespace then.
    pub namespace: Option<Namespace>,
}

impl Origin {
    /// An attachment made now for the namespace at `path`.
    pub fn now(path: Option<&Path>) -> Option<Origin> {
        Some(Origin { boot: boot::id()?.to_owned(), namespace: path.and_then(Namespace::at) })
    }
}

/// A network namespace as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The device of its file.
    pub device: u64,
    /// The inode of its file.
    pub inode: u64,
    /// Where the file was.
    pub path: PathBuf,
}

impl Namespace {
    /// The one at `path`, if there is something.
    pub fn at(path: &Path) -> Option<Namespace> {
        let meta = fs::metadata(path).ok()?;
        Some(Namespace { device: meta.dev(), inode: meta.ino(), path: path.to_owned() })
    }

    /// Whether it is still there. What cannot be looked at may well be.
    pub fn is_at(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(meta) => (meta.dev(), meta.ino()) == (self.device, self.inode),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Reads `device:inode path`.
    fn parse(text: &str) -> Option<Namespace> {
        let (numbers, path) = text.split_once(' ')?;
        let (device, inode) = numbers.split_once(':')?;
        Some(Namespace { device: device.parse().ok()?, inode: inode.parse().ok()?, path: path.into() })
    }
}

/// What the index says of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its addresses, sorted.
    pub ips: Vec<IpAddr>,
    /// Whence it was made; none for a lease of another plugin.
    pub origin: Option<Origin>,
    /// When this was written.
    pub written: SystemTime,
}

pub(crate) fn parse(text: &str, written: SystemTime) -> Entry {
    let mut ips: Vec<IpAddr> = text.lines().filter_map(|line| line.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map(str::trim);
    let namespace = || value("namespace").and_then(Namespace::parse);
    let origin = value("boot").map(|boot| Origin { boot: boot.to_owned(), namespace: namespace() });
    Entry { ips, origin, written }
}

pub(crate) fn compose(ips: &[IpAddr], origin: Option<&Origin>) -> String {
    let mut text: String = ips.iter().map(|ip| format!("{ip}\n")).collect();
    if let Some(origin) = origin {
        text.push_str(&format!("boot {}\n", origin.boot));
        // A path with a line break would be read back as another one, and so never be there: it is not written.
        let namespace = origin.namespace.as_ref().and_then(|namespace| {
            let path = namespace.path.to_str().filter(|path| !path.contains(['\n', '\r']))?;
            Some(format!("namespace {}:{} {path}\n", namespace.device, namespace.inode))
        });
        text.extend(namespace);
    }
    text
}

/// An attachment's file. Neither name can have a `:`, so no two attachments share one; what cannot be a file's name is
/// hashed: one too long, and what a broken lease has where the container's id should be, for it may be a path.
fn file_name(owner: &Attachment) -> String {
    let name = format!("{}:{}", owner.container_id, owner.ifname);
    match name.len() {
        ..=255 if !name.contains(['/', '\0']) => name,
        _ => format!(":{:016x}", crate::plugin::hash(&[&owner.container_id, &owner.ifname])),
    }
}

/// Whether a file is of an index. With `dataDir` a person's home, a network's directory may be there already, full of
/// other things: `.ssh`.
fn is_ours(name: &str) -> bool {
    name.contains(':')
}

impl Index {
    pub fn new(leases: &Path, directory: PathBuf) -> Index {
        Index { leases: leases.to_owned(), directory }
    }

    /// What it says of an attachment.
    pub fn entry(&self, owner: &Attachment) -> Option<Entry> {
        let path = self.directory.join(file_name(owner));
        let text = crate::small_file::read(&path).ok()?;
        let written = fs::metadata(&path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(parse(&text, written))
    }

    /// Writes what it says of an attachment; false when it cannot be written. It is written in place, not exchanged:
    /// one half written is not believed, because the leases are not sealed then.
    pub fn write(&self, owner: &Attachment, ips: &[IpAddr], origin: Option<&Origin>) -> bool {
        let (path, text) = (self.directory.join(file_name(owner)), compose(ips, origin));
        overwrite(&path, text.as_bytes()).is_ok() || (self.make() && overwrite(&path, text.as_bytes()).is_ok())
    }

    /// Forgets an attachment; false when that is not possible.
    pub fn forget(&self, owner: &Attachment) -> bool {
        match fs::remove_file(self.directory.join(file_name(owner))) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn make(&self) -> bool {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.directory).is_ok()
    }

    /// Makes it say what the leases say; false when that is not possible. What it knows of an attachment whose
    /// addresses are the same stays, for its origin.
    pub fn rewrite(&self, leases: &[(IpAddr, Attachment)]) -> bool {
        let mut wanted: BTreeMap<String, (&Attachment, Vec<IpAddr>)> = BTreeMap::new();
        for (ip, holder) in leases {
            wanted.entry(file_name(holder)).or_insert_with(|| (holder, Vec::new())).1.push(*ip);
        }
        let Ok(entries) = fs::read_dir(&self.directory) else { return self.write_all(&wanted) };
        for entry in entries.flatten() {
            let superfluous = |name: &str| is_ours(name) && !wanted.contains_key(name);
            if entry.file_name().to_str().is_some_and(superfluous) && fs::remove_file(entry.path()).is_err() {
                return false;
            }
        }
        self.write_all(&wanted)
    }

    fn write_all(&self, wanted: &BTreeMap<String, (&Attachment, Vec<IpAddr>)>) -> bool {
        wanted.values().all(|(holder, ips)| {
            let mut ips = ips.clone();
            ips.sort_unstable();
            self.entry(holder).is_some_and(|entry| entry.ips == ips) || self.write(holder, &ips, None)
        })
    }

    /// Removes it.
    pub fn remove(&self) {
        // What cannot be removed does no harm.
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(is_ours) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(&self.directory);
    }

    /// The time the leases' directory has while the index is complete. It lies before the last change of the index
    /// by some seconds and nanoseconds that are another boot's others.
    fn seal_time(&self) -> Option<SystemTime> {
        let changed = fs::metadata(&self.directory).ok()?.modified().ok()?;
        let hash = crate::plugin::hash(&[boot::id()?]);
        // From one second to a quarter of an hour, in nanoseconds.
        changed.checked_sub(Duration::from_nanos(1_000_000_000 + hash % 900_000_000_000))
    }

    /// Whether the index is complete.
    pub fn is_sealed(&self) -> bool {
        let leases = fs::metadata(&self.leases).and_then(|meta| meta.modified());
        leases.is_ok_and(|modified| self.seal_time() == Some(modified))
    }

    /// Says that it is complete. Not to be able to costs the next call some time, no more.
    pub fn seal(&self) {
        if let Some(time) = self.seal_time() {
            let _ = File::open(&self.leases).and_then(|directory| directory.set_modified(time));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str, ifname: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: ifname.into() }
    }

    fn index(dir: &Path) -> Index {
        fs::create_dir(dir.join("net")).unwrap();
        Index::new(&dir.join("net"), dir.join(".net"))
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let dir = testkit::scratch();
        let index = index(dir.path());
        let owner = attachment("a", "eth0");
        let origin = Origin { boot: "b".into(), namespace: Namespace::at(dir.path()) };
        assert!(origin.namespace.as_ref().unwrap().is_at());
        let ips: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert!(index.write(&owner, &ips, Some(&origin)));
        let entry = index.entry(&owner).unwrap();
        assert_eq!((entry.ips, entry.origin), (ips, Some(origin)));
        assert_eq!(index.entry(&attachment("a", "eth1")), None);
        assert!(index.forget(&owner) && index.forget(&owner));
        assert_eq!(index.entry(&owner), None);
    }

    #[test]
    fn names_too_long_for_a_file_have_entries_too() {
        let dir = testkit::scratch();
        let index = index(dir.path());
        let (long, longer) = (attachment(&"a".repeat(300), "eth0"), attachment(&"a".repeat(301), "eth0"));
        assert!(index.write(&long, &[], None));
        assert!(index.entry(&long).is_some() && index.entry(&longer).is_none());
    }

    #[test]
    fn the_seal_breaks_with_any_change_of_the_leases_or_of_the_index() {
        let dir = testkit::scratch();
        let index = index(dir.path());
        assert!(!index.is_sealed(), "no index yet");
        assert!(index.write(&attachment("a", "eth0"), &[], None));
        assert!(!index.is_sealed());
        index.seal();
        assert!(index.is_sealed());
        fs::write(dir.path().join("net/10.0.0.2"), "").unwrap();
        assert!(!index.is_sealed());
        index.seal();
        fs::remove_file(dir.path().join("net/10.0.0.2")).unwrap();
        assert!(!index.is_sealed());
        index.seal();
        assert!(index.write(&attachment("b", "eth0"), &[], None));
        assert!(!index.is_sealed());
    }

    #[test]
    fn rewriting_keeps_what_is_right_and_drops_the_rest() {
        let dir = testkit::scratch();
        let index = index(dir.path());
        let (kept, changed, gone) =
            (attachment("kept", "eth0"), attachment("changed", "eth0"), attachment("gone", "e"));
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap());
        let origin = Origin { boot: "b".into(), namespace: None };
        for owner in [&kept, &changed, &gone] {
            assert!(index.write(owner, &[one], Some(&origin)));
        }
        assert!(index.rewrite(&[(one, kept.clone()), (two, changed.clone())]));
        assert_eq!(index.entry(&kept).unwrap().origin, Some(origin));
        let entry = index.entry(&changed).unwrap();
        assert_eq!((entry.ips, entry.origin), (vec![two], None), "a lease somebody else wrote");
        assert_eq!(index.entry(&gone), None);
    }
}
