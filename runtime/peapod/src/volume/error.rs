//! What can go wrong with a volume.

use std::path::PathBuf;

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
}
