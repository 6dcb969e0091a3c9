//! Reading a file that a configuration names, whatever it is.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// More than any file of settings has.
const LONGEST: u64 = 1 << 20;

/// The text of a regular file of at most 1 MiB; what is not UTF-8 in it is replaced.
///
/// # Errors
/// When it cannot be read, is longer, or is something else: a pipe would hold us, and a device may never end.
pub fn read(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let length = file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(length).is_ok_and(|length| length > LONGEST) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_sensible_length_are_read() {
        let dir = testkit::scratch();
        let file = dir.path().join("a");
        std::fs::write(&file, b"a\xffb").unwrap();
        assert_eq!(read(&file).unwrap(), "a\u{fffd}b");
        std::fs::write(&file, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("longer"));
        for path in ["/dev/zero", "/"] {
            assert!(read(Path::new(path)).unwrap_err().to_string().contains("regular"), "{path}");
        }
        let pipe = dir.path().join("pipe");
        testkit::run(std::process::Command::new("mkfifo").arg(&pipe));
        assert!(read(&pipe).is_err());
    }
}
