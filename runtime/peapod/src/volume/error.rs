//! What can go wrong with a volume.

use std::io;
use std::path::{Path, PathBuf};

/// Why a volume cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A hostPath is not what its type says.
    #[error("volume {volume}: hostPath {}: {reason}", path.display())]
    HostPath {
        /// The volume's name.
        volume: String,
        /// The path on the node.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// A `subPath` cannot be used.
    #[error("container {container}: subPath {sub_path:?} of volume {volume}: {reason}")]
    SubPath {
        /// The container's name.
        container: String,
        /// The volume's name.
        volume: String,
        /// The path inside the volume.
        sub_path: String,
        /// Why not.
        reason: String,
    },
    /// Something is mounted where everything is to be removed.
    #[error("cannot remove {}: something is mounted there; unmount it first", path.display())]
    Mounted {
        /// The mount point, or the directory it is in.
        path: PathBuf,
    },
    /// The kernel refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it was refused.
        source: io::Error,
    },
    /// Several things went wrong.
    #[error("{}", .0.iter().map(VolumeError::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<VolumeError>),
}

impl VolumeError {
    /// One error out of all that went wrong.
    pub(super) fn collect(mut errors: Vec<VolumeError>) -> Result<(), VolumeError> {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                errors.push(last);
                Err(VolumeError::Several(errors))
            }
        }
    }
}

/// For `map_err`: what was being done, to what.
pub(super) fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source: source.into() }
}
