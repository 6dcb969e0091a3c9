//! Small files, in as few system calls as there can be.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Reads a file whose content comes in one piece: an ordinary one, or one of the kernel's with less than a page in it. A
/// read that does not fill what it is given is the last, which saves asking for size and end.
///
/// # Errors
///
/// Those of open(2) and read(2).
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    read_open(&mut File::open(path)?)
}

/// The same, of a file that is open.
pub fn read_open(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = vec![0; 4096];
    let mut length = 0;
    loop {
        match file.read(&mut content[length..]) {
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if length < content.len() {
            content.truncate(length);
            return Ok(content);
        }
        content.resize(2 * length, 0);
    }
}

/// The same, as text.
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_whatever_its_length() {
        let dir = testkit::scratch();
        let path = dir.path().join("file");
        for length in [0, 1, 4095, 4096, 4097, 100_000] {
            let content = vec![b'x'; length];
            std::fs::write(&path, &content).expect("a file");
            assert_eq!(read(&path).expect("content").len(), length);
        }
        assert!(read_text("/proc/self/stat").expect("a line").ends_with('\n'));
    }
}
