//! The leases of a network under its lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::appear::{appear, overwrite};
use super::{Result, Store, StoreError, failed, present};
use crate::ipam::Leases;
use crate::ipam::index::{Entry, Origin};
use crate::spec::Attachment;

/// The leases of one network while nobody else can change them.
#[derive(Debug)]
pub struct Locked {
    store: Store,
    /// The index was complete when we came, or has been made so since.
    pub(super) indexed: bool,
    /// Leased, and not in the index yet.
    unnoted: Vec<IpAddr>,
    /// The lock itself, until this is dropped.
    pub(super) _file: File,
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
    pub(super) fn new(store: &Store, file: File) -> Locked {
        Locked { store: store.clone(), indexed: store.index.is_sealed(), unnoted: Vec::new(), _file: file }
    }

    fn lease(&self, ip: IpAddr) -> PathBuf {
        self.store.leases.join(ip.to_string())
    }

    /// What is in a lease, and since when. None for what no plugin made, a directory or the like: it must not keep
    /// the leases beside it from being found.
    fn text(&self, ip: IpAddr) -> Result<Option<(String, SystemTime)>> {
        Self::read(&self.lease(ip))
    }

    fn read(path: &Path) -> Result<Option<(String, SystemTime)>> {
        // Without O_NONBLOCK a FIFO of that name would hold us until someone writes to it.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        // A link to itself, a socket, a device that is not there.
        let is_none =
            |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::ENODEV));
        let opened = match opened {
            Err(error) if is_none(&error) => return Ok(None),
            opened => present(opened).map_err(failed("read", path))?,
        };
        let Some(file) = opened else { return Ok(None) };
        let meta = file.metadata().map_err(failed("look at", path))?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(failed("read", path))?;
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
    pub(in crate::ipam) fn entry(&self, owner: &Attachment) -> Option<Entry> {
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

impl Leases for Locked {
    type Error = StoreError;

    fn last(&self, set: usize) -> Result<Option<IpAddr>> {
        let path = self.store.leases.join(format!("last_reserved_ip.{set}"));
        Ok(Self::read(&path)?.and_then(|(text, _)| text.trim().parse().ok()))
    }

    fn set_last(&mut self, set: usize, ip: IpAddr) -> Result<()> {
        let path = self.store.leases.join(format!("last_reserved_ip.{set}"));
        overwrite(&path, ip.to_string().as_bytes()).map_err(failed("write", &path))
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
