//! What can go wrong, said once and whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::pod::Key;

/// The result of anything peapod does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as the person sees it: one message, which names what was being done, to what, why it was
/// refused, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] crate::manifest::ManifestError),
    /// An image is missing or broken.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// A volume cannot be made or removed.
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    /// A container cannot be described.
    #[error(transparent)]
    Container(#[from] crate::container::ContainerError),
    /// The network refused.
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    /// The shim refused, or went away.
    #[error("{doing}: {source}")]
    Shim {
        /// What was asked of it.
        doing: String,
        /// Its answer.
        source: pea_shim::client::Error,
    },
    /// A file or directory could not be used.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "writing".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of ours does not hold what it should.
    #[error("reading {}: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A name on the command line is none: no pod or namespace is called so, and no file may be.
    #[error("{what}: {reason}")]
    Name {
        /// Whose name.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The shim program that was named is not there.
    #[error("the shim {} is not there: install it, or name another one with --shim", .0.display())]
    MissingShim(PathBuf),
    /// No shim program was found.
    #[error(
        "containerd-shim-pea-v2 was found neither beside peapod nor in PATH: install it there, or name it with --shim"
    )]
    NoShim,
    /// There is no such pod.
    #[error("pod {0}: no such pod (peapod ps -A lists all)")]
    NoSuchPod(Key),
    /// The name is in use.
    #[error("pod {0} exists already: remove it first (peapod rm --force {0})")]
    NameTaken(Key),
    /// A running pod is not removed by accident.
    #[error("pod {0} is running: stop it first (peapod stop {0}), or use rm --force")]
    StillRunning(Key),
    /// Somebody else drives the pod and does not end.
    #[error("{} is held by another peapod or one of its children, even after {seconds} s: see keeper.log beside it", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// A pod cannot be as its manifest wants it here and now.
    #[error("pod {key}: {reason}")]
    Pod {
        /// Which pod.
        key: Key,
        /// Why, and what helps.
        reason: String,
    },
    /// A new pod could not be brought up; nothing of it is left.
    #[error("pod {key} was not started: {message}")]
    Undone {
        /// Which pod.
        key: Key,
        /// Why, in the keeper's words.
        message: String,
    },
    /// A field of a manifest cannot be served here and now.
    #[error("{file}: {path}: {reason}")]
    Field {
        /// The manifest.
        file: String,
        /// The field's path in it.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A failure that has an exit code of its own.
    #[error("{message}")]
    Exit {
        /// The exit code.
        code: u8,
        /// What happened.
        message: String,
    },
    /// Several failures of one clean-up, each of which did not keep the others from being tried.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
}

impl Error {
    /// A failure to use `path`.
    pub fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), source }
    }

    /// A failure of one pod.
    pub fn pod(key: &Key, reason: impl Into<String>) -> Error {
        Error::Pod { key: key.clone(), reason: reason.into() }
    }

    /// Nothing, the one failure, or all of them.
    pub fn collect(mut errors: Vec<Error>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Several(errors)),
        }
    }

    /// Whether this failure is only that a file is not there.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The exit code it ends the command with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Exit { code, .. } => *code,
            _ => 1,
        }
    }

    /// Whether standard output was closed by its reader.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Adds what was being done, and to what, to a failure of the kernel.
pub trait IoContext<T> {
    /// As in `fs::read(path).context("reading", path)`.
    fn context(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(doing, path, source))
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn context(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|errno| Error::io(doing, path, errno.into()))
    }
}

/// Adds what was asked of the shim to its refusal.
pub trait ShimContext<T> {
    /// As in `shim.start(id).await.asking(|| format!("starting container {name}"))`.
    fn asking(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ShimContext<T> for std::result::Result<T, pea_shim::client::Error> {
    fn asking(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Shim { doing: doing(), source })
    }
}
