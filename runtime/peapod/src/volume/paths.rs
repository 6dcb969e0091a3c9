//! Where everything of a pod lies.

use std::path::{Path, PathBuf};

/// The two directories of a pod, and what follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    state: PathBuf,
    data: PathBuf,
}

impl PodPaths {
    /// `state` is `<state>/pods/<key>`, which dies with the boot; `data` is `<root>/pods/<uid>`.
    pub fn new(state: impl Into<PathBuf>, data: impl Into<PathBuf>) -> PodPaths {
        PodPaths { state: state.into(), data: data.into() }
    }

    /// The directory that dies with the boot.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The directory that outlives it.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The pod's `/dev/shm`, a tmpfs.
    pub fn shm(&self) -> PathBuf {
        self.state.join("shm")
    }

    /// The pod's `/etc/hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.state.join("etc/hosts")
    }

    /// The pod's `/etc/hostname`.
    pub fn hostname(&self) -> PathBuf {
        self.state.join("etc/hostname")
    }

    /// The pod's `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.state.join("etc/resolv.conf")
    }

    /// An emptyDir volume, on disk or as a tmpfs mounted here.
    pub fn empty_dir(&self, volume: &str) -> PathBuf {
        self.volumes().join(volume)
    }

    /// All emptyDir volumes.
    pub(super) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// What one start of a container writes: `upper` and `work` are in it.
    pub(super) fn writable_layer(&self, container: &str, attempt: u32) -> PathBuf {
        self.data.join("containers").join(format!("{container}-{attempt}"))
    }

    /// The bound subPaths of all containers, a directory for each start of one.
    pub(super) fn sub_paths(&self) -> PathBuf {
        self.state.join("subpaths")
    }

    /// The bound subPaths of one start of a container, named by their place among its mounts.
    pub(super) fn sub_paths_of(&self, container: &str, attempt: u32) -> PathBuf {
        self.sub_paths().join(format!("{container}-{attempt}"))
    }
}
