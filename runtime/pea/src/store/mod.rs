//! What is kept on disk of each container.
//!
//! ```text
//! <root>/<id>/state.json    the record; replaced by rename
//! <root>/<id>/config.json   the specification as it was at create
//! <root>/<id>/lock          who changes the container holds this (flock)
//! <root>/<id>/notify/       for the socket of sd_notify(3), when there is one
//! <root>/<id>/start.sock    the init waits here to be started
//! <root>/@<id>.<pid>/       a container directory being prepared; not yet there for anybody
//! <root>/@seccomp/          compiled seccomp filters, for all containers
//! ```
//!
//! A container exists from the moment its directory, complete with record and specification, is renamed into place.

mod lock;
mod record;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::poll::{PollFd, PollFlags, poll};
use oci_spec::runtime::Spec;

pub use lock::Lock;
pub use record::{Init, Record};

use crate::error::{Error, ErrorKind};
use crate::sys::process;

const RECORD: &str = "state.json";
const SPEC: &str = "config.json";
const LOCK: &str = "lock";

/// The longest id; with it a directory name stays within the kernel's 255 bytes.
const LONGEST_ID: usize = 200;

/// Preparing a directory takes a few system calls.
const CREATOR_DEADLINE: u16 = 5_000;

/// The directory of one container.
#[derive(Clone, Debug)]
pub struct Container {
    root: PathBuf,
    id: String,
}

impl Container {
    /// The container of that id, existing or not; refuses what is not an id.
    pub fn new(root: &Path, id: &str) -> Result<Self, Error> {
        let legal = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        let reason = match id.chars().find(|c| !legal(c)) {
            Some(c) => format!("invalid character {c:?}; letters, digits and _ + - . only"),
            None if id.is_empty() => "it is empty".to_owned(),
            None if id.starts_with('.') => "it starts with a dot".to_owned(),
            None if id.len() > LONGEST_ID => format!("longer than {LONGEST_ID} characters"),
            None => return Ok(Self { root: root.to_owned(), id: id.to_owned() }),
        };
        Err(Error::new(ErrorKind::InvalidArgument, format!("invalid container ID {id:?}: {reason}")))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.id)
    }

    /// Where the socket is that the container tells its readiness to.
    pub fn notify_dir(&self) -> PathBuf {
        self.dir().join("notify")
    }

    /// Makes the directory for that socket, which any user in the container may reach.
    pub fn make_notify_dir(&self) -> Result<(), Error> {
        let dir = self.notify_dir();
        let made = fs::DirBuilder::new().mode(0o755).create(&dir);
        made.map_err(|error| Error::io(format!("make directory {}", dir.display()), error))
    }

    /// Where compiled seccomp filters are kept. No container has a name like this.
    pub fn filters_dir(&self) -> PathBuf {
        self.root.join("@seccomp")
    }

    fn staging(&self) -> PathBuf {
        self.root.join(format!("@{}.{}", self.id, std::process::id()))
    }

    /// Brings the container into existence, locked, or says that there is one already.
    pub fn reserve(&self, record: &Record, spec: &[u8]) -> Result<Lock, Error> {
        make_dir(&self.root)?;
        self.sweep();
        let staging = self.staging();
        let staged = self.stage(&staging, record, spec).and_then(|lock| {
            match renameat2(AT_FDCWD, &staging, AT_FDCWD, &self.dir(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => Ok(lock),
                Err(nix::Error::EEXIST) => Err(self.already_exists()),
                Err(error) => Err(Error::io(format!("rename {} into place", staging.display()), error)),
            }
        });
        if staged.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        staged
    }

    /// Refuses an id that is taken, before anything is found wrong with what the container would be. Who takes it from
    /// now on is met by [`reserve`](Self::reserve).
    pub fn check_free(&self) -> Result<(), Error> {
        if self.dir().exists() { Err(self.already_exists()) } else { Ok(()) }
    }

    fn already_exists(&self) -> Error {
        let text = format!("container with id exists: \"{}\"; delete it first, or choose another id", self.id);
        Error::new(ErrorKind::AlreadyExists, text)
    }

    fn stage(&self, staging: &Path, record: &Record, spec: &[u8]) -> Result<Lock, Error> {
        make_dir(staging)?;
        let lock = Lock::take(&staging.join(LOCK), || {})?;
        // Nobody looks into it before it is complete.
        write(&staging.join(SPEC), spec)?;
        write(&staging.join(RECORD), &record.encode()?)?;
        Ok(lock)
    }

    /// Removes what creations of this id left half prepared when they were killed.
    pub fn sweep(&self) {
        for (pid, path) in self.stagings() {
            if Init::of(pid).is_none() {
                let _ = fs::remove_dir_all(path);
            }
        }
    }

    /// Waits (seconds at most) for the creations under way that have not got as far as the lock: they may have been
    /// killed, and not be dead yet.
    pub fn wait_for_creators(&self) {
        for (pid, _) in self.stagings() {
            if let Ok(handle) = process::pidfd_open(pid) {
                let _ = poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], CREATOR_DEADLINE);
            }
        }
    }

    /// The directories being prepared for this id, each with the process that does it.
    fn stagings(&self) -> Vec<(i32, PathBuf)> {
        let prefix = format!("@{}.", self.id);
        let staging = |entry: fs::DirEntry| {
            let pid = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((pid, entry.path()))
        };
        fs::read_dir(&self.root).into_iter().flatten().flatten().filter_map(staging).collect()
    }

    /// Waits (seconds at most) for the right to change the container.
    pub fn lock(&self) -> Result<Lock, Error> {
        self.lock_with(|| {})
    }

    /// The same; calls `held` whenever somebody else has it.
    pub fn lock_with(&self, held: impl FnMut()) -> Result<Lock, Error> {
        let path = self.dir().join(LOCK);
        if !self.dir().exists() {
            return Err(Error::does_not_exist(&self.id));
        }
        let lock = Lock::take(&path, held).map_err(|error| match self.dir().exists() {
            true => error,
            false => Error::does_not_exist(&self.id),
        })?;
        // Whoever held it before may have deleted the container.
        if lock.is_at(&path) { Ok(lock) } else { Err(Error::does_not_exist(&self.id)) }
    }

    /// Whether somebody holds the lock now.
    pub fn is_locked(&self) -> bool {
        Lock::is_taken(&self.dir().join(LOCK))
    }

    pub fn record(&self) -> Result<Record, Error> {
        let path = self.dir().join(RECORD);
        match fs::read(&path) {
            Ok(text) => Record::decode(&text).map_err(|error| Error::internal(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::does_not_exist(&self.id)),
            Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
        }
    }

    pub fn save(&self, record: &Record, _held: &Lock) -> Result<(), Error> {
        let (path, temporary) = (self.dir().join(RECORD), self.dir().join(".state.json.new"));
        write(&temporary, &record.encode()?)?;
        // Some file systems write a file to its device before it replaces another; two that change places can wait.
        let exchanged = renameat2(AT_FDCWD, &temporary, AT_FDCWD, &path, RenameFlags::RENAME_EXCHANGE);
        let replaced = match exchanged {
            Ok(()) => fs::remove_file(&temporary),
            Err(_) => fs::rename(&temporary, &path),
        };
        replaced.map_err(|error| Error::io(format!("write {}", path.display()), error))
    }

    /// The file of the specification as it was at create.
    pub fn spec_path(&self) -> PathBuf {
        self.dir().join(SPEC)
    }

    /// The specification as it was at create.
    pub fn spec(&self) -> Result<Spec, Error> {
        let path = self.spec_path();
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::does_not_exist(&self.id),
            _ => Error::io(format!("read {}", path.display()), error),
        })?;
        crate::spec::parse(&text, &path)
    }

    /// Changes the specification that is kept.
    pub fn change_spec(&self, _held: &Lock, change: impl FnOnce(&mut serde_json::Value)) -> Result<(), Error> {
        let path = self.dir().join(SPEC);
        let text = fs::read(&path).map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        let broken = |error| Error::internal(format!("{}: {error}", path.display()));
        let mut spec = serde_json::from_slice(&text).map_err(broken)?;
        change(&mut spec);
        replace(&path, &serde_json::to_vec(&spec).map_err(broken)?)
    }

    /// Removes the directory; content with there being none.
    pub fn remove(&self) -> Result<(), Error> {
        let (dir, away) = (self.dir(), self.staging());
        // Renamed first: a container is there with all its files, or not at all.
        match fs::rename(&dir, &away) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("rename {} away", dir.display()), error)),
        }
        fs::remove_dir_all(&away).map_err(|error| Error::io(format!("remove {}", away.display()), error))
    }
}

/// The ids of all containers under `root`, sorted; none when there is no such directory.
pub fn ids(root: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("read {}", root.display()), error)),
    };
    let mut ids: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| Container::new(root, name).is_ok() && root.join(name).join(RECORD).exists())
        .collect();
    ids.sort();
    Ok(ids)
}

fn make_dir(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.map_err(|error| Error::io(format!("make directory {}", path.display()), error))
}

/// Writes a file that is there whole or not at all.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = write_plainly(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io(format!("write {}", path.display()), error)
    })
}

/// Writes a file at its place.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    write_plainly(path, content).map_err(|error| Error::io(format!("write {}", path.display()), error))
}

fn write_plainly(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all(content)
}
