//! Control groups: finding, reading, joining, ending and removing them.
//!
//! A cgroup is named by one absolute path, the same in every hierarchy of the machine. Three layouts are served: one
//! hierarchy a controller (v1), the same with a unified one beside it (hybrid), and the unified one alone (v2).

mod above;
mod create;
mod delegate;
pub(crate) mod devices;
mod entry;
mod freeze;
mod hierarchy;
mod kill;
mod members;
mod oom;
pub(crate) mod own_way;
mod plan;
mod remove;
mod resources;
mod stats;
pub(crate) mod systemd;
mod update;
mod value;

use std::io;
use std::path::{Component, Path, PathBuf};

pub(crate) use above::remove as remove_above;
pub(crate) use entry::{Entry, Subgroups};
pub(crate) use freeze::{freeze, freezer, is_frozen, thaw};
pub(crate) use hierarchy::{Hierarchy, Kind, Layout, all as hierarchies};
pub(crate) use kill::signal_tree;
pub(crate) use members::pids;
pub use oom::{OomEvents, OomWatch, oom_kills};
pub(crate) use plan::{Plan, zero_is_a_limit};
pub(crate) use remove::remove_if_empty;
pub use remove::remove_tree;
pub(crate) use stats::read as stats;
pub(crate) use update::{merge, update, without_empty_pids};
pub(crate) use value::write as write_file;

use crate::error::{Error, ErrorKind};

/// Sends SIGKILL to every process in the cgroup at this `cgroupsPath` and below, in any hierarchy,
/// and waits (a few seconds at most) until they have ended. There are none where the path is empty.
pub fn kill_tree(path: &Path) -> Result<(), Error> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    checked(path)?;
    kill::kill_tree(path)
}

/// Moves a process into the cgroup at this path, in every hierarchy that has one there.
///
/// # Errors
/// When none has, or the kernel refuses.
pub fn join(path: &Path, pid: u32) -> Result<(), Error> {
    if !is_below_root(path) {
        let text = format!("cgroup {} is not an absolute path below the root", path.display());
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let dirs: Vec<PathBuf> = dirs(path)?.into_iter().filter(|dir| dir.is_dir()).collect();
    if dirs.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("cgroup {} does not exist", path.display())));
    }
    let pid = i32::try_from(pid).map_err(|_| Error::internal("not the number of a process"))?;
    dirs.iter().try_for_each(|dir| create::join(dir, pid))
}

/// Refuses a path that is not one of a cgroup below the root: the root holds every process of the machine.
pub(crate) fn checked(path: &Path) -> Result<(), Error> {
    if is_below_root(path) {
        return Ok(());
    }
    Err(Error::spec(format!("linux.cgroupsPath: {} is not an absolute path below the root", path.display())))
}

fn is_below_root(path: &Path) -> bool {
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    let names = components.clone().count();
    absolute && names > 0 && components.all(|each| matches!(each, Component::Normal(_)))
}

/// The directory of the cgroup in each hierarchy. None for the empty path, which is that of a container whose cgroup
/// nobody manages: there it must not be taken for the root, which holds every process of the machine.
fn dirs(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    Ok(hierarchies()?.iter().map(|hierarchy| hierarchy.dir(path)).collect())
}

/// Whether the group a call was about does not exist (any more).
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
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
}
