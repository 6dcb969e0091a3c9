//! Where an image comes from: a directory, or an archive that is read like one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::error::failed;
use super::{ImageError, compression};

/// More than any manifest or configuration has.
const MOST_JSON: u64 = 8 << 20;

/// How many links of an archive are followed for one file.
const MOST_LINKS: usize = 8;

/// A file's bytes, and how many there are.
pub(super) type Content<'a> = (Box<dyn Read + 'a>, u64);

/// An image's files by their path.
pub(super) struct Source {
    path: PathBuf,
    files: Files,
}

enum Files {
    Directory(PathBuf),
    Archive { file: File, entries: BTreeMap<PathBuf, Entry> },
}

enum Entry {
    /// Offset and size in the archive.
    File(u64, u64),
    /// The path it leads to. Older versions of `docker save` link a layer that comes twice.
    Link(PathBuf),
}

impl Source {
    /// Opens a directory, or an archive, which is decompressed into `scratch` where it has to be.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Source, ImageError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let files = if file.metadata().map_err(failed("look at", path))?.is_dir() {
            Files::Directory(path.to_owned())
        } else {
            let refused = |error: io::Error| ImageError::Refused {
                path: path.to_owned(),
                // The tar reader quotes the block it stumbled over, as it is.
                reason: format!(
                    "it is neither an image directory nor a readable tar archive: {}",
                    error.to_string().lines().next().unwrap_or_default()
                ),
            };
            let file = seekable(file, scratch).map_err(refused)?;
            let entries = index(&file).map_err(refused)?;
            Files::Archive { file, entries }
        };
        Ok(Source { path: path.to_owned(), files })
    }

    /// The source as the person named it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For an error: what is wrong with the source.
    pub(super) fn refused(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Refused { path: self.path.clone(), reason: reason.into() }
    }

    /// A file's bytes and how many there are; `None` when there is no such file.
    pub(super) fn file(&self, name: &str) -> Result<Option<Content<'_>>, ImageError> {
        let Some(name) = normal(Path::new(name)) else {
            return Err(self.refused(format!("it names a file outside of itself: {name:?}")));
        };
        match &self.files {
            Files::Directory(directory) => {
                let path = directory.join(name);
                match File::open(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata))) {
                    Ok((file, metadata)) if metadata.is_file() => Ok(Some((Box::new(file), metadata.len()))),
                    Ok(_) => Ok(None),
                    Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                        Ok(None)
                    }
                    Err(error) => Err(failed("read", &path)(error)),
                }
            }
            Files::Archive { file, entries } => Ok(find(entries, name).map(|(offset, size)| {
                let part = Part { file, offset, left: size };
                (Box::new(part) as Box<dyn Read>, size)
            })),
        }
    }

    /// A small file whole; `None` when there is no such file.
    pub(super) fn small(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some((reader, size)) = self.file(name)? else { return Ok(None) };
        if size > MOST_JSON {
            return Err(self.refused(format!("{name} has {size} bytes, more than a description of an image has")));
        }
        let mut bytes = Vec::new();
        reader.take(MOST_JSON).read_to_end(&mut bytes).map_err(failed("read", &self.path.join(name)))?;
        Ok(Some(bytes))
    }
}

/// The archive as a file that can be read anywhere: itself, or an unnamed copy when it is compressed or a pipe.
fn seekable(mut file: File, scratch: &Path) -> io::Result<File> {
    let mut start = [0; 4];
    let plain_file = file.metadata()?.is_file() && {
        let count = file.read_at(&mut start, 0)?;
        !compression::is_compressed(&start[..count])
    };
    if plain_file {
        file.seek(SeekFrom::Start(0))?;
        return Ok(file);
    }
    let mut copy = tempfile::tempfile_in(scratch)?;
    io::copy(&mut compression::plain(file)?, &mut copy)?;
    Ok(copy)
}

/// Where each file of an archive lies. A later entry of the same name replaces the earlier one, as in tar.
fn index(mut file: &File) -> io::Result<BTreeMap<PathBuf, Entry>> {
    file.seek(SeekFrom::Start(0))?;
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let Some(path) = normal(&entry.path()?) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            entries.insert(path, Entry::File(entry.raw_file_position(), entry.size()));
        } else if kind.is_symlink() || kind.is_hard_link() {
            let Some(target) = entry.link_name()? else { continue };
            let base = path.parent().filter(|_| kind.is_symlink()).unwrap_or(Path::new(""));
            if let Some(target) = normal(&base.join(target)) {
                entries.insert(path, Entry::Link(target));
            }
        }
    }
    Ok(entries)
}

fn find(entries: &BTreeMap<PathBuf, Entry>, mut name: PathBuf) -> Option<(u64, u64)> {
    for _ in 0..MOST_LINKS {
        match entries.get(&name)? {
            Entry::File(offset, size) => return Some((*offset, *size)),
            Entry::Link(target) => name.clone_from(target),
        }
    }
    None
}

/// A path without `.` and `..`, relative to the source; `None` when it leads out of it.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => normal.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// A part of a file, read by position: several can be read at a time.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
