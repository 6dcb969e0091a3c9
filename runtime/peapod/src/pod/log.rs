//! Reading the CRI log format: `<time> <stream> <tag> <text>`, one entry a line, tag `F` for a whole line of the
//! container's and `P` for a piece of one.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};

/// Reads a log that may still grow.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    /// None while the file is not there.
    file: Option<BufReader<File>>,
    /// An entry whose end is not written yet.
    begun: Vec<u8>,
}

impl LogReader {
    /// Opens the log at `path`; one that is not there reads as empty, until it is.
    pub fn open(path: &Path) -> Result<LogReader> {
        let mut reader = LogReader { path: path.to_owned(), file: None, begun: Vec::new() };
        reader.reopen()?;
        Ok(reader)
    }

    fn reopen(&mut self) -> Result<()> {
        match File::open(&self.path) {
            Ok(file) => self.file = Some(BufReader::new(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("reading", &self.path, error)),
        }
        Ok(())
    }

    /// What the next entry has of the container's output, its line end included; `None` when there is no more for now.
    pub fn entry(&mut self) -> Result<Option<Vec<u8>>> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        file.read_until(b'\n', &mut self.begun).context("reading", &self.path)?;
        if !self.begun.ends_with(b"\n") {
            return Ok(None);
        }
        Ok(Some(text(&std::mem::take(&mut self.begun))))
    }
}

/// The container's part of an entry. A line that is no entry is shown as it is: better than to hide it.
fn text(entry: &[u8]) -> Vec<u8> {
    let mut parts = entry.splitn(4, |byte| *byte == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(b"stdout" | b"stderr"), Some(b"F"), Some(text)) => text.to_vec(),
        (Some(_), Some(b"stdout" | b"stderr"), Some(b"P"), Some(text)) => {
            text.strip_suffix(b"\n").unwrap_or(text).to_vec()
        }
        _ => entry.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(reader: &mut LogReader) -> String {
        let mut out = Vec::new();
        while let Some(text) = reader.entry().unwrap() {
            out.extend(text);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pieces_join_and_whole_lines_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let time = "2026-01-02T03:04:05.000000006Z";
        std::fs::write(
            &path,
            format!("{time} stdout P ab\n{time} stdout F cd\n{time} stderr F \n{time} stdout F  x y\n"),
        )
        .unwrap();
        assert_eq!(all(&mut LogReader::open(&path).unwrap()), "abcd\n\n x y\n");
    }

    #[test]
    fn an_entry_is_shown_once_it_is_whole_and_a_log_once_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(all(&mut reader), "");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"2026-01-02T03:04:05Z stdout F he").unwrap();
        assert_eq!(all(&mut reader), "");
        file.write_all(b"llo\n2026").unwrap();
        assert_eq!(all(&mut reader), "hello\n");
    }
}
