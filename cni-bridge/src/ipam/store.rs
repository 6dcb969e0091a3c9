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

pub(super) mod appear;
mod locked;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::AccessFlags;

use super::index::Index;
use super::lock;

pub(crate) use locked::holder;
pub use locked::{Locked, is_held_by};

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
        Ok(Some(Locked::new(self, file)))
    }
}

#[cfg(test)]
mod tests;
