//! Why a container cannot be described.

/// Why a container cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither the manifest nor the image says what to run.
    #[error("container {container}: image {image} names no command; set spec.containers[].command")]
    NoCommand {
        /// The container's name.
        container: String,
        /// The image's reference.
        image: String,
    },
    /// A part of the specification was left out; a mistake in this program.
    #[error("cannot build the OCI specification: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
}
