//! Making a cgroup in one hierarchy, and moving a process into it.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use super::above;
use super::hierarchy::{Hierarchy, Kind, Layout};
use super::value::{Value, write};
use crate::error::{Error, ErrorKind, reason};
use crate::small_file;

/// Those that can be used in a group of threads (cgroup-v2.rst, "Threads").
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// Controllers of the unified hierarchy.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Controllers {
    /// To be enabled where they can be.
    pub wanted: Vec<String>,
    /// Those without which a value cannot be set, each with the key of the value.
    pub needed: Vec<(String, String)>,
}

/// Makes the cgroup at `path` with all above it. In the unified hierarchy enables controllers, and returns its
/// directory unless it is a group of threads, into which no process can be cloned.
pub fn make(hierarchy: &Hierarchy, path: &Path, controllers: &Controllers) -> Result<Option<OwnedFd>, Error> {
    let above = path.parent().map(|above| hierarchy.dir(above));
    // A container that is deleted meanwhile takes along what it has made above, if nobody is there yet.
    let was_removed = || above.as_ref().is_some_and(|above| !above.exists());
    let mut result = make_once(hierarchy, path, controllers);
    for _ in 0..10 {
        if result.is_ok() || !was_removed() {
            break;
        }
        result = make_once(hierarchy, path, controllers);
    }
    result
}

fn make_once(hierarchy: &Hierarchy, path: &Path, controllers: &Controllers) -> Result<Option<OwnedFd>, Error> {
    if hierarchy.kind == Kind::Unified {
        return make_unified(hierarchy, path, controllers);
    }
    let dir = hierarchy.dir(path);
    if !hierarchy.controls("cpuset") && fs::create_dir(&dir).is_ok() {
        return Ok(None);
    }
    for level in levels(hierarchy.root(), path) {
        if make_dir(&level)? && level != dir {
            above::mark(&level);
        }
        if hierarchy.controls("cpuset") {
            inherit_cpuset(&level)?;
        }
    }
    Ok(None)
}

fn cannot_make(dir: &Path, error: io::Error) -> Error {
    let refused = error.raw_os_error() == Some(libc::EROFS);
    let error = Error::io(format!("make cgroup {}", dir.display()), error);
    // A file system that is mounted read-only, as in a container, gives no permission either.
    match refused {
        true => Error::new(ErrorKind::Permission, format!("{error} (--cgroup-manager=disabled makes none)")),
        false => error,
    }
}

/// Makes a directory; false when it was there.
fn make_dir(dir: &Path) -> Result<bool, Error> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) if dir.is_dir() => Ok(false),
        Err(error) => Err(cannot_make(dir, error)),
    }
}

/// The directories from below the root down to `path`.
fn levels(root: &Path, path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let below = names.scan(root.to_owned(), |dir, name| {
        dir.push(name);
        Some(dir.clone())
    });
    below.collect()
}

/// A v1 cpuset starts empty, and then nobody can join it; its parent's is what it would have been anyway.
fn inherit_cpuset(dir: &Path) -> Result<(), Error> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, above) = (dir.join(file), parent.join(file));
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| Error::io(format!("read {}", path.display()), error))
        };
        if read(&own)?.trim().is_empty() {
            let value = read(&above)?;
            write(&own, value.trim())
                .map_err(|error| Error::io(format!("write {} to {}", value.trim(), own.display()), error))?;
        }
    }
    Ok(())
}

fn make_unified(hierarchy: &Hierarchy, path: &Path, controllers: &Controllers) -> Result<Option<OwnedFd>, Error> {
    let own = hierarchy.dir(path);
    let mut above = hierarchy.root().to_owned();
    let mut threaded = false;
    for dir in levels(hierarchy.root(), path) {
        enable(&above, controllers)?;
        if make_dir(&dir)? && dir != own {
            above::mark(&dir);
        }
        threaded = settle_type(&dir, controllers)?;
        above = dir;
    }
    if threaded {
        return Ok(None);
    }
    let opened = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&above);
    opened.map(|file| Some(file.into())).map_err(|error| Error::io(format!("open cgroup {}", above.display()), error))
}

/// Makes controllers available to the children of a cgroup.
fn enable(dir: &Path, controllers: &Controllers) -> Result<(), Error> {
    let list = |file: &str| small_file::read_text(dir.join(file)).unwrap_or_default();
    let enabled = list("cgroup.subtree_control");
    let is_missing = |name: &&String| !enabled.split_whitespace().any(|each| each == **name);
    let missing: Vec<&String> = controllers.wanted.iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let file = dir.join("cgroup.subtree_control");
    let available = list("cgroup.controllers");
    let (possible, lacking): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|name| available.split_whitespace().any(|each| each == **name));
    for name in lacking {
        if let Some(key) = controllers.key_of(name) {
            let text = format!("{key}: the {name} controller is not available in cgroup {}", dir.display());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
    }
    let all = possible.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    if all.is_empty() || write(&file, &all).is_ok() {
        return Ok(());
    }
    // One that cannot be enabled must not keep the others from it.
    for name in possible {
        let Err(error) = write(&file, &format!("+{name}")) else { continue };
        if let Some(key) = controllers.key_of(name) {
            let advice = match error.raw_os_error() {
                Some(libc::EBUSY) => " (processes live in that cgroup, so its children can have no such controller)",
                _ => "",
            };
            let text = format!("{key}: write +{name} to {}: {}{advice}", file.display(), reason(&error));
            return Err(Error::new(Error::io("", error).kind(), text));
        }
    }
    Ok(())
}

impl Controllers {
    /// For these values of the cgroup at `dir`. With the unified hierarchy alone all there are, as statistics are wanted
    /// of all; beside v1 controllers those that values need.
    pub fn new(layout: &Layout, values: &[Value], dir: &Path) -> Self {
        let needed = values.iter().filter_map(|value| value.needs(dir));
        let needed: Vec<_> = needed.map(|(controller, key)| (controller.to_owned(), key.to_owned())).collect();
        let wanted = match layout.is_unified_alone() {
            true => layout.unified_controllers().to_vec(),
            false => needed.iter().map(|(controller, _)| controller.clone()).collect(),
        };
        Self { wanted, needed }
    }

    fn key_of(&self, controller: &str) -> Option<&str> {
        self.needed.iter().find(|(name, _)| name == controller).map(|(_, key)| key.as_str())
    }
}

/// Below a cgroup in which processes live, or in a group of threads, there can only be a group of threads, with the
/// controllers that know about threads. Returns whether it is one.
fn settle_type(dir: &Path, controllers: &Controllers) -> Result<bool, Error> {
    let file = dir.join("cgroup.type");
    let kind = small_file::read_text(&file).unwrap_or_default();
    let kind = kind.trim();
    if !matches!(kind, "domain invalid" | "threaded") {
        return Ok(false);
    }
    if let Some((name, key)) = controllers.needed.iter().find(|(name, _)| !THREADED.contains(&name.as_str())) {
        let text = format!(
            "{key}: cgroup {} is \"{kind}\", and the {name} controller does not work there (a cgroup above it has \
             processes of its own)",
            dir.display()
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if kind == "domain invalid" {
        write(&file, "threaded").map_err(|error| Error::io(format!("write threaded to {}", file.display()), error))?;
    }
    Ok(true)
}

/// The text of /proc/PID/cgroup.
pub fn membership(pid: i32) -> Result<String, Error> {
    let path = format!("/proc/{pid}/cgroup");
    small_file::read_text(&path).map_err(|error| Error::io(format!("read {path}"), error))
}

/// Moves a process.
pub fn join(dir: &Path, pid: i32) -> Result<(), Error> {
    let file = dir.join("cgroup.procs");
    write(&file, &pid.to_string()).map_err(|error| {
        let advice = match error.raw_os_error() {
            // It was not made for want of permission, which then decides.
            Some(libc::ENOENT) if !dir.is_dir() => {
                return Error::new(ErrorKind::Permission, format!("cgroup {} could not be made", dir.display()));
            }
            Some(libc::EBUSY) => " (it has controllers enabled for its children)",
            _ => "",
        };
        let text = format!("write {pid} to {}: {}{advice}", file.display(), reason(&error));
        Error::new(Error::io("", error).kind(), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with files of a cgroup.
    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = testkit::scratch();
        for (file, text) in files {
            fs::write(dir.path().join(file), text).expect("a file");
        }
        dir
    }

    fn controllers(wanted: &[&str], needed: &[&str]) -> Controllers {
        let needed = needed.iter().map(|name| ((*name).to_owned(), format!("linux.resources.{name}")));
        Controllers { wanted: wanted.iter().map(|&name| name.to_owned()).collect(), needed: needed.collect() }
    }

    #[test]
    fn only_what_is_not_enabled_yet_is_enabled() {
        let dir = group(&[("cgroup.controllers", "cpu io memory\n"), ("cgroup.subtree_control", "cpu\n")]);
        enable(dir.path(), &controllers(&["cpu", "memory", "pids"], &["memory"])).expect("enabled");
        let written = fs::read_to_string(dir.path().join("cgroup.subtree_control")).expect("a file");
        assert_eq!(written, "+memory");
    }

    #[test]
    fn a_needed_controller_that_is_not_available_is_an_error_with_its_key() {
        let dir = group(&[("cgroup.controllers", "cpu\n"), ("cgroup.subtree_control", "\n")]);
        let error = enable(dir.path(), &controllers(&["memory"], &["memory"])).expect_err("no memory").to_string();
        assert!(error.starts_with("linux.resources.memory: the memory controller is not available in"), "{error}");
    }

    #[test]
    fn below_processes_there_are_only_threads() {
        let dir = group(&[("cgroup.type", "domain invalid\n")]);
        let error = settle_type(dir.path(), &controllers(&[], &["pids", "memory"])).expect_err("memory").to_string();
        assert!(error.starts_with("linux.resources.memory: cgroup"), "{error}");
        assert_eq!(settle_type(dir.path(), &controllers(&[], &["pids"])), Ok(true));
        assert!(fs::read_to_string(dir.path().join("cgroup.type")).expect("a file").starts_with("threaded"));
        let dir = group(&[("cgroup.type", "domain\n")]);
        assert_eq!(settle_type(dir.path(), &controllers(&[], &["memory"])), Ok(false));
    }

    #[test]
    fn an_empty_cpuset_gets_its_parents() {
        let dir = group(&[("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")]);
        let child = dir.path().join("child");
        fs::create_dir(&child).expect("a directory");
        fs::write(child.join("cpuset.cpus"), "1\n").expect("a file");
        fs::write(child.join("cpuset.mems"), "\n").expect("a file");
        inherit_cpuset(&child).expect("inherited");
        assert_eq!(fs::read_to_string(child.join("cpuset.cpus")).expect("a file"), "1\n");
        assert!(fs::read_to_string(child.join("cpuset.mems")).expect("a file").starts_with('0'));
    }

    #[test]
    fn each_level_is_named() {
        let names: Vec<_> =
            levels(Path::new("/r"), Path::new("/a/b")).iter().map(|dir| dir.display().to_string()).collect();
        assert_eq!(names, ["/r/a", "/r/a/b"]);
    }
}
