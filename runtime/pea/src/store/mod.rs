//! What is kept on disk of each container.
//!
//! ```text
//! <root>/<id>/              who changes the container holds a lock on it (flock)
//! <root>/<id>/state.json    the record; replaced by rename
//! <root>/<id>/init          the container's init, a link that leads nowhere: "PID START-TIME"
//! <root>/<id>/config.json   the specification as it was at create
//! <root>/<id>/notify/       for the socket of sd_notify(3), when there is one
//! <root>/<id>/start.sock    the init waits here to be started
//! <root>/<id>@new/          a container's directory being prepared; not yet there for anybody
//! <root>/<id>@old/          one being removed; there for nobody any more
//! <root>/@seccomp/          compiled seccomp filters, for all containers
//! ```
//!
//! A container exists from the moment its directory, complete with record and specification, is renamed into place. What
//! is known of its init only later is a link of its own: that is whole from the first, in one system call.

mod lock;
mod record;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use oci_spec::runtime::Spec;

pub use lock::Lock;
pub use record::{Init, Record};

use crate::error::{Error, ErrorKind};
use crate::small_file;

const RECORD: &str = "state.json";
const INIT: &str = "init";
const SPEC: &str = "config.json";

/// The longest id; with it a directory name stays within the kernel's 255 bytes.
const LONGEST_ID: usize = 200;

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

    /// Where it is prepared. No id has an "@" in it.
    fn staging(&self) -> PathBuf {
        self.root.join(format!("{}@new", self.id))
    }

    /// Where it is removed.
    fn discarded(&self) -> PathBuf {
        self.root.join(format!("{}@old", self.id))
    }

    /// Brings the container into existence, locked, or says that there is one already.
    pub fn reserve(&self, record: &Record, spec: &[u8]) -> Result<Lock, Error> {
        let staging = self.staging();
        let lock = self.stage(&staging)?;
        let staged = fill(&staging, record, spec).and_then(|()| {
            match renameat2(AT_FDCWD, &staging, AT_FDCWD, &self.dir(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => Ok(()),
                Err(nix::Error::EEXIST) => Err(self.already_exists()),
                Err(error) => Err(Error::io(format!("rename {} into place", staging.display()), error)),
            }
        });
        if staged.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        staged.map(|()| lock)
    }

    /// Makes the directory in which it is prepared, and locks it: nobody else prepares one of that id.
    fn stage(&self, staging: &Path) -> Result<Lock, Error> {
        for _ in 0..ATTEMPTS {
            match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(staging) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_dir(&self.root)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.sweep_staging(|| Err(self.already_exists()))?;
                    continue;
                }
                Err(error) => return Err(Error::io(format!("make directory {}", staging.display()), error)),
            }
            // Between the two calls somebody may have taken it for a dead one's.
            if let Ok(Some(lock)) = Lock::try_take(staging)
                && lock.is_at(staging)
            {
                return Ok(lock);
            }
        }
        Err(self.already_exists())
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

    /// Removes what was left half prepared, or half removed, by who was killed over it. One that is still at work is waited
    /// for (seconds at most): it may have been killed, and not be dead yet.
    pub fn sweep(&self) -> Result<(), Error> {
        self.sweep_staging(|| Lock::take(&self.staging(), || {}).map(drop))?;
        let discarded = self.discarded();
        if discarded.exists() { remove_dir(&discarded) } else { Ok(()) }
    }

    /// Removes the directory of a creation that was killed before there was a container; `busy` where it is alive.
    fn sweep_staging(&self, busy: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let staging = self.staging();
        if !staging.exists() {
            return Ok(());
        }
        match Lock::try_take(&staging) {
            Ok(Some(lock)) if lock.is_at(&staging) => remove_dir(&staging),
            Ok(None) => busy(),
            // It has come into its place, or gone, meanwhile.
            _ if !staging.exists() => Ok(()),
            taken => taken.map(drop),
        }
    }

    /// Waits (seconds at most) for the right to change the container.
    pub fn lock(&self) -> Result<Lock, Error> {
        self.lock_with(|| {})
    }

    /// The same; calls `held` whenever somebody else has it.
    pub fn lock_with(&self, held: impl FnMut()) -> Result<Lock, Error> {
        let dir = self.dir();
        let lock = Lock::take(&dir, held).map_err(|error| match dir.exists() {
            true => error,
            false => Error::does_not_exist(&self.id),
        })?;
        // Whoever held it before may have deleted the container.
        if lock.is_at(&dir) { Ok(lock) } else { Err(Error::does_not_exist(&self.id)) }
    }

    /// Whether somebody holds the lock now.
    pub fn is_locked(&self) -> bool {
        Lock::is_taken(&self.dir())
    }

    pub fn record(&self) -> Result<Record, Error> {
        let path = self.dir().join(RECORD);
        let text = small_file::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::does_not_exist(&self.id),
            _ => Error::io(format!("read {}", path.display()), error),
        })?;
        let damaged = |error| Error::internal(format!("{}: {error}", path.display()));
        let mut record = Record::decode(&text).map_err(damaged)?;
        // In records of earlier versions, and of restored containers, it is in there.
        if record.init.is_none() {
            record.init = fs::read_link(self.dir().join(INIT)).ok().and_then(|link| Init::parse(link.to_str()?));
        }
        Ok(record)
    }

    /// Says which process is the container's init.
    pub fn save_init(&self, init: Init, _held: &Lock) -> Result<(), Error> {
        let path = self.dir().join(INIT);
        symlink(init.to_string(), &path).map_err(|error| Error::io(format!("make link {}", path.display()), error))
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
        let text = small_file::read(&path).map_err(|error| match error.kind() {
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
        replace_with_mode(&path, &serde_json::to_vec(&spec).map_err(broken)?, FILE_MODE)
    }

    /// Removes the directory; content with there being none.
    pub fn remove(&self) -> Result<(), Error> {
        let (dir, away) = (self.dir(), self.discarded());
        // Renamed first: a container is there with all its files, or not at all.
        let mut renamed = fs::rename(&dir, &away);
        if renamed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty) {
            remove_dir(&away)?;
            renamed = fs::rename(&dir, &away);
        }
        match renamed {
            Ok(()) => remove_dir(&away),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io(format!("rename {} away", dir.display()), error)),
        }
    }
}

/// The files of each container; there may be others.
const FILES: [&str; 4] = [SPEC, INIT, RECORD, crate::engine::GATE];

/// Removes a container's directory; content with there being none.
fn remove_dir(dir: &Path) -> Result<(), Error> {
    // By their names, and so without a list, as long as there are no others.
    for name in FILES {
        let _ = fs::remove_file(dir.join(name));
    }
    let removed = match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(dir),
        removed => removed,
    };
    match removed {
        // Another deletion may be at the same.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

/// Writes the files of a new container. Nobody looks into them before they are complete.
fn fill(dir: &Path, record: &Record, spec: &[u8]) -> Result<(), Error> {
    write(&dir.join(SPEC), spec)?;
    write(&dir.join(RECORD), &record.encode()?)
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

/// Users of a container get at what is for them in it (its socket for sd_notify), and see nothing else.
const DIRECTORY_MODE: u32 = 0o711;

/// Whoever knows an id could read what he may: and the variables in a specification are often secrets.
const FILE_MODE: u32 = 0o600;

/// More often than that nobody is in the way by chance.
const ATTEMPTS: u32 = 100;

fn make_dir(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    made.map_err(|error| Error::io(format!("make directory {}", path.display()), error))
}

/// Writes a file that is there whole or not at all.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    replace_with_mode(path, content, 0o644)
}

fn replace_with_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = write_plainly(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io(format!("write {}", path.display()), error)
    })
}

/// Writes a file at its place.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    write_plainly(path, content, FILE_MODE).map_err(|error| Error::io(format!("write {}", path.display()), error))
}

fn write_plainly(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn two_may_remove_the_same_directory() {
        let scratch = testkit::scratch();
        for round in 0..300 {
            let dir = scratch.path().join(round.to_string());
            fs::create_dir_all(dir.join("notify")).expect("a directory");
            let removed = thread::scope(|scope| {
                [(); 2].map(|()| scope.spawn(|| remove_dir(&dir))).map(|thread| thread.join().expect("no panic"))
            });
            assert!(removed.iter().all(Result::is_ok) && !dir.exists(), "{removed:?}");
        }
    }
}
