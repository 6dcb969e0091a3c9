//! Which boot this is, and when it began.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// The identity of this boot (`random(4)`), a UUID; none without procfs. Read once, by one read(2).
pub fn id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let mut text = [0; 36];
        File::open("/proc/sys/kernel/random/boot_id").ok()?.read_exact(&mut text).ok()?;
        String::from_utf8(text.to_vec()).ok()
    };
    ID.get_or_init(read).as_deref()
}

/// A time no file of this boot is older than; none when that cannot be known.
///
/// The clock less the uptime is not enough: a machine without a battery begins in 1970, and a file written before
/// its clock was set would seem to be of an earlier boot. What was made in memory by early boot, in `/dev` and `/run`,
/// has times of that same clock, and its change times cannot be set by anybody.
pub fn began() -> Option<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let by_clock = SystemTime::now().checked_sub(Duration::try_from_secs_f64(uptime).ok()?)?;
    let in_memory = ["/dev", "/run"]
        .into_iter()
        .map(Path::new)
        .filter(|path| statfs(*path).is_ok_and(|file_system| file_system.filesystem_type() == TMPFS_MAGIC));
    let oldest = in_memory.filter_map(oldest_change).min()?;
    Some(oldest.min(by_clock))
}

fn oldest_change(directory: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(directory).ok()?;
    let changed = |entry: std::io::Result<fs::DirEntry>| {
        let changed = entry.ok()?.metadata().ok()?.ctime();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(changed).ok()?))
    };
    entries.filter_map(changed).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_now_is_of_this_boot() {
        assert_eq!(id().map(|id| id.len()), Some(36));
        let dir = testkit::scratch();
        fs::write(dir.path().join("a"), "").unwrap();
        let written = fs::metadata(dir.path().join("a")).unwrap().modified().unwrap();
        assert!(began().is_none_or(|began| began < written));
    }
}
