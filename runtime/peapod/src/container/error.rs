//! Why a container cannot be described.

use std::io;
use std::path::PathBuf;

/// Why a container cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Neither the manifest nor the image says what to run.
    #[error("container {container}: image {image} names no command; set the container's command")]
    NoCommand {
        /// The container's name.
        container: String,
        /// The image's reference.
        image: String,
    },
    /// The image runs as somebody it has no account for.
    #[error(
        "container {container}: image {image} has no {kind} {name:?} in /etc/{}; set securityContext.runAs{} to a number",
        if *kind == "user" { "passwd" } else { "group" },
        if *kind == "user" { "User" } else { "Group" }
    )]
    UnknownAccount {
        /// The container's name.
        container: String,
        /// The image's reference.
        image: String,
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// `runAsNonRoot` of a container that would run as root.
    #[error(
        "container {container}: securityContext.runAsNonRoot is true, but image {image} runs as root; set runAsUser"
    )]
    Root {
        /// The container's name.
        container: String,
        /// The image's reference.
        image: String,
    },
    /// The image's accounts cannot be read.
    #[error("cannot read the image's accounts in {}: {source}", path.display())]
    Accounts {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel takes one page of mount options, which holds some 70 layers.
    #[error("image {image} has {layers} layers, more than fit into one overlay mount ({length} of 4095 bytes)")]
    TooManyLayers {
        /// The image's reference.
        image: String,
        /// How many it has.
        layers: usize,
        /// How long the mount options would be.
        length: usize,
    },
    /// The node cannot be looked at.
    #[error("cannot read {}: {source}", path.display())]
    Node {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of the specification was left out; a mistake in this program.
    #[error("cannot build the OCI specification: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
}
