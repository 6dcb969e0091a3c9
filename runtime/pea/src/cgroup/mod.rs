//! Control groups: finding, reading, joining, ending and removing them.
//!
//! A cgroup is named by one absolute path, the same in every hierarchy of the machine. Three layouts are served: one
//! hierarchy a controller (v1), the same with a unified one beside it (hybrid), and the unified one alone (v2).

#[allow(dead_code)] // until the engine uses it
mod create;
#[allow(dead_code)] // until the engine uses it
mod delegate;
pub(crate) mod devices;
mod hierarchy;
mod kill;
#[allow(dead_code)] // until the engine uses it
mod plan;
#[allow(dead_code)] // until the engine uses it
mod resources;
mod stats;
pub(crate) mod swap;
#[allow(dead_code)] // until the engine uses it
mod value;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use hierarchy::{Hierarchy, Kind, all as hierarchies};
#[allow(unused_imports)]
pub(crate) use plan::Plan;
pub(crate) use stats::read as stats;

use crate::error::{Error, ErrorKind};

/// How long a dying process may keep its cgroup busy.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(2);

/// Removes the cgroup at this `cgroupsPath` and its empty children, in every hierarchy.
///
/// Succeeds when there is none; fails when a process still lives in it.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    checked(path)?;
    let end = Instant::now() + REMOVAL_DEADLINE;
    let mut failure = None;
    // Every hierarchy gets its turn, whatever happened in the one before.
    for hierarchy in hierarchies()? {
        if let Err(error) = remove_dir(&hierarchy.dir(path), end) {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Sends SIGKILL to every process in the cgroup at this `cgroupsPath` and below, in any hierarchy,
/// and waits (a few seconds at most) until they have ended.
pub fn kill_tree(path: &Path) -> Result<(), Error> {
    checked(path)?;
    kill::kill_tree(path)
}

/// Refuses a path that is not one of a cgroup below the root: the root holds every process of the machine.
pub(crate) fn checked(path: &Path) -> Result<(), Error> {
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    let names = components.clone().count();
    if absolute && names > 0 && components.all(|each| matches!(each, Component::Normal(_))) {
        return Ok(());
    }
    Err(Error::spec(format!("linux.cgroupsPath: {} is not an absolute path below the root", path.display())))
}

/// Where systemd keeps the unit of a `slice:prefix:name` (its own spelling of `cgroupsPath`).
pub(crate) fn systemd_path(given: &str, id: &str) -> Result<PathBuf, Error> {
    let mut parts = given.split(':');
    let (slice, prefix, name) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None | Some(""), None, ..) => ("", "pea", id),
        (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
        _ => return Err(Error::spec(format!("linux.cgroupsPath: {given:?} is not slice:prefix:name"))),
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let stem = slice
        .strip_suffix(".slice")
        .filter(|stem| !stem.contains('/'))
        .ok_or_else(|| Error::spec(format!("linux.cgroupsPath: {slice:?} is not the name of a slice")))?;
    let mut path = PathBuf::from("/");
    if stem != "-" {
        // a-b.slice lies in a.slice (systemd.slice(5)).
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            path.push(format!("{}.slice", &stem[..end]));
        }
    }
    match (name.ends_with(".slice"), prefix.is_empty()) {
        (true, _) => path.push(name),
        (false, true) => path.push(format!("{name}.scope")),
        (false, false) => path.push(format!("{prefix}-{name}.scope")),
    }
    checked(&path)?;
    Ok(path)
}

/// Makes the cgroup, for the calling process, in the hierarchies the engine leaves out: systemd's named one, and the
/// unified one beside v1 controllers. With them one file kills and counts all, and tools find the container.
pub(crate) fn join_uncontrolled(path: &Path) -> Result<(), Error> {
    let all = hierarchies()?;
    let hybrid = all.iter().any(|hierarchy| hierarchy.kind == Kind::Controllers);
    for hierarchy in all.iter().filter(|hierarchy| hybrid && hierarchy.kind != Kind::Controllers) {
        let dir = hierarchy.dir(path);
        let joined = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("cgroup.procs"), "0"));
        match joined {
            Ok(()) => {}
            // It controls nothing, so nothing is lost where it may not be written.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) => {}
            Err(error) => return Err(Error::io(format!("join cgroup {}", dir.display()), error)),
        }
    }
    Ok(())
}

/// Takes the calling process back from where [`join_uncontrolled`] put it, so that the cgroup can be removed.
/// `before` is its /proc/self/cgroup of then.
pub(crate) fn leave_uncontrolled(before: &str) {
    for hierarchy in hierarchies().into_iter().flatten().filter(|hierarchy| hierarchy.kind != Kind::Controllers) {
        if let Some(path) = hierarchy.member_of(before) {
            // What cannot be left shows when it cannot be removed.
            let _ = fs::write(hierarchy.dir(&path).join("cgroup.procs"), "0");
        }
    }
}

/// Moves the calling process into the container's cgroups: where the container was put, or, where its processes have
/// since been distributed over children (v2 allows none in between), beside its init.
pub(crate) fn join(path: &Path, init: i32) -> Result<(), Error> {
    let of_init = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap_or_default();
    for hierarchy in hierarchies()? {
        let dir = hierarchy.dir(path);
        let Err(error) = fs::write(dir.join("cgroup.procs"), "0") else { continue };
        if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::EOPNOTSUPP)) {
            let Some(beside) = hierarchy.member_of(&of_init) else { continue };
            let dir = hierarchy.dir(&beside);
            fs::write(dir.join("cgroup.procs"), "0")
                .map_err(|error| Error::io(format!("join cgroup {}", dir.display()), error))?;
            continue;
        }
        return Err(Error::io(format!("join cgroup {}", dir.display()), error));
    }
    Ok(())
}

/// Every process in the cgroup and below, in any hierarchy; sorted.
pub(crate) fn pids(path: &Path) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    for hierarchy in hierarchies()? {
        collect(&hierarchy.dir(path), &mut pids)?;
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    let file = dir.join("cgroup.procs");
    match fs::read_to_string(&file) {
        // 0 stands for a process of another pid namespace, whom we have no name for.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // Gone, or a group of threads, whose processes are listed above it.
        Err(error) if gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(Error::io(format!("read {}", file.display()), error)),
    }
    children(dir)?.iter().try_for_each(|child| collect(child, pids))
}

/// The child groups; none where the group is gone.
fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if gone(&error) => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("read {}", dir.display()), error)),
    }
}

/// Whether the group a call was about does not exist (any more).
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn remove_dir(dir: &Path, end: Instant) -> Result<(), Error> {
    for child in children(dir)? {
        remove_dir(&child, end)?;
    }
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => error,
        };
        let mut members = Vec::new();
        collect(dir, &mut members)?;
        if error.raw_os_error() != Some(libc::EBUSY) || !members.is_empty() || Instant::now() >= end {
            let text =
                format!("remove cgroup {}: {} (processes: {members:?})", dir.display(), crate::error::reason(&error));
            let kind = if members.is_empty() { ErrorKind::Internal } else { ErrorKind::Busy };
            return Err(Error::new(kind, text));
        }
        // Empty, yet busy: its last process is on its way through the kernel's exit, for which v1 has no event.
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether all processes of the cgroup are frozen.
pub(crate) fn is_frozen(path: &Path) -> bool {
    let frozen = |hierarchy: &Hierarchy| {
        let dir = hierarchy.dir(path);
        let v1 = fs::read_to_string(dir.join("freezer.state")).is_ok_and(|text| text.trim() != "THAWED");
        v1 || fs::read_to_string(dir.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    };
    hierarchies().is_ok_and(|all| all.iter().any(frozen))
}

/// Lets frozen processes run, so that they can end. A cgroup that goes away meanwhile has none.
pub(crate) fn thaw(path: &Path) -> Result<(), Error> {
    for hierarchy in hierarchies()? {
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = hierarchy.dir(path).join(file);
            // Opened and not created: elsewhere, and in a cgroup that is gone, there is no such file.
            let written = File::options().write(true).open(&file).and_then(|mut file| file.write_all(value.as_bytes()));
            match written {
                Err(error) if !gone(&error) => return Err(Error::io(format!("write {}", file.display()), error)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_paths_that_lead_there_are_refused() {
        for path in ["", "/", "a", "/a/../..", "/a/../b"] {
            checked(Path::new(path)).expect_err(path);
        }
        checked(Path::new("/a/b")).expect("a path");
        checked(Path::new("/kubepods/burstable/pod1")).expect("a path");
    }

    #[test]
    fn slices_nest_by_their_dashes() {
        let path = |given| systemd_path(given, "id").map(|path| path.display().to_string()).map_err(|e| e.to_string());
        assert_eq!(
            path("kubepods-burstable.slice:cri:x").as_deref(),
            Ok("/kubepods.slice/kubepods-burstable.slice/cri-x.scope")
        );
        assert_eq!(path("").as_deref(), Ok("/system.slice/pea-id.scope"));
        assert_eq!(path("-.slice::x").as_deref(), Ok("/x.scope"));
        path("/a/b").expect_err("a path is not a unit");
        path("no:pre:x").expect_err("not a slice");
    }
}
