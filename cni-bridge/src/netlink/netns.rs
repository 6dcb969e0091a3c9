//! Network namespaces: naming one by a file, working inside it, coming back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::Error;

/// An open network namespace: it lives as long as this does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens a namespace by its file: `/proc/<pid>/ns/net`, or a bind mount of one.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::NotANamespace`] when it is another kind of file
    /// (the leftover of a bind mount, mostly).
    pub fn open(path: &Path) -> Result<Netns, Error> {
        let doing = || format!("open the network namespace {}", path.display());
        // Without O_NONBLOCK a FIFO at that path would hold us until someone writes to it.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| Error::io(doing(), source))?;
        let kind = fstatfs(&file).map_err(|errno| Error::io(doing(), errno.into()))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(Error::NotANamespace { path: path.display().to_string() });
        }
        Ok(Netns { file, path: path.to_owned() })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Netns, Error> {
        Netns::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The file it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for `IFLA_NET_NS_FD`.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether both are the same namespace.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn is(&self, other: &Netns) -> Result<bool, Error> {
        let identity = |netns: &Netns| {
            let meta = netns
                .file
                .metadata()
                .map_err(|source| Error::io(format!("look at {}", netns.path.display()), source))?;
            Ok((meta.dev(), meta.ino()))
        };
        Ok(identity(self)? == identity(other)?)
    }

    fn enter(&self) -> Result<(), Error> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            // A namespace, but of another kind.
            nix::errno::Errno::EINVAL => Error::NotANamespace { path: self.path.display().to_string() },
            errno => Error::io(format!("enter the network namespace {}", self.path.display()), errno.into()),
        })
    }

    /// Runs `work` with the calling thread inside this namespace, then returns the thread to `home`.
    ///
    /// Sockets opened by `work` stay in this namespace, so most work can be done from outside afterwards.
    ///
    /// # Errors
    /// When the namespace cannot be entered or left; what `work` returns is inside.
    pub fn inside<T>(&self, home: &Netns, work: impl FnOnce() -> T) -> Result<T, Error> {
        self.enter()?;
        let outcome = work();
        home.enter()?;
        Ok(outcome)
    }
}
