//! What an ADD notes for its DEL: the configuration it called the other plugin with.
//!
//! `<dataDir>/<containerID>`, as the reference has it, so that each removes what the other one added. It is a help and
//! no more: flanneld may be given another subnet while the pod runs. Where it is missing, broken or another network's
//! (the name has no network and no interface in it), the configuration is made anew.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::delegate::Delegated;
use crate::small_file;
use crate::spec::{Config, Error, code};

/// Where the notes are, unless `dataDir` says otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/flannel";

/// The notes of a configuration's containers.
#[derive(Debug, Clone)]
pub struct Notes {
    directory: PathBuf,
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::new(code::IO, format!("cannot {doing} {}: {error}", path.display()))
}

impl Notes {
    /// Those in `dataDir`.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is no string.
    pub fn of(config: &Config) -> Result<Notes, Error> {
        Ok(Notes { directory: config.root().get("dataDir").text()?.unwrap_or(DEFAULT_DATA_DIR).into() })
    }

    fn path(&self, container_id: &str) -> PathBuf {
        self.directory.join(container_id)
    }

    /// Writes a note: whole or not at all.
    ///
    /// # Errors
    /// [`code::IO`].
    pub fn write(&self, container_id: &str, text: &[u8]) -> Result<(), Error> {
        let path = self.path(container_id);
        // No container's id begins with a dot.
        let aside = self.directory.join(format!(".{container_id}.{}", std::process::id()));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?.write_all(text)?;
            fs::rename(&aside, &path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&aside);
            failed("write", &path, &error)
        })
    }

    /// The note of a container, if it is one of this network.
    pub fn read(&self, container_id: &str, network: &str) -> Option<Delegated> {
        let text = small_file::read(&self.path(container_id)).ok()?;
        Delegated::of_note(text.as_bytes()).filter(|note| note.is_of(network))
    }

    /// Removes the note of a container, unless it is another network's.
    ///
    /// # Errors
    /// [`code::IO`]; that there is none is no error.
    pub fn remove(&self, container_id: &str, network: &str) -> Result<(), Error> {
        let path = self.path(container_id);
        let Ok(text) = small_file::read(&path) else { return Ok(()) };
        if Delegated::of_note(text.as_bytes()).is_some_and(|note| !note.is_of(network)) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    /// The containers that have a note of this network. Reads them all: for GC.
    ///
    /// # Errors
    /// [`code::IO`]; no directory is no note.
    pub fn containers(&self, network: &str) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| failed("list", &self.directory, &error))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| self.read(name, network).is_some()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_networks_and_what_is_broken_is_nobodys() {
        let dir = testkit::scratch();
        let notes = Notes { directory: dir.path().join("flannel") };
        assert_eq!(notes.containers("net").unwrap(), Vec::<String>::new());
        notes.write("a", br#"{"name": "net", "type": "bridge"}"#).unwrap();
        notes.write("b", br#"{"name": "other", "type": "bridge"}"#).unwrap();
        notes.write("c", b"{").unwrap();
        assert!(
            notes.read("a", "net").is_some() && notes.read("b", "net").is_none() && notes.read("c", "net").is_none()
        );
        assert_eq!(notes.containers("net").unwrap(), ["a"]);
        for id in ["a", "b", "c", "never"] {
            notes.remove(id, "net").unwrap();
        }
        let left: Vec<_> =
            fs::read_dir(dir.path().join("flannel")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["b"]);
        testkit::run(std::process::Command::new("mkfifo").arg(dir.path().join("flannel/pipe")));
        assert!(notes.read("pipe", "net").is_none(), "and nobody waits for what is none");
        notes.remove("pipe", "net").unwrap();
    }
}
