//! What a shim leaves in a bundle for the one who clears up after it. Each file is whole or absent.
//!
//! | file | in the bundle of | says |
//! | --- | --- | --- |
//! | `address` | every task, and the sandbox | where the shim listens |
//! | `shim.lock` | the first task, or the sandbox | locked while the shim lives; its pid |
//! | `tasks/<id>.json` | the same | `task.json` of each other task, from before anything of it exists until it is deleted |
//! | `sandbox.json` | a sandbox | the options it was created with |
//! | `task.json` | a task | where pea keeps it |
//! | `exit.json` | a task | how its init ended |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The name of the file with the socket's address.
pub const ADDRESS: &str = "address";
/// The lock's file name.
pub const LOCK: &str = "shim.lock";
/// The name of a sandbox's options.
pub const SANDBOX: &str = "sandbox.json";
/// The name of a task's record.
pub const TASK: &str = "task.json";
/// The name of the record of an init's end.
pub const EXIT: &str = "exit.json";

/// Where pea keeps a task.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Task {
    /// The task's bundle.
    pub bundle: PathBuf,
    /// pea's state root.
    pub pea_root: PathBuf,
    /// Whether systemd made the control groups.
    pub systemd_cgroup: bool,
}

impl Task {
    /// pea, as it was used for this task.
    pub fn runtime(&self) -> pea::Runtime {
        runtime(&self.pea_root, self.systemd_cgroup)
    }
}

/// pea with that state root and that cgroup driver.
pub fn runtime(root: &Path, systemd: bool) -> pea::Runtime {
    let driver = if systemd { pea::CgroupDriver::Systemd } else { pea::CgroupDriver::Cgroupfs };
    pea::Runtime::new(root, driver)
}

/// How an init ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Ended {
    /// Its pid.
    pub pid: i32,
    /// Its exit code, or 128 + the signal that ended it.
    pub status: u32,
    /// When.
    pub at: jiff::Timestamp,
}

/// The record of one task in the bundle of its shim.
pub fn task_in_pod(bundle: &Path, id: &str) -> PathBuf {
    tasks_of_pod(bundle).join(format!("{id}.json"))
}

/// The directory of the records of a shim's tasks.
pub fn tasks_of_pod(bundle: &Path) -> PathBuf {
    bundle.join("tasks")
}

/// Writes a record.
pub fn write(path: &Path, record: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(record).map_err(|source| Error::json(format!("write {}", path.display()), source))?;
    write_text(path, &text)
}

/// The same for a task of a pod, unless the pod's bundle is gone: then nobody will clear up by it, and made anew it would be
/// in the way of the next task of its name.
pub fn write_in_pod(path: &Path, record: &Task) -> Result<(), Error> {
    let Some(directory) = path.parent() else { return Ok(()) };
    match fs::create_dir(directory) {
        Err(error) if absent(&error) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("make {}", directory.display()), error))
        }
        _ => write(path, record),
    }
}

/// Writes a file whole or not at all.
pub fn write_text(path: &Path, text: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| Error::io(format!("write {}", path.display()), source))
}

/// Reads a record; `None` when it was never written.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::json(format!("read {}", path.display()), source))
}

/// The same, as it is.
pub fn read_text(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

/// Removes a file; it may be gone already.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if !absent(&error) => Err(Error::io(format!("remove {}", path.display()), error)),
        _ => Ok(()),
    }
}

/// Removes a directory and all that is in it; it may be gone already.
pub fn remove_all(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if !absent(&error) => Err(Error::io(format!("remove {}", path.display()), error)),
        _ => Ok(()),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_or_absent_and_removed_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = task_in_pod(dir.path(), "c");
        assert!(read::<Ended>(&path).unwrap().is_none());
        remove(&path).unwrap();
        fs::create_dir(tasks_of_pod(dir.path())).unwrap();
        let ended = Ended { pid: 5, status: 137, at: jiff::Timestamp::now() };
        // What is there while it is written stays until it is whole: a reader with the old file sees the old one.
        fs::write(&path, "{}").unwrap();
        let old = fs::File::open(&path).unwrap();
        write(&path, &ended).unwrap();
        assert_eq!(std::io::read_to_string(old).unwrap(), "{}");
        let again: Ended = read(&path).unwrap().unwrap();
        assert_eq!((again.pid, again.status, again.at), (5, 137, ended.at));
        assert_eq!(fs::read_dir(tasks_of_pod(dir.path())).unwrap().count(), 1, "a temporary file is left");
        remove(&path).unwrap();
        remove(&path).unwrap();
        // In a place that is a file by now there is no record either.
        fs::write(dir.path().join("file"), "").unwrap();
        let nowhere = dir.path().join("file/task.json");
        assert!(read::<Task>(&nowhere).unwrap().is_none());
        remove(&nowhere).unwrap();
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TASK);
        fs::write(&path, "{\"bundle\":").unwrap();
        assert!(read::<Task>(&path).unwrap_err().to_string().contains(path.to_str().unwrap()));
        assert!(read::<Task>(dir.path()).is_err(), "a directory is no record");
    }
}
