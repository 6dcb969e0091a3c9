//! Leases on disk: host-local's files, so that a node can move over and back.
//!
//! | file | content |
//! |---|---|
//! | `<dataDir>/<network>/<ip>` | `containerID\r\nifname`: the lease |
//! | `<dataDir>/<network>/last_reserved_ip.<set>` | the last address leased from that set |
//! | `<dataDir>/<network>/lock` | flock'd by whoever reads or writes the others |
//! | `<dataDir>/.<network>/<attachment>` | ours: the addresses of an attachment, one a line |
//!
//! The last kind is a hint and no more: it lets an ADD and a DEL find an attachment's
//! leases without reading all of them, as the reference does (10 µs for each pod of the
//! node). Where it is missing or wrong, all leases are read. It lives in a sibling
//! directory whose name no network can have, because the reference reads every file
//! of its own directory.
//!
//! A lease appears whole: it is written under another name and linked to its own. It is
//! not flushed to the disk: what a power cut leaves is an empty file at worst, of a pod that
//! is gone as well, and an empty file counts as free.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::Leases;
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

type Result<T> = std::result::Result<T, StoreError>;

/// The leases of one network.
#[derive(Debug, Clone)]
pub struct Store {
    leases: PathBuf,
    hints: PathBuf,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, path: path.to_owned(), source }
}

/// Makes "there is no such file" a none. Of a name too long for a file there is none either.
fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
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
        Store { leases: data_dir.join(network), hints: data_dir.join(format!(".{network}")) }
    }

    /// The directory of the lease files.
    pub fn directory(&self) -> &Path {
        &self.leases
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
        let path = self.leases.join("lock");
        let file = OpenOptions::new().read(true).custom_flags(libc::O_CREAT).mode(0o640).open(&path);
        let Some(file) = present(file).map_err(failed("open", &path))? else { return Ok(None) };
        let file = lock_within(file, deadline, &path)?;
        Ok(Some(Locked { store: self.clone(), _lock: file }))
    }
}

/// Takes the lock, waiting no longer than `deadline`.
///
/// flock(2) has no deadline, and trying again and again would poll. So where the lock is taken already, a
/// thread waits for it; if the deadline passes first the thread stays behind, and the process
/// soon ends. (A timer signal would interrupt the wait too, at the price of a signal handler.)
fn lock_within(file: File, deadline: Duration, path: &Path) -> Result<File> {
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
    }
    let (sender, receiver) = mpsc::channel();
    // If nobody listens any more, the file is closed with the message and the lock is free again.
    std::thread::spawn(move || sender.send(file.lock().map(|()| file)));
    match receiver.recv_timeout(deadline) {
        Ok(outcome) => outcome.map_err(failed("lock", path)),
        Err(_) => Err(StoreError::Locked { path: path.to_owned(), waited: deadline }),
    }
}

/// The leases of one network while nobody else can change them.
pub struct Locked {
    store: Store,
    _lock: File,
}

/// Whose lease a text is. Old leases have the id alone, and so no interface's name.
fn holder(text: &str) -> Attachment {
    let mut lines = text.trim().lines().map(|line| line.trim().to_owned());
    Attachment { container_id: lines.next().unwrap_or_default(), ifname: lines.next().unwrap_or_default() }
}

/// Whether the holder of a lease is this attachment; of an old lease, any of the container.
pub fn is_held_by(holder: &Attachment, owner: &Attachment) -> bool {
    holder.container_id == owner.container_id && (holder.ifname.is_empty() || holder.ifname == owner.ifname)
}

/// The name of an attachment's hint. Not the ids themselves: together they may be longer than a file name.
fn hint_name(owner: &Attachment) -> String {
    format!("{:016x}", crate::plugin::hash(&[&owner.container_id, &owner.ifname]))
}

impl Locked {
    fn lease(&self, ip: IpAddr) -> PathBuf {
        self.store.leases.join(ip.to_string())
    }

    fn text(&self, ip: IpAddr) -> Result<Option<String>> {
        let path = self.lease(ip);
        match fs::read(&path) {
            // Not made by a plugin: it must not keep the leases beside it from being found.
            Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(None),
            read => {
                let bytes = present(read).map_err(failed("read", &path))?;
                Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
            }
        }
    }

    fn remove(&self, path: &Path) -> Result<bool> {
        Ok(present(fs::remove_file(path)).map_err(failed("remove", path))?.is_some())
    }

    /// Writes a file under another name in the hints' directory, where the reference does not look.
    fn write_aside(&self, text: &str) -> Result<PathBuf> {
        // One name is enough under the lock. It may be left of a crash, linked to a lease: never truncate it.
        let path = self.store.hints.join("new");
        if fs::remove_file(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            let make = fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.store.hints);
            make.map_err(failed("create the directory", &self.store.hints))?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed("create", &path))?;
        file.write_all(text.as_bytes()).map_err(failed("write", &path))?;
        Ok(path)
    }

    fn replace(&self, path: &Path, text: &str) -> Result<()> {
        let aside = self.write_aside(text)?;
        fs::rename(&aside, path).map_err(failed("write", path))
    }

    /// Notes where this attachment's leases are.
    ///
    /// # Errors
    /// When the hint cannot be written.
    pub fn remember(&mut self, owner: &Attachment, ips: &[IpAddr]) -> Result<()> {
        let lines: Vec<_> = ips.iter().map(ToString::to_string).collect();
        self.replace(&self.store.hints.join(hint_name(owner)), &lines.join("\n"))
    }

    /// The leases of an attachment that its hint, or `also`, leads to: O(1) in the number of leases.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn recall(&self, owner: &Attachment, also: &[IpAddr]) -> Result<Vec<IpAddr>> {
        let path = self.store.hints.join(hint_name(owner));
        let hint = present(fs::read(&path)).map_err(failed("read", &path))?.unwrap_or_default();
        let hint = String::from_utf8_lossy(&hint).into_owned();
        let mut ips: Vec<IpAddr> =
            hint.lines().filter_map(|line| line.parse().ok()).chain(also.iter().copied()).collect();
        ips.sort_unstable();
        ips.dedup();
        let mut held = Vec::new();
        for ip in ips {
            if self.text(ip)?.is_some_and(|text| is_held_by(&holder(&text), owner)) {
                held.push(ip);
            }
        }
        Ok(held)
    }

    /// Every lease of the network: reads as many files as there are leases.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(&self) -> Result<Vec<(IpAddr, Attachment)>> {
        let mut leases = Vec::new();
        for ip in self.addresses()? {
            let ip = ip?;
            leases.extend(self.text(ip)?.map(|text| (ip, holder(&text))));
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

    /// Frees all leases of an attachment, found by its hint or `also`, or by reading all where these lead to none.
    /// Returns what was freed.
    ///
    /// # Errors
    /// When a file cannot be read or removed; the others are freed nevertheless.
    pub fn release(&mut self, owner: &Attachment, also: &[IpAddr]) -> Result<Vec<IpAddr>> {
        let mut held = self.recall(owner, also)?;
        if held.is_empty() {
            held = self.all()?.into_iter().filter(|(_, holder)| is_held_by(holder, owner)).map(|(ip, _)| ip).collect();
        }
        let outcomes: Vec<_> = held.iter().map(|ip| self.remove(&self.lease(*ip))).collect();
        outcomes.into_iter().collect::<Result<Vec<_>>>()?;
        // A hint that stays (on a file system that is read-only by now) does no harm: it is only a hint.
        let _ = self.remove(&self.store.hints.join(hint_name(owner)));
        Ok(held)
    }

    /// Removes what is ours of a network that has no leases any more. The reference's own files stay: the round
    /// goes on where it stopped.
    pub fn forget_network(&mut self) {
        // Hints only; what cannot be removed does no harm.
        let _ = fs::remove_dir_all(&self.store.hints);
    }
}

impl Leases for Locked {
    type Error = StoreError;

    fn last(&self, set: usize) -> Result<Option<IpAddr>> {
        let path = self.store.leases.join(format!("last_reserved_ip.{set}"));
        let text = present(fs::read(&path)).map_err(failed("read", &path))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).trim().parse().ok())
    }

    fn set_last(&mut self, set: usize, ip: IpAddr) -> Result<()> {
        self.replace(&self.store.leases.join(format!("last_reserved_ip.{set}")), &ip.to_string())
    }

    fn take(&mut self, ip: IpAddr, owner: &Attachment) -> Result<bool> {
        let path = self.lease(ip);
        // A name that is taken costs one look; only a free one costs a file.
        match present(fs::metadata(&path)).map_err(failed("look at", &path))? {
            Some(lease) if lease.len() > 0 => return Ok(false),
            Some(_) => drop(self.remove(&path)?),
            None => {}
        }
        let aside = self.write_aside(&format!("{}\r\n{}", owner.container_id, owner.ifname))?;
        let linked = match fs::hard_link(&aside, &path) {
            // There and nowhere: a dangling symbolic link. Not ours to remove, so the address is taken.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            linked => linked.map(|()| true).map_err(failed("create", &path)),
        };
        self.remove(&aside)?;
        linked
    }

    fn free(&mut self, ip: IpAddr) -> Result<()> {
        self.remove(&self.lease(ip)).map(drop)
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
    fn leases_are_found_with_a_hint_without_one_and_in_the_old_form() {
        let dir = testkit::scratch();
        let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
        for (address, id) in [("10.0.0.2", "hinted"), ("10.0.0.3", "unhinted"), ("fd00::3", "unhinted")] {
            assert!(locked.take(ip(address), &owner(id)).unwrap());
        }
        fs::write(dir.path().join("net/10.0.0.9"), "old").unwrap();
        let no_ip = Vec::<IpAddr>::new();
        locked.remember(&owner("hinted"), &[ip("10.0.0.2")]).unwrap();
        assert_eq!(locked.recall(&owner("hinted"), &[]).unwrap(), [ip("10.0.0.2")]);
        assert_eq!(locked.recall(&owner("unhinted"), &[]).unwrap(), no_ip);
        assert_eq!(locked.recall(&owner("unhinted"), &[ip("10.0.0.2"), ip("10.0.0.3")]).unwrap(), [ip("10.0.0.3")]);
        assert_eq!(locked.release(&owner("hinted"), &[]).unwrap(), [ip("10.0.0.2")]);
        let mut freed = locked.release(&owner("unhinted"), &[]).unwrap();
        freed.sort();
        assert_eq!(freed, [ip("10.0.0.3"), ip("fd00::3")]);
        assert_eq!(locked.release(&owner("old"), &[]).unwrap(), [ip("10.0.0.9")]);
        assert_eq!(locked.release(&owner("unknown"), &[]).unwrap(), no_ip);
        assert!(locked.is_empty().unwrap());
    }

    #[test]
    fn a_hint_that_lies_frees_nobody_elses_lease() {
        let dir = testkit::scratch();
        let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        locked.remember(&owner("b"), &[ip("10.0.0.2")]).unwrap();
        assert_eq!(locked.release(&owner("b"), &[]).unwrap(), Vec::<IpAddr>::new());
        assert!(!locked.is_empty().unwrap());
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
    fn what_no_plugin_made_stands_in_nobodys_way() {
        let dir = testkit::scratch();
        let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
        fs::create_dir(dir.path().join("net/10.0.0.8")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("net/10.0.0.9")).unwrap();
        assert!(!locked.take(ip("10.0.0.8"), &owner("a")).unwrap());
        assert!(!locked.take(ip("10.0.0.9"), &owner("a")).unwrap());
        assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
        assert_eq!(locked.release(&owner("a"), &[]).unwrap(), [ip("10.0.0.2")], "found among the others");
    }

    #[test]
    fn a_network_whose_name_is_too_long_for_a_file_has_no_lease_to_free() {
        let dir = testkit::scratch();
        for length in [255, 256] {
            let store = Store::new(dir.path(), &"n".repeat(length));
            assert!(store.lock(SOON).and_then(|mut locked| locked.take(ip("10.0.0.2"), &owner("a"))).is_err());
            let freed = store.lock_existing(SOON).unwrap().map(|mut locked| locked.release(&owner("a"), &[]).unwrap());
            assert_eq!(freed.unwrap_or_default(), Vec::<IpAddr>::new());
        }
    }

    #[test]
    fn a_network_that_never_was_has_no_lock_and_none_is_made() {
        let dir = testkit::scratch();
        assert!(Store::new(dir.path(), "net").lock_existing(SOON).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
