//! Hearing of processes that were killed because their cgroup ran out of memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::hierarchy::Layout;
use super::value::write;
use crate::error::{Error, ErrorKind};
use crate::stats::CgroupVersion;
use crate::sys::notify;

/// A descriptor that becomes readable when a process of a container is killed for want of memory, for an event loop;
/// [`read`](Self::read) then tells more.
#[derive(Debug)]
pub struct OomWatch {
    /// v1: an eventfd; v2: inotify.
    file: File,
    source: Source,
}

/// What an [`OomWatch`] has to tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OomEvents {
    /// How often it has happened since it was last asked.
    pub count: u64,
    /// Whether the cgroup is gone (with v2: or has no process any more). Nothing more will come.
    pub ended: bool,
    /// Where the cgroup is gone, how often it has happened in the one above since this one could last be read. systemd
    /// removes a scope as soon as its last process has ended, and the count with it; then this is all there is to tell
    /// whether that process was killed so. Others below the one above count too.
    pub above: u64,
}

#[derive(Debug)]
enum Source {
    V1 {
        dir: PathBuf,
        /// What the notification was asked for by; it is given up when this is closed.
        _control: File,
    },
    V2 {
        dir: PathBuf,
        /// The kernel's counter when it was last read.
        seen: u64,
        /// That of the cgroup above, which counts what happens below it, at the same time.
        seen_above: Option<u64>,
    },
}

impl OomWatch {
    /// Watches the cgroup at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let layout = Layout::read()?;
        match layout.home_of("memory").filter(|_| !path.as_os_str().is_empty()) {
            Some((hierarchy, CgroupVersion::V1)) => Self::v1(hierarchy.dir(path)),
            Some((hierarchy, CgroupVersion::V2)) => Self::v2(hierarchy.dir(path)),
            None => Err(Error::new(ErrorKind::Unsupported, "there is no memory cgroup controller")),
        }
    }

    /// memory.rst, "OOM Control".
    fn v1(dir: PathBuf) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("ask to be told of what happens in {}", dir.display()), error);
        let control = File::open(dir.join("memory.oom_control")).map_err(failed)?;
        let file = File::from(notify::eventfd().map_err(failed)?);
        let request = format!("{} {}", file.as_raw_fd(), control.as_raw_fd());
        write(&dir.join("cgroup.event_control"), &request).map_err(failed)?;
        Ok(Self { file, source: Source::V1 { dir, _control: control } })
    }

    /// cgroup-v2.rst: a changed `memory.events` or `cgroup.events` is a modified file.
    fn v2(dir: PathBuf) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("watch the events of {}", dir.display()), error);
        let inotify = notify::inotify().map_err(failed)?;
        for name in ["memory.events", "cgroup.events"] {
            notify::watch_modified(inotify.as_fd(), &dir.join(name)).map_err(failed)?;
        }
        let seen_above = kills_above(&dir);
        let seen = kills(&dir).map_err(failed)?.unwrap_or(0);
        Ok(Self { file: inotify.into(), source: Source::V2 { dir, seen, seen_above } })
    }

    /// What has happened since it was last asked. Never waits.
    pub fn read(&mut self) -> Result<OomEvents, Error> {
        let failed = |error| Error::io("read notifications of a cgroup", error);
        match &mut self.source {
            Source::V1 { dir, .. } => {
                let mut bytes = [0; 8];
                let count = match self.file.read(&mut bytes) {
                    Ok(_) => u64::from_ne_bytes(bytes),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(failed(error)),
                };
                let ended = !dir.exists();
                // The end is a notification too.
                Ok(OomEvents { count: count.saturating_sub(ended.into()), ended, above: 0 })
            }
            Source::V2 { dir, seen, seen_above } => {
                let mut buffer = [0; 4096];
                while self.file.read(&mut buffer).is_ok_and(|length| length > 0) {}
                let populated = value(&dir.join("cgroup.events"), "populated").map_err(failed)?;
                // First: what happens between is told twice, and not never.
                let now_above = kills_above(dir);
                let Some(now) = kills(dir).map_err(failed)? else {
                    let above = now_above.zip(*seen_above).map_or(0, |(now, seen)| now.saturating_sub(seen));
                    return Ok(OomEvents { count: 0, ended: true, above });
                };
                let count = now.saturating_sub(*seen);
                (*seen, *seen_above) = (now, now_above);
                Ok(OomEvents { count, ended: populated.unwrap_or(0) == 0, above: 0 })
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn kills(dir: &Path) -> io::Result<Option<u64>> {
    value(&dir.join("memory.events"), "oom_kill")
}

/// The root has no counter.
fn kills_above(dir: &Path) -> Option<u64> {
    kills(dir.parent()?).ok().flatten()
}

/// A value of a file of "key value" lines; none when the cgroup is gone.
fn value(file: &Path, key: &str) -> io::Result<Option<u64>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())),
        Err(error) if super::gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_events(dir: &Path, kills: u32, populated: u32) {
        fs::write(dir.join("memory.events"), format!("low 0\noom 9\noom_kill {kills}\n")).expect("a file");
        fs::write(dir.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n")).expect("a file");
    }

    #[test]
    fn kills_are_counted_from_when_it_was_last_asked() {
        let dir = testkit::scratch();
        let events = |kills, populated| write_events(dir.path(), kills, populated);
        events(2, 1);
        let mut watch = OomWatch::v2(dir.path().to_owned()).expect("a watch");
        assert_eq!(watch.read(), Ok(OomEvents::default()));
        events(3, 1);
        let news = nix::poll::PollFd::new(watch.as_fd(), nix::poll::PollFlags::POLLIN);
        assert_eq!(nix::poll::poll(&mut [news], 1000_u16), Ok(1));
        assert_eq!(watch.read(), Ok(OomEvents { count: 1, ..OomEvents::default() }));
        events(4, 0);
        assert_eq!(watch.read(), Ok(OomEvents { count: 1, ended: true, above: 0 }));
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
        assert_eq!(watch.read(), Ok(OomEvents { count: 0, ended: true, above: 0 }));
    }

    #[test]
    fn the_cgroup_above_tells_what_the_removed_one_no_longer_can() {
        let above = testkit::scratch();
        let dir = above.path().join("scope");
        fs::create_dir(&dir).expect("a directory");
        write_events(above.path(), 5, 1);
        write_events(&dir, 2, 1);
        let mut watch = OomWatch::v2(dir.clone()).expect("a watch");
        write_events(above.path(), 6, 1);
        assert_eq!(watch.read(), Ok(OomEvents::default()), "another's, and the cgroup is there");
        fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(watch.read(), Ok(OomEvents { count: 0, ended: true, above: 0 }), "told before");
        write_events(above.path(), 7, 0);
        let last = OomEvents { count: 0, ended: true, above: 1 };
        assert_eq!([watch.read(), watch.read()], [Ok(last), Ok(last)]);
    }
}
