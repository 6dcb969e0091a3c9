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

    /// cgroup-v2.rst: a changed `memory.events` or `cgroup.events` is a modified file.
    fn v2(dir: PathBuf) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("watch the events of {}", dir.display()), error);
        let inotify = notify::inotify().map_err(failed)?;
        for name in ["memory.events", "cgroup.events"] {
            notify::watch_modified(inotify.as_fd(), &dir.join(name)).map_err(failed)?;
        }
        let seen = kills(&dir).map_err(failed)?.unwrap_or(0);
        Ok(Self { file: inotify.into(), source: Source::V2 { dir, seen } })
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
                Ok(OomEvents { count: count.saturating_sub(ended.into()), ended })
            }
            Source::V2 { dir, seen } => {
                let mut buffer = [0; 4096];
                while self.file.read(&mut buffer).is_ok_and(|length| length > 0) {}
                let populated = value(&dir.join("cgroup.events"), "populated").map_err(failed)?;
                let now = kills(dir).map_err(failed)?.unwrap_or(*seen);
                let count = now.saturating_sub(*seen);
                *seen = now;
                Ok(OomEvents { count, ended: populated.unwrap_or(0) == 0 })
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

    #[test]
    fn kills_are_counted_from_when_it_was_last_asked() {
        let dir = testkit::scratch();
        let events = |kills: u32, populated: u32| {
            fs::write(dir.path().join("memory.events"), format!("low 0\noom 9\noom_kill {kills}\n")).expect("a file");
            fs::write(dir.path().join("cgroup.events"), format!("populated {populated}\nfrozen 0\n")).expect("a file");
        };
        events(2, 1);
        let mut watch = OomWatch::v2(dir.path().to_owned()).expect("a watch");
        assert_eq!(watch.read(), Ok(OomEvents { count: 0, ended: false }));
        events(3, 1);
        let news = nix::poll::PollFd::new(watch.as_fd(), nix::poll::PollFlags::POLLIN);
        assert_eq!(nix::poll::poll(&mut [news], 1000_u16), Ok(1));
        assert_eq!(watch.read(), Ok(OomEvents { count: 1, ended: false }));
        events(4, 0);
        assert_eq!(watch.read(), Ok(OomEvents { count: 1, ended: true }));
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
        assert_eq!(watch.read(), Ok(OomEvents { count: 0, ended: true }));
    }
}
