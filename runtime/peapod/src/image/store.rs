//! The content store on disk.
//!
//! ```text
//! images/
//!   index.json        the images and their names; replaced as a whole
//!   lock              held by whoever changes the store
//!   blobs/sha256/     manifests and configurations by digest
//!   layers/<id>/      an unpacked layer: `fs`, the tree, and `diff-id`, what it is
//!   empty/            the layer of an image that has none
//!   tmp/              what is not finished; emptied by the next who changes the store
//! ```
//!
//! A layer's directory is named by the first 20 digits of its diff id, since the paths of all layers of
//! an image have to fit into one page of mount options. `diff-id` tells a collision.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::failed;
use super::tree::private;
use super::{ImageError, Store};

/// How long somebody else may change the store before that is an error: unpacking a large image.
const PATIENCE: Duration = Duration::from_secs(600);

/// Digits of a diff id in the name of a layer's directory: 80 bits.
const SHORT: usize = 20;

/// `index.json`.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) images: Vec<Entry>,
}

/// An image of `index.json`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The manifest's digest.
    pub(super) digest: String,
    /// Digests of indexes it was chosen from.
    #[serde(default)]
    pub(super) indexes: Vec<String>,
    /// Its names, in full.
    pub(super) references: Vec<String>,
    /// The size of its blobs, in bytes.
    pub(super) size: u64,
    /// When it was built.
    pub(super) created: Option<String>,
    /// `os/architecture[/variant]`.
    pub(super) platform: String,
}

/// The store, locked for change. What is put in shows once [`Change::commit`] is called.
pub(super) struct Change<'a> {
    store: &'a Store,
    /// Where what is not finished lies. Goes before the lock does: the next one clears it away.
    scratch: tempfile::TempDir,
    _lock: File,
    /// Unpacked layers, by diff id, and where each is to be.
    layers: Vec<(String, PathBuf)>,
    blobs: Vec<(PathBuf, Vec<u8>)>,
}

impl Store {
    pub(super) fn make_directories(&self) -> Result<(), ImageError> {
        // Layers hold set-user-ID programs: nobody else may reach them.
        private(&self.root).map_err(failed("make the directory", &self.root))?;
        for name in ["blobs/sha256", "layers", "tmp", "empty"] {
            let path = self.root.join(name);
            fs::create_dir_all(&path).map_err(failed("make the directory", &path))?;
        }
        Ok(())
    }

    /// A layer without anything in it: overlayfs wants one at least.
    pub(super) fn empty_layer(&self) -> PathBuf {
        self.root.join("empty")
    }

    pub(super) fn index(&self) -> Result<Index, ImageError> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| ImageError::Damaged { path, reason: error.to_string() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// A manifest or configuration.
    pub(super) fn blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        fs::read(&path).map_err(failed("read", &path))
    }

    fn layer_directory(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.trim_start_matches("sha256:");
        self.root.join("layers").join(&hex[..SHORT.min(hex.len())])
    }

    /// An unpacked layer's tree; `None` when it is not there.
    pub(super) fn layer(&self, diff_id: &str) -> Result<Option<PathBuf>, ImageError> {
        let directory = self.layer_directory(diff_id);
        let path = directory.join("diff-id");
        match fs::read_to_string(&path) {
            Ok(is) if is == diff_id => Ok(Some(directory.join("fs"))),
            Ok(is) => Err(ImageError::Damaged { path, reason: format!("it says {is} where {diff_id} should be") }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Locks the store for change, and clears away what somebody left unfinished.
    pub(super) fn change(&self) -> Result<Change<'_>, ImageError> {
        self.change_within(PATIENCE)
    }

    fn change_within(&self, patience: Duration) -> Result<Change<'_>, ImageError> {
        let lock = lock(&self.root.join("lock"), patience)?;
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(failed("read", &tmp))?.flatten() {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
        let scratch = tempfile::tempdir_in(&tmp).map_err(failed("make a directory in", &tmp))?;
        Ok(Change { store: self, scratch, _lock: lock, layers: Vec::new(), blobs: Vec::new() })
    }
}

/// Locks a file for this process alone. The kernel has no deadline for that, so a thread of its own
/// waits; it ends with the lock's release at the latest.
fn lock(path: &Path, patience: Duration) -> Result<File, ImageError> {
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed("open", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error)),
    }
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        // Nobody waits any more: the file is closed and the lock given up.
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(patience) {
        Ok(locked) => locked.map_err(failed("lock", path)),
        Err(_) => Err(ImageError::Locked { path: path.to_owned(), seconds: patience.as_secs() }),
    }
}

impl Change<'_> {
    /// A directory for what is not finished.
    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Whether a layer is in the store, or will be.
    pub(super) fn has_layer(&self, diff_id: &str) -> Result<bool, ImageError> {
        let unpacked = self.layers.iter().any(|(id, _)| id == diff_id);
        Ok(unpacked || self.store.layer(diff_id)?.is_some())
    }

    /// Makes a directory to unpack a layer into.
    pub(super) fn new_layer(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        let directory = self.scratch().join(diff_id);
        let tree = directory.join("fs");
        fs::create_dir_all(&tree).map_err(failed("make the directory", &tree))?;
        Ok(directory)
    }

    /// Takes a directory made by [`Change::new_layer`] as a layer.
    pub(super) fn add_layer(&mut self, diff_id: &str, directory: PathBuf) -> Result<(), ImageError> {
        let path = directory.join("diff-id");
        fs::write(&path, diff_id).map_err(failed("write", &path))?;
        self.layers.push((diff_id.to_owned(), directory));
        Ok(())
    }

    /// Takes a manifest or configuration.
    pub(super) fn add_blob(&mut self, digest: &str, bytes: Vec<u8>) {
        self.blobs.push((self.store.blob_path(digest), bytes));
    }

    /// Puts everything in place, the index last: until then nothing of it shows. The bytes reach the disk
    /// before their names do.
    pub(super) fn commit(self, index: &Index) -> Result<(), ImageError> {
        let root = &self.store.root;
        let staged = self.scratch().join("staged");
        fs::create_dir(&staged).map_err(failed("make the directory", &staged))?;
        for (number, (_, bytes)) in self.blobs.iter().enumerate() {
            write(&staged.join(number.to_string()), bytes)?;
        }
        let index = serde_json::to_vec_pretty(index)
            .map_err(|error| ImageError::Damaged { path: root.join("index.json"), reason: error.to_string() })?;
        write(&staged.join("index"), &index)?;
        let device = File::open(root).map_err(failed("open", root))?;
        nix::unistd::syncfs(&device).map_err(failed("flush", root))?;

        for (diff_id, directory) in &self.layers {
            let target = self.store.layer_directory(diff_id);
            fs::rename(directory, &target).map_err(failed("make", &target))?;
        }
        for (number, (target, _)) in self.blobs.iter().enumerate() {
            fs::rename(staged.join(number.to_string()), target).map_err(failed("make", target))?;
        }
        let target = root.join("index.json");
        fs::rename(staged.join("index"), &target).map_err(failed("replace", &target))?;
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let written = File::create(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_do_not_change_the_store_at_once_and_the_second_does_not_wait_forever() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(scratch.path()).unwrap();
        let change = store.change().unwrap();
        let error = store.change_within(Duration::from_millis(50)).err().unwrap();
        assert!(matches!(error, ImageError::Locked { .. }), "{error}");
        drop(change);
        store.change_within(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn what_was_left_unfinished_is_cleared_away() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(scratch.path()).unwrap();
        let left = scratch.path().join("images/tmp/left/behind");
        fs::create_dir_all(&left).unwrap();
        drop(store.change().unwrap());
        assert_eq!(fs::read_dir(scratch.path().join("images/tmp")).unwrap().count(), 0);
    }
}
