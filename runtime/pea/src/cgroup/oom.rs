//! Hearing of processes that were killed because their cgroup ran out of memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::hierarchy::Layout;
use super::value::write;
use crate::error::{Error, ErrorKind};
use crate::stats::CgroupVersion;
use crate::sys::notify;

/// The file of v2 with the counts, those of the cgroups below included.
const EVENTS: &str = "memory.events";
/// Its line that counts killed processes.
const KILLS: &str = "oom_kill";

/// A descriptor that tells when a process of a container is killed for want of memory, for an event loop;
/// [`read`](Self::read) then tells more.
///
/// Of v2 it is the file of counts itself: what cgroup-v2.rst calls a file modified event wakes whoever polls the file, too
/// (kernfs_generic_poll()). inotify would tell as much, but a user has 128 instances of it by default.
#[derive(Debug)]
pub struct OomWatch {
    /// v1: an eventfd; v2: `memory.events`.
    file: File,
    source: Source,
}

/// What an [`OomWatch`] has to tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OomEvents {
    /// How often it has happened since it was last asked.
    pub count: u64,
    /// Whether the cgroup is gone, and with it (v2) what had not been asked for. Nothing more will come.
    pub ended: bool,
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

    fn v2(dir: PathBuf) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("watch {EVENTS} of {}", dir.display()), error);
        let file = File::open(dir.join(EVENTS)).map_err(failed)?;
        // News are what comes after a reading by this very descriptor.
        let seen = kills(&file).map_err(failed)?.unwrap_or(0);
        Ok(Self { file, source: Source::V2 { dir, seen } })
    }

    /// Whether the descriptor tells by being in an exceptional condition (`POLLPRI`), and not by having something to read.
    pub fn tells_by_priority(&self) -> bool {
        matches!(self.source, Source::V2 { .. })
    }

    /// The cgroup that this one lies in, where that one counts what happens in this one, too (v2), and goes on doing so when
    /// this one is gone.
    pub fn above(&self) -> Option<&Path> {
        match &self.source {
            Source::V1 { .. } => None,
            Source::V2 { dir, .. } => dir.parent(),
        }
    }

    /// What has happened since it was last asked. Never waits.
    pub fn read(&mut self) -> Result<OomEvents, Error> {
        let failed = |error| Error::io("read how many processes were killed for want of memory", error);
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
                Ok(OomEvents { count: count.saturating_sub(ended.into()), ended })
            }
            Source::V2 { seen, .. } => {
                let Some(now) = kills(&self.file).map_err(failed)? else {
                    return Ok(OomEvents { count: 0, ended: true });
                };
                let count = now.saturating_sub(*seen);
                *seen = now;
                Ok(OomEvents { count, ended: false })
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How many processes have been killed for want of memory in a cgroup of v2 and below it, as of now. None where that is not
/// counted, as in the root, and when the cgroup is gone.
pub fn oom_kills(dir: &Path) -> Option<u64> {
    kills(&File::open(dir.join(EVENTS)).ok()?).ok().flatten()
}

/// None when the cgroup is gone.
fn kills(events: &File) -> io::Result<Option<u64>> {
    let mut text = [0; 4096];
    match events.read_at(&mut text, 0) {
        Ok(length) => Ok(Some(value(&text[..length]).unwrap_or(0))),
        Err(error) if super::gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The count of kills among lines of "key value".
fn value(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix(KILLS)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write_events(dir: &Path, kills: u32) {
        fs::write(dir.join(EVENTS), format!("low 0\noom 9\noom_kill {kills}\noom_group_kill 3\n")).expect("a file");
    }

    #[test]
    fn kills_are_counted_from_when_it_was_last_asked() {
        let dir = testkit::scratch();
        write_events(dir.path(), 2);
        assert_eq!(oom_kills(dir.path()), Some(2));
        let mut watch = OomWatch::v2(dir.path().to_owned()).expect("a watch");
        assert_eq!(watch.read(), Ok(OomEvents::default()));
        write_events(dir.path(), 13);
        assert_eq!(watch.read(), Ok(OomEvents { count: 11, ended: false }));
        assert_eq!(watch.read(), Ok(OomEvents::default()));
        assert_eq!(oom_kills(&dir.path().join("absent")), None);
    }
}
