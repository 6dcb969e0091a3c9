//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name is in the store.
    #[error("image {reference} is not in the store; load it with `peapod image load ARCHIVE`")]
    NotFound {
        /// The normalised name.
        reference: String,
    },
    /// What should name an image does not.
    #[error("{0}")]
    BadName(String),
    /// The source is not an image, or a damaged one, or one for other machines.
    #[error("cannot load {}: {reason}", path.display())]
    Refused {
        /// The archive or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store itself does not hold what it should.
    #[error("the image store is damaged: {}: {reason}; load the image again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else has been changing the store for too long.
    #[error("the image store is in use: {} has been locked for {seconds} s", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
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
}

/// For `map_err`: what was being done, to what.
pub(super) fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { action, path, source: source.into() }
}
