//! HOME, for a process that was given none.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// The part of a container's /etc/passwd that is read; more is no honest file.
const LONGEST: u64 = 1 << 20;

/// `HOME=` of that user in the container's /etc/passwd, or `/`.
///
/// Read here and not by the C library, which would load modules named by the container's own nsswitch.conf.
pub fn variable(uid: u32) -> CString {
    let home = passwd().and_then(|text| directory(&text, uid)).unwrap_or_else(|| "/".to_owned());
    CString::new(format!("HOME={home}")).unwrap_or_else(|_| c"HOME=/".to_owned())
}

fn passwd() -> Option<String> {
    // Not to wait for ever should it be a FIFO.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/etc/passwd").ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn directory(passwd: &str, uid: u32) -> Option<String> {
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 7 && fields[2].parse() == Ok(uid) && !fields[5].is_empty()).then(|| fields[5].to_owned())
    };
    passwd.lines().find_map(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_whole_entry_of_the_user_counts() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:x:7\nwww:x:7:7::/srv:/bin/false\nalso:x:7:7::/no:/bin/sh\n";
        assert_eq!(directory(passwd, 7).as_deref(), Some("/srv"));
        assert_eq!(directory(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(directory(passwd, 8), None);
    }
}
