//! State on disk, whole or absent.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, IoContext, Result};

/// Writes `value` as JSON to `path`: under another name first, then renamed, so that a reader sees the old or
/// the new and a crash leaves one of them. No fsync: what is written here does not outlive the boot.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).context("writing a file in", dir)?;
    file.write_all(&text).context("writing", path)?;
    file.persist(path).map_err(|error| error.error).context("writing", path)?;
    Ok(())
}

/// Reads the JSON file at `path`; `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.context("reading", path)?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

/// Removes the file at `path`, if there is one.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.context("removing", path),
    }
}

/// Makes the directory `path` and those above it, for root alone.
pub fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context("making the directory", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_nothing_else_is_left_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &1u32).unwrap();
        write_json(&path, &2u32).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        let error = read_json::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("x.json"), "{error}");
    }

    #[test]
    fn removing_what_is_not_there_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        remove_file(&dir.path().join("a")).unwrap();
        crate::volume::remove_tree(&dir.path().join("b")).unwrap();
    }
}
