//! What can go wrong with an image.

/// Why an image cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name is in the store.
    #[error("image {reference} is not in the store; load it with `peapod image load ARCHIVE`")]
    NotFound {
        /// The normalised name.
        reference: String,
    },
}
