//! The CRI log format: one record a line, `<RFC 3339, nanoseconds> stdout|stderr F|P <text>`.
//!
//! `F` ends a line; `P` is a piece of a line that goes on in the next record of the same stream
//! (kubernetes/design-proposals: kubelet-cri-logging).

use std::fs::File;
use std::io::{self, Write};

/// The longest text of one record, in bytes, as kubelet's other runtimes have it.
const LONGEST: usize = 16 * 1024;

/// Writes one stream of a container to its log. Two of them may share a file: what one piece of
/// output completes is one `write` to a descriptor opened with `O_APPEND`, which the kernel does not
/// interleave; a write for each line would make a pod of short lines a pod of system calls.
pub(super) struct CriLog {
    file: File,
    stream: &'static str,
    line: Vec<u8>,
}

impl CriLog {
    pub(super) fn new(file: File, stream: &'static str) -> Self {
        Self { file, stream, line: Vec::new() }
    }

    /// Takes output in; writes out every line it completes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        // All of it has come at once, so it has one time.
        let head = self.head();
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let room = LONGEST - self.line.len();
            let newline = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            match newline {
                Some(end) => {
                    self.line.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.record(&head, b'F', &mut records);
                }
                None => {
                    let taken = room.min(bytes.len());
                    self.line.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    // A full piece is written only once more of the line is there: it may end right here.
                    if self.line.len() == LONGEST && !bytes.is_empty() {
                        self.record(&head, b'P', &mut records);
                    }
                }
            }
        }
        self.file.write_all(&records)
    }

    /// The stream has ended: an unfinished line is a line.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let mut records = Vec::new();
        self.record(&self.head(), b'F', &mut records);
        self.file.write_all(&records)
    }

    /// What every record of this moment begins with.
    fn head(&self) -> String {
        format!("{:.9} {} ", jiff::Timestamp::now(), self.stream)
    }

    /// Ends the present line, or the present piece of it.
    fn record(&mut self, head: &str, tag: u8, records: &mut Vec<u8>) {
        records.extend_from_slice(head.as_bytes());
        records.extend_from_slice(&[tag, b' ']);
        records.append(&mut self.line);
        records.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records that this output makes, without their times.
    fn records(pieces: &[&[u8]]) -> Vec<String> {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut log = CriLog::new(File::options().append(true).open(path.path()).unwrap(), "stdout");
        for piece in pieces {
            log.feed(piece).unwrap();
        }
        log.finish().unwrap();
        let text = std::fs::read_to_string(path.path()).unwrap();
        text.lines()
            .map(|line| {
                let (time, rest) = line.split_once(' ').unwrap();
                assert_eq!(time.len(), "2016-10-06T00:17:09.669794202Z".len(), "{time}");
                time.parse::<jiff::Timestamp>().unwrap();
                rest.to_owned()
            })
            .collect()
    }

    #[test]
    fn a_line_is_a_record_however_it_arrives() {
        assert_eq!(records(&[b"one\ntwo\n"]), ["stdout F one", "stdout F two"]);
        assert_eq!(records(&[b"o", b"ne", b"\n", b"\n"]), ["stdout F one", "stdout F "]);
    }

    #[test]
    fn an_unfinished_last_line_is_not_lost() {
        assert_eq!(records(&[b"one\ntw", b"o"]), ["stdout F one", "stdout F two"]);
    }

    #[test]
    fn a_long_line_is_split_and_marked() {
        let long = "x".repeat(LONGEST);
        let whole = format!("{long}\n");
        assert_eq!(records(&[whole.as_bytes()]), [format!("stdout F {long}")]);
        assert_eq!(records(&[long.as_bytes(), b"\n"]), [format!("stdout F {long}")]);
        let more = format!("{long}{long}yz\n");
        let split = [format!("stdout P {long}"), format!("stdout P {long}"), "stdout F yz".to_owned()];
        assert_eq!(records(&[more.as_bytes()]), split);
    }
}
