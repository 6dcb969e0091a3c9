//! Stopping all processes of a cgroup where they are, and letting them go on.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::hierarchy::Kind;
use super::value::write;
use super::{dirs, gone, hierarchies};
use crate::error::{Error, ErrorKind};

/// A process that is on its way into the kernel freezes when it comes back; longer than this is not waited.
const DEADLINE: Duration = Duration::from_secs(10);

/// Freezes all processes of the cgroup and below; returns when they stand still. One that cannot be frozen in time
/// leaves all of them running.
pub fn freeze(path: &Path) -> Result<(), Error> {
    let all = hierarchies()?;
    let v1 = all.iter().find(|hierarchy| hierarchy.controls("freezer"));
    let unified = all.iter().find(|hierarchy| hierarchy.kind == Kind::Unified);
    let frozen = match (v1, unified) {
        _ if path.as_os_str().is_empty() => Err(no_freezer()),
        (Some(hierarchy), _) => freeze_v1(&hierarchy.dir(path)),
        (None, Some(hierarchy)) => freeze_v2(&hierarchy.dir(path)),
        (None, None) => Err(no_freezer()),
    };
    frozen.inspect_err(|_| {
        let _ = thaw(path);
    })
}

fn no_freezer() -> Error {
    Error::new(ErrorKind::Unsupported, "there is no cgroup freezer")
}

fn not_in_time(dir: &Path) -> Error {
    Error::internal(format!("the processes of cgroup {} did not freeze within {DEADLINE:?}", dir.display()))
}

fn freeze_v2(dir: &Path) -> Result<(), Error> {
    let (freeze, events) = (dir.join("cgroup.freeze"), dir.join("cgroup.events"));
    let end = Instant::now() + DEADLINE;
    let mut file = File::open(&events).map_err(|error| Error::io(format!("open {}", events.display()), error))?;
    write(&freeze, "1").map_err(|error| Error::io(format!("write 1 to {}", freeze.display()), error))?;
    loop {
        // Read before it is polled: what has been read is no news.
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.map_err(|error| Error::io(format!("read {}", events.display()), error))?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], left) == Ok(0) {
            return Err(not_in_time(dir));
        }
    }
}

/// The v1 freezer goes through the group once, and only again when it is told to, or asked for its state: a process
/// that was just being made may have been missed. It tells nobody when it is done.
fn freeze_v1(dir: &Path) -> Result<(), Error> {
    let file = dir.join("freezer.state");
    let end = Instant::now() + DEADLINE;
    let mut pause = Duration::from_micros(50);
    loop {
        write(&file, "FROZEN").map_err(|error| Error::io(format!("write FROZEN to {}", file.display()), error))?;
        let state = fs::read_to_string(&file).map_err(|error| Error::io(format!("read {}", file.display()), error))?;
        if state.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(not_in_time(dir));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Whether the cgroup itself was frozen; with one above it is another matter.
pub fn is_frozen(path: &Path) -> bool {
    let says_one = |file: &Path| fs::read_to_string(file).is_ok_and(|text| text.trim() == "1");
    dirs(path)
        .into_iter()
        .flatten()
        .any(|dir| says_one(&dir.join("freezer.self_freezing")) || says_one(&dir.join("cgroup.freeze")))
}

/// Lets frozen processes run, so that they can end. A cgroup that goes away meanwhile has none.
pub fn thaw(path: &Path) -> Result<(), Error> {
    for dir in dirs(path)? {
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = dir.join(file);
            // Elsewhere, and in a cgroup that is gone, there is no such file.
            match write(&file, value) {
                Err(error) if !gone(&error) => {
                    return Err(Error::io(format!("write {value} to {}", file.display()), error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
