//! Stopping all processes of a cgroup where they are, and letting them go on.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::hierarchy::{Hierarchy, Kind};
use super::value::write;
use super::{gone, hierarchies};
use crate::error::{Error, ErrorKind};
use crate::small_file;

/// What lets the processes of a v1 freezer run.
const THAWED: &str = "THAWED";

/// A process that is on its way into the kernel freezes when it comes back; longer than this is not waited.
const DEADLINE: Duration = Duration::from_secs(10);

/// Freezes all processes of the cgroup and below; returns when they stand still. One that cannot be frozen in time
/// leaves all of them running.
pub fn freeze(path: &Path) -> Result<(), Error> {
    freeze_within(path, DEADLINE)
}

/// The same, with this much time.
pub fn freeze_within(path: &Path, limit: Duration) -> Result<(), Error> {
    let end = Instant::now() + limit;
    let all = hierarchies()?;
    let v1 = all.iter().find(|hierarchy| hierarchy.controls("freezer"));
    let unified = all.iter().find(|hierarchy| hierarchy.kind == Kind::Unified);
    let frozen = match (v1, unified) {
        _ if path.as_os_str().is_empty() => Err(no_freezer()),
        (Some(hierarchy), _) => freeze_v1(&hierarchy.dir(path), end),
        (None, Some(hierarchy)) => freeze_v2(&hierarchy.dir(path), end),
        (None, None) => Err(no_freezer()),
    };
    frozen.inspect_err(|_| {
        let _ = thaw(path);
    })
}

/// The directory by which the processes of the cgroup are frozen.
pub fn freezer(path: &Path) -> Option<PathBuf> {
    let freezers = freezers(path).unwrap_or_default();
    let v1 = freezers.iter().find(|freezer| freezer.thawed == THAWED);
    let file = &v1.or(freezers.first())?.file;
    file.exists().then(|| file.parent().map(Path::to_owned)).flatten()
}

fn no_freezer() -> Error {
    Error::new(ErrorKind::Unsupported, "there is no cgroup freezer")
}

fn not_in_time(dir: &Path) -> Error {
    Error::internal(format!("the processes of cgroup {} did not freeze in time", dir.display()))
}

fn freeze_v2(dir: &Path, end: Instant) -> Result<(), Error> {
    let (freeze, events) = (dir.join("cgroup.freeze"), dir.join("cgroup.events"));
    let mut file = File::open(&events).map_err(|error| match gone(&error) {
        // As for a user who may make none, and whose container asked for no limit.
        true => {
            Error::new(ErrorKind::Unsupported, format!("the container has no cgroup of its own ({})", dir.display()))
        }
        false => Error::io(format!("open {}", events.display()), error),
    })?;
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
fn freeze_v1(dir: &Path, end: Instant) -> Result<(), Error> {
    let file = dir.join("freezer.state");
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

/// The file of the freezer in each hierarchy that has one, and how it says that the cgroup itself is frozen, which is
/// not the same as with one above it, and that it may run.
fn freezers(path: &Path) -> Result<Vec<Freezer>, Error> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let freezer = |hierarchy: &Hierarchy| {
        let dir = hierarchy.dir(path);
        if hierarchy.kind == Kind::Unified {
            let file = dir.join("cgroup.freeze");
            return Some(Freezer { state: file.clone(), file, thawed: "0" });
        }
        let freezer =
            Freezer { state: dir.join("freezer.self_freezing"), file: dir.join("freezer.state"), thawed: THAWED };
        hierarchy.controls("freezer").then_some(freezer)
    };
    Ok(hierarchies()?.iter().filter_map(freezer).collect())
}

struct Freezer {
    /// Holds 1 when the cgroup itself is frozen.
    state: PathBuf,
    file: PathBuf,
    /// What is written to the file to let its processes run.
    thawed: &'static str,
}

/// Whether the cgroup is frozen.
pub fn is_frozen(path: &Path) -> bool {
    let says_one = |file: &Path| small_file::read_text(file).is_ok_and(|text| text.trim() == "1");
    freezers(path).into_iter().flatten().any(|freezer| says_one(&freezer.state))
}

/// Lets frozen processes run, so that they can end. A cgroup that goes away meanwhile has none.
pub fn thaw(path: &Path) -> Result<(), Error> {
    for Freezer { file, thawed, .. } in freezers(path)? {
        // An older kernel, and a cgroup that is gone, have no such file.
        match write(&file, thawed) {
            Err(error) if !gone(&error) => {
                return Err(Error::io(format!("write {thawed} to {}", file.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}
