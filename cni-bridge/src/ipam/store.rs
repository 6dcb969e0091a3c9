//! Leases on disk: host-local's files, so that a node can move over and back.
//!
//! | file | content |
//! |---|---|
//! | `<dataDir>/<network>/<ip>` | `containerID\r\nifname`: the lease |
//! | `<dataDir>/<network>/last_reserved_ip.<set>` | the last address leased from that set |
//! | `<dataDir>/<network>/lock` | flock'd by whoever reads or writes the others |
//! | `<dataDir>/.<network>/` | ours: the index ([`super::index`]) |
//!
//! The index lives in a sibling directory, whose name no network can have, because the reference reads every file of
//! its own directory.
//!
//! A lease appears whole: it is written to a file without a name, which then gets the lease's. It is
//! not flushed to the disk: what a power cut leaves is an empty file at worst, of a pod that
//! is gone as well, and an empty file counts as free. `last_reserved_ip` is written in place, as the reference does:
//! one half written begins the round anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, linkat};

use super::Leases;
use super::index::{Index, Origin};
use super::lock;
use crate::spec::Attachment;

/// Where host-local keeps leases unless `ipam.dataDir` says otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// Why leases could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be used.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("{path} is still locked by another plugin after {} s", waited.as_secs_f32())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// The leases of one network.
#[derive(Debug, Clone)]
pub struct Store {
    leases: PathBuf,
    index: Index,
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, path: path.to_owned(), source }
}

/// Makes "there is no such file" a none. Of a name too long for a file there is none either.
pub(super) fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    const ABSENT: [ErrorKind; 3] = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::InvalidFilename];
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if ABSENT.contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Store {
    /// The leases of `network` below `data_dir`. Nothing is touched yet.
    pub fn new(data_dir: &Path, network: &str) -> Store {
        let leases = data_dir.join(network);
        Store { index: Index::new(&leases, data_dir.join(format!(".{network}"))), leases }
    }

    /// The directory of the lease files.
    pub fn directory(&self) -> &Path {
        &self.leases
    }

    /// Whether a lease could be written, as far as can be said without writing one.
    ///
    /// # Errors
    /// [`StoreError::Io`] with the directory that is in the way.
    pub fn check_writable(&self) -> Result<()> {
        // What is not there yet would be made in the next directory above.
        let there = self.leases.ancestors().find(|path| path.exists()).unwrap_or(&self.leases);
        let refused = |errno: nix::errno::Errno| failed("write to", there)(errno.into());
        if !there.is_dir() {
            return Err(refused(nix::errno::Errno::ENOTDIR));
        }
        nix::unistd::access(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(refused)?;
        let space = nix::sys::statvfs::statvfs(there).map_err(refused)?;
        // File systems that count nothing say 0 of all.
        if space.blocks() > 0 && space.blocks_available() == 0 {
            return Err(refused(nix::errno::Errno::ENOSPC));
        }
        Ok(())
    }

    /// Locks the network's leases, making their directory if need be.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when `deadline` passes first.
    pub fn lock(&self, deadline: Duration) -> Result<Locked> {
        if let Some(locked) = self.lock_existing(deadline)? {
            return Ok(locked);
        }
        let make = fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.leases);
        make.map_err(failed("create the directory", &self.leases))?;
        let path = self.leases.join("lock");
        self.lock_existing(deadline)?.ok_or(StoreError::Io { doing: "open", path, source: ErrorKind::NotFound.into() })
    }

    /// Locks the network's leases; none where the network never had any.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub fn lock_existing(&self, deadline: Duration) -> Result<Option<Locked>> {
        let Some(file) = lock::take(&self.leases.join("lock"), deadline)? else { return Ok(None) };
        let indexed = self.index.is_sealed();
        Ok(Some(Locked { store: self.clone(), indexed, unnoted: Vec::new(), _lock: file }))
    }
}

/// The leases of one network while nobody else can change them.
#[derive(Debug)]
pub struct Locked {
    store: Store,
    /// The index was complete when we came, or has been made so since.
    indexed: bool,
    /// Leased, and not in the index yet.
    unnoted: Vec<IpAddr>,
    _lock: File,
}

/// The index is sealed before the lock is given back.
impl Drop for Locked {
    fn drop(&mut self) {
        if self.indexed && self.unnoted.is_empty() {
            self.store.index.seal();
        }
    }
}

/// No container's id is longer; what is longer is no lease.
const LONGEST: u64 = 1 << 18;

/// Whose lease a text is. Old leases have the id alone, and so no interface's name.
pub(crate) fn holder(text: &str) -> Attachment {
    let mut lines = text.trim().lines().map(|line| line.trim().to_owned());
    Attachment { container_id: lines.next().unwrap_or_default(), ifname: lines.next().unwrap_or_default() }
}

/// Whether the holder of a lease is this attachment; of an old lease, any of the container.
pub fn is_held_by(holder: &Attachment, owner: &Attachment) -> bool {
    holder.container_id == owner.container_id && (holder.ifname.is_empty() || holder.ifname == owner.ifname)
}

impl Locked {
    fn lease(&self, ip: IpAddr) -> PathBuf {
        self.store.leases.join(ip.to_string())
    }

    /// What is in a lease, and since when. None for what no plugin made, a directory or the like: it must not keep
    /// the leases beside it from being found.
    fn text(&self, ip: IpAddr) -> Result<Option<(String, SystemTime)>> {
        let path = self.lease(ip);
        // Without O_NONBLOCK a FIFO of that name would hold us until someone writes to it.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let Some(file) = present(opened).map_err(failed("read", &path))? else { return Ok(None) };
        let meta = file.metadata().map_err(failed("look at", &path))?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), written)))
    }

    /// Where the leases are.
    pub fn directory(&self) -> &Path {
        &self.store.leases
    }

    /// Whose an address is, and since when.
    ///
    /// # Errors
    /// When the lease cannot be read.
    pub fn holder(&self, ip: IpAddr) -> Result<Option<(Attachment, SystemTime)>> {
        Ok(self.text(ip)?.map(|(text, written)| (holder(&text), written)))
    }

    fn remove(&self, path: &Path) -> Result<bool> {
        Ok(present(fs::remove_file(path)).map_err(failed("remove", path))?.is_some())
    }

    /// Notes the addresses of an attachment, all of them, and whence it was made.
    pub fn note(&mut self, owner: &Attachment, ips: &[IpAddr], origin: Option<&Origin>) {
        let mut ips = ips.to_vec();
        ips.sort_unstable();
        ips.dedup();
        // An index that cannot be written is not believed: it makes the next calls slower, and no more.
        self.indexed &= self.store.index.write(owner, &ips, origin);
        self.unnoted.retain(|ip| !ips.contains(ip));
    }

    /// The entry of the index for an attachment, whether it is complete or not.
    pub(super) fn entry(&self, owner: &Attachment) -> Option<super::index::Entry> {
        self.store.index.entry(owner)
    }

    /// The leases of an attachment. O(1) in the number of leases while nobody else writes them.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn held_by(&mut self, owner: &Attachment) -> Result<Vec<IpAddr>> {
        if !self.indexed {
            let leases = self.all()?;
            self.indexed = self.store.index.rewrite(&leases);
            return Ok(leases.into_iter().filter(|(_, holder)| is_held_by(holder, owner)).map(|(ip, _)| ip).collect());
        }
        // Old leases have the id alone.
        let old = Attachment { ifname: String::new(), ..owner.clone() };
        let entries = [self.entry(owner), self.entry(&old)].into_iter().flatten();
        let mut held = Vec::new();
        for ip in entries.flat_map(|entry| entry.ips).collect::<Vec<_>>() {
            if self.holder(ip)?.is_some_and(|(holder, _)| is_held_by(&holder, owner)) {
                held.push(ip);
            }
        }
        Ok(held)
    }

    /// Every lease of the network: reads as many files as there are leases. What a crash left empty is none.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(&self) -> Result<Vec<(IpAddr, Attachment)>> {
        let mut leases = Vec::new();
        for ip in self.addresses()? {
            let ip = ip?;
            leases.extend(
                self.text(ip)?.filter(|(text, _)| !text.trim().is_empty()).map(|(text, _)| (ip, holder(&text))),
            );
        }
        Ok(leases)
    }

    /// The addresses leased: names only, no lease is read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn leased(&self) -> Result<Vec<IpAddr>> {
        self.addresses()?.collect()
    }

    fn addresses(&self) -> Result<impl Iterator<Item = Result<IpAddr>>> {
        let path = self.store.leases.clone();
        let entries = fs::read_dir(&path).map_err(failed("list", &path))?;
        Ok(entries.filter_map(move |entry| match entry {
            Ok(entry) => entry.file_name().to_str()?.parse().ok().map(Ok),
            Err(error) => Some(Err(failed("list", &path)(error))),
        }))
    }

    /// Whether the network has no lease (any more). Looks at no more than a handful of names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.addresses()?.next().transpose()?.is_none())
    }

    /// Frees all leases of an attachment, the old ones of its id too. Returns what was freed.
    ///
    /// # Errors
    /// When a file cannot be read or removed; the others are freed nevertheless.
    pub fn release(&mut self, owner: &Attachment) -> Result<Vec<IpAddr>> {
        let held = self.held_by(owner)?;
        self.free_of(owner, &held)?;
        Ok(held)
    }

    /// Frees these leases, which are all an attachment has.
    pub(super) fn free_of(&mut self, owner: &Attachment, held: &[IpAddr]) -> Result<()> {
        let outcomes: Vec<_> = held.iter().map(|ip| self.free(*ip)).collect();
        outcomes.into_iter().collect::<Result<Vec<_>>>()?;
        for ifname in [owner.ifname.clone(), String::new()] {
            self.indexed &= self.store.index.forget(&Attachment { ifname, ..owner.clone() });
        }
        Ok(())
    }

    /// Frees every lease whose holder is not `valid`, and tells `freed` of each before. Goes on after failures.
    ///
    /// # Errors
    /// When the directory cannot be read. The other failures are returned, and those of `freed`.
    pub fn collect<E: From<StoreError>>(
        &mut self,
        valid: impl Fn(&Attachment) -> bool,
        mut freed: impl FnMut(&Attachment) -> std::result::Result<(), E>,
    ) -> Result<Vec<E>> {
        let mut failures = Vec::new();
        for ip in self.leased()? {
            let holder = match self.holder(ip) {
                Ok(Some((holder, _))) => holder,
                Ok(None) => continue,
                Err(error) => {
                    failures.push(error.into());
                    continue;
                }
            };
            if !valid(&holder) {
                // What a crash left empty is nobody's.
                failures.extend(
                    Some(&holder)
                        .filter(|holder| !holder.container_id.is_empty())
                        .and_then(|holder| freed(holder).err()),
                );
                failures.extend(self.free(ip).err().map(E::from));
            }
        }
        // Which entries went is not worth knowing: the index is made anew of what is left.
        self.indexed = false;
        if let Ok(leases) = self.all() {
            self.indexed = self.store.index.rewrite(&leases);
        }
        Ok(failures)
    }

    /// Removes what is ours of a network that has no leases any more. The reference's own files stay: the round
    /// goes on where it stopped.
    pub fn forget_network(&mut self) {
        self.indexed = false;
        self.store.index.remove();
    }
}

/// Gives a file without a name this one; false when there is such a file.
fn name(file: &File, path: &Path) -> io::Result<bool> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, source.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a file with this text appear at once under its name; false when there is such a file.
fn appear(directory: &Path, path: &Path, text: &str) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if let Ok(mut file) = options.clone().custom_flags(libc::O_TMPFILE).open(directory) {
        file.write_all(text.as_bytes())?;
        if let Ok(named) = name(&file, path) {
            return Ok(named);
        }
    }
    // File systems of networks have no files without names. One name is enough under the lock; it is no address,
    // so nobody takes it for a lease. It may be left of a crash, linked to a lease: never truncate it.
    let aside = directory.join(".new");
    present(fs::remove_file(&aside))?;
    options.create_new(true).open(&aside)?.write_all(text.as_bytes())?;
    let linked = match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true),
    };
    fs::remove_file(&aside)?;
    linked
}

impl Leases for Locked {
    type Error = StoreError;

    fn last(&self, set: usize) -> Result<Option<IpAddr>> {
        let path = self.store.leases.join(format!("last_reserved_ip.{set}"));
        let text = present(fs::read(&path)).map_err(failed("read", &path))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).trim().parse().ok())
    }

    fn set_last(&mut self, set: usize, ip: IpAddr) -> Result<()> {
        let path = self.store.leases.join(format!("last_reserved_ip.{set}"));
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        opened.and_then(|mut file| file.write_all(ip.to_string().as_bytes())).map_err(failed("write", &path))
    }

    fn take(&mut self, ip: IpAddr, owner: &Attachment) -> Result<bool> {
        let path = self.lease(ip);
        // A name that is taken costs one look; only a free one costs a file.
        match present(fs::symlink_metadata(&path)).map_err(failed("look at", &path))? {
            Some(lease) if lease.len() > 0 || !lease.is_file() => return Ok(false),
            // Of a plugin or a machine that crashed while writing it: whoever writes one holds the lock.
            Some(_) => drop(self.remove(&path)?),
            None => {}
        }
        let text = format!("{}\r\n{}", owner.container_id, owner.ifname);
        let taken = appear(&self.store.leases, &path, &text).map_err(failed("create", &path))?;
        self.unnoted.extend(taken.then_some(ip));
        Ok(taken)
    }

    fn free(&mut self, ip: IpAddr) -> Result<()> {
        self.remove(&self.lease(ip))?;
        self.unnoted.retain(|unnoted| *unnoted != ip);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SOON: Duration = Duration::from_millis(50);

    // Behaviours 73, 74, 75.
    #[test]
    fn the_files_are_those_of_host_local() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(SOON).unwrap();
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        assert!(locked.take(ip("fd00::2"), &owner("a")).unwrap());
        locked.set_last(0, ip("10.0.0.2")).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
        assert_eq!(read("10.0.0.2"), "a\r\neth0");
        assert_eq!(read("fd00::2"), "a\r\neth0");
        assert_eq!(read("last_reserved_ip.0"), "10.0.0.2");
        let mut names: Vec<_> =
            fs::read_dir(dir.path().join("net")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["10.0.0.2", "fd00::2", "last_reserved_ip.0", "lock"]);
        assert_eq!(locked.last(0).unwrap(), Some(ip("10.0.0.2")));
    }

    #[test]
    fn a_lease_is_exclusive_and_an_empty_file_is_none() {
        let dir = testkit::scratch();
        let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        assert!(!locked.take(ip("10.0.0.2"), &owner("b")).unwrap());
        fs::write(dir.path().join("net/10.0.0.3"), "").unwrap();
        assert!(locked.take(ip("10.0.0.3"), &owner("b")).unwrap(), "what a crash left is free");
    }

    // Behaviours 79, 80.
    #[test]
    fn leases_are_found_whoever_wrote_them_and_in_the_old_form() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(SOON).unwrap();
        for (address, id) in [("10.0.0.2", "a"), ("10.0.0.3", "b"), ("fd00::3", "b")] {
            assert!(locked.take(ip(address), &owner(id)).unwrap());
        }
        locked.note(&owner("a"), &[ip("10.0.0.2")], None);
        drop(locked);
        fs::write(dir.path().join("net/10.0.0.9"), "old").unwrap();
        let no_ip = Vec::<IpAddr>::new();
        let lock = || store.lock(SOON).unwrap();
        for indexed in [false, true] {
            let mut locked = lock();
            assert_eq!(locked.indexed, indexed, "somebody else wrote one, and that is known then");
            let mut held = locked.held_by(&owner("b")).unwrap();
            held.sort();
            assert_eq!(held, [ip("10.0.0.3"), ip("fd00::3")]);
        }
        assert_eq!(lock().release(&owner("a")).unwrap(), [ip("10.0.0.2")]);
        assert_eq!(lock().release(&owner("old")).unwrap(), [ip("10.0.0.9")]);
        assert_eq!(lock().release(&owner("unknown")).unwrap(), no_ip);
        assert_eq!(lock().release(&owner("b")).unwrap().len(), 2);
        assert!(lock().is_empty().unwrap());
    }

    /// How many leases a search has read so far: an access time is no measure (`noatime`), so they are made unreadable.
    fn poison(dir: &Path, name: &str) {
        fs::remove_file(dir.join(name)).unwrap();
        std::os::unix::fs::symlink(dir.join(name), dir.join(name)).unwrap();
    }

    #[test]
    fn a_known_attachment_and_an_unknown_one_are_looked_up_without_reading_the_others() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        for number in 2..9 {
            let (address, id) = (ip(&format!("10.0.0.{number}")), owner(&format!("pod{number}")));
            let mut locked = store.lock(SOON).unwrap();
            assert_eq!(locked.held_by(&id).unwrap(), Vec::<IpAddr>::new());
            assert!(locked.take(address, &id).unwrap());
            locked.note(&id, &[address], None);
        }
        let mut locked = store.lock(SOON).unwrap();
        // Under the lock nobody notices. A link to itself can be read by nobody.
        poison(&dir.path().join("net"), "10.0.0.5");
        assert!(locked.all().is_err(), "to read all of them fails");
        assert_eq!(locked.held_by(&owner("pod3")).unwrap(), [ip("10.0.0.3")]);
        assert_eq!(locked.held_by(&owner("unknown")).unwrap(), Vec::<IpAddr>::new());
        assert_eq!(locked.release(&owner("pod4")).unwrap(), [ip("10.0.0.4")]);
        drop(locked);
        fs::remove_file(dir.path().join("net/10.0.0.5")).unwrap();
        assert!(!store.lock(SOON).unwrap().indexed, "somebody else removed one");
    }

    #[test]
    fn what_the_reference_writes_and_removes_in_between_is_noticed() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        let net = dir.path().join("net");
        let lock = || store.lock(SOON).unwrap();
        let take = |address: &str, id: &str| {
            let mut locked = lock();
            assert!(locked.take(ip(address), &owner(id)).unwrap());
            let mut held = locked.held_by(&owner(id)).unwrap();
            held.push(ip(address));
            locked.note(&owner(id), &held, None);
        };
        take("10.0.0.2", "a");
        take("10.0.0.3", "b");
        fs::write(net.join("10.0.0.4"), "a\r\neth0").unwrap();
        let mut held = lock().held_by(&owner("a")).unwrap();
        held.sort();
        assert_eq!(held, [ip("10.0.0.2"), ip("10.0.0.4")]);
        fs::remove_file(net.join("10.0.0.2")).unwrap();
        assert_eq!(lock().held_by(&owner("a")).unwrap(), [ip("10.0.0.4")]);
        fs::remove_file(net.join("10.0.0.4")).unwrap();
        fs::write(net.join("10.0.0.4"), "b\r\neth0").unwrap();
        assert_eq!(lock().held_by(&owner("a")).unwrap(), Vec::<IpAddr>::new());
        assert_eq!(lock().release(&owner("b")).unwrap().len(), 2);
        assert!(lock().is_empty().unwrap());
    }

    #[test]
    fn an_index_that_cannot_be_written_costs_time_and_nothing_else() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        fs::write(dir.path().join(".net"), "in the way").unwrap();
        let mut locked = store.lock(SOON).unwrap();
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        locked.note(&owner("a"), &[ip("10.0.0.2")], None);
        assert_eq!(locked.held_by(&owner("a")).unwrap(), [ip("10.0.0.2")]);
        drop(locked);
        assert_eq!(store.lock(SOON).unwrap().release(&owner("a")).unwrap(), [ip("10.0.0.2")]);
    }

    #[test]
    fn an_index_that_lies_frees_nobody_elses_lease() {
        let dir = testkit::scratch();
        let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        locked.note(&owner("b"), &[ip("10.0.0.2")], None);
        locked.indexed = true;
        assert_eq!(locked.release(&owner("b")).unwrap(), Vec::<IpAddr>::new());
        assert!(!locked.is_empty().unwrap());
    }

    #[test]
    fn collecting_keeps_the_valid_ones_and_goes_on_after_failures() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        let mut locked = store.lock(SOON).unwrap();
        for (address, id) in [("10.0.0.2", "a"), ("10.0.0.3", "b"), ("10.0.0.4", "c")] {
            assert!(locked.take(ip(address), &owner(id)).unwrap());
        }
        for (name, text) in [("10.0.0.5", "old"), ("10.0.0.6", "kept"), ("10.0.0.7", "")] {
            fs::write(dir.path().join("net").join(name), text).unwrap();
        }
        let valid = [owner("a"), owner("kept")];
        let mut told = Vec::new();
        let failures = locked.collect(
            |holder| valid.iter().any(|valid| is_held_by(holder, valid)),
            |holder| {
                told.push(holder.container_id.clone());
                Err(StoreError::Io { doing: "try", path: "x".into(), source: ErrorKind::Other.into() })
            },
        );
        assert_eq!(failures.unwrap().len(), told.len());
        told.sort();
        assert_eq!(told, ["b", "c", "old"], "an empty file is nobody's");
        let mut left = locked.leased().unwrap();
        left.sort();
        assert_eq!(left, [ip("10.0.0.2"), ip("10.0.0.6")]);
        assert_eq!(locked.held_by(&owner("a")).unwrap(), [ip("10.0.0.2")]);
    }

    // Behaviour 92.
    #[test]
    fn a_lock_that_stays_taken_is_given_up_at_the_deadline() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        let held = store.lock(SOON).unwrap();
        assert!(matches!(store.lock(SOON), Err(StoreError::Locked { .. })));
        drop(held);
        assert!(store.lock(Duration::from_secs(10)).is_ok(), "the thread left waiting gives the lock back");
    }

    #[test]
    fn whoever_waited_for_the_lock_of_a_directory_that_was_removed_takes_the_new_one() {
        let dir = testkit::scratch();
        let store = Store::new(dir.path(), "net");
        let held = store.lock(SOON).unwrap();
        let waiting = std::thread::spawn({
            let store = store.clone();
            move || store.lock(Duration::from_secs(20))
        });
        // It has opened the lock when the kernel lists it as waiting.
        let inode = std::os::unix::fs::MetadataExt::ino(&held._lock.metadata().unwrap()).to_string();
        let waits = |line: &str| line.contains("->") && line.contains(&format!(":{inode} "));
        while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
            std::thread::yield_now();
        }
        fs::remove_dir_all(dir.path().join("net")).unwrap();
        let mut other = store.lock(SOON).unwrap();
        drop(held);
        assert!(other.take(ip("10.0.0.2"), &owner("a")).unwrap());
        drop(other);
        assert!(!waiting.join().unwrap().unwrap().take(ip("10.0.0.2"), &owner("b")).unwrap());
    }

    #[test]
    fn what_no_plugin_made_stands_in_nobodys_way() {
        let dir = testkit::scratch();
        let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
        fs::create_dir(dir.path().join("net/10.0.0.8")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("net/10.0.0.9")).unwrap();
        assert!(!locked.take(ip("10.0.0.8"), &owner("a")).unwrap());
        assert!(!locked.take(ip("10.0.0.9"), &owner("a")).unwrap());
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        assert_eq!(locked.release(&owner("a")).unwrap(), [ip("10.0.0.2")], "found among the others");
    }

    #[test]
    fn a_network_whose_name_is_too_long_for_a_file_has_no_lease_to_free() {
        let dir = testkit::scratch();
        for (length, works) in [(255, true), (256, false)] {
            let store = Store::new(dir.path(), &"n".repeat(length));
            let taken = store.lock(SOON).and_then(|mut locked| locked.take(ip("10.0.0.2"), &owner("a")));
            assert_eq!(taken.is_ok(), works);
            let freed = store.lock_existing(SOON).unwrap().map(|mut locked| locked.release(&owner("a")).unwrap());
            assert_eq!(freed.unwrap_or_default().len(), usize::from(works));
        }
    }

    #[test]
    fn a_network_that_never_was_has_no_lock_and_none_is_made() {
        let dir = testkit::scratch();
        assert!(Store::new(dir.path(), "net").lock_existing(SOON).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
