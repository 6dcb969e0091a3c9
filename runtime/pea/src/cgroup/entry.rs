//! The way into a container's cgroups for a process executed later.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::systemd::{Unit, Visit};
use super::{Hierarchy, Kind, hierarchies, own_way};
use crate::error::{Error, ErrorKind};
use crate::sys::clone::{self, clone3};

/// Which cgroups below the container's a process shall be in.
#[derive(Clone, Debug, Default)]
pub struct Subgroups {
    everywhere: Option<PathBuf>,
    by_controller: Vec<(String, PathBuf)>,
}

impl Subgroups {
    /// Reads what `--cgroup` was given: `PATH`, or any number of `CONTROLLER[,CONTROLLER...]:PATH`.
    pub fn parse(given: &[String]) -> Result<Self, Error> {
        let mut subgroups = Self::default();
        for text in given {
            match text.split_once(':') {
                None if given.len() == 1 => subgroups.everywhere = Some(below(text, text)?),
                None => {
                    return Err(refused(
                        text,
                        "only one path without a controller, and nothing beside it, is possible",
                    ));
                }
                Some((controllers, path)) => {
                    let path = below(text, path)?;
                    for controller in controllers.split(',') {
                        let controller = controller.strip_prefix("name=").unwrap_or(controller);
                        let known = subgroups.by_controller.iter().any(|(each, _)| each == controller);
                        if controller.is_empty() || known {
                            return Err(refused(text, "each controller is to be named once"));
                        }
                        subgroups.by_controller.push((controller.to_owned(), path.clone()));
                    }
                }
            }
        }
        Ok(subgroups)
    }

    /// What is asked for in one hierarchy. A path without a controller means the hierarchies in which it is there.
    fn wanted(&self, hierarchy: &Hierarchy, container: &Path) -> Option<&Path> {
        let named = |name: &str| hierarchy.controls(name) || hierarchy.is_called(name);
        let named = self.by_controller.iter().find(|(name, _)| named(name)).map(|(_, path)| path.as_path());
        let there = |path: &&Path| hierarchy.dir(&container.join(path)).is_dir();
        named.or(self.everywhere.as_deref().filter(there))
    }

    /// Refuses names of no hierarchy, and a path that is in none.
    fn check(&self, all: &[Hierarchy], container: &Path) -> Result<(), Error> {
        for (name, _) in &self.by_controller {
            if !all.iter().any(|hierarchy| hierarchy.controls(name) || hierarchy.is_called(name)) {
                return Err(refused(name, "there is no hierarchy with this controller"));
            }
        }
        match &self.everywhere {
            Some(path) if !all.iter().any(|hierarchy| hierarchy.dir(&container.join(path)).is_dir()) => {
                Err(refused(&path.to_string_lossy(), "no such cgroup in the container's (no such file or directory)"))
            }
            _ => Ok(()),
        }
    }
}

fn refused(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("--cgroup {text}: {why}"))
}

/// The path without what would lead out of the container's cgroup.
fn below(text: &str, path: &str) -> Result<PathBuf, Error> {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(refused(text, "`..` components are not allowed")),
            _ => {}
        }
    }
    Ok(clean)
}

/// A cgroup that can be entered, opened.
struct Door {
    dir: PathBuf,
    /// Its directory where a process is born in it, its `tasks` where it goes there by itself, else its `cgroup.procs`.
    file: File,
}

/// The cgroups to enter, opened outside of the container. For each hierarchy in which there is something to do: the
/// cgroup wanted, then, should that take no processes, the one to make do with.
#[derive(Default)]
pub struct Entry {
    /// In the unified hierarchy.
    born_in: Vec<Door>,
    /// There, should it not be allowed to be born in the container's.
    moved_to: Vec<Door>,
    /// In those of v1.
    walked_to: Vec<Vec<Door>>,
    /// Who else can move it: a user's systemd can have one moved that comes from beyond what is the user's.
    systemd: Option<RefCell<Visit>>,
    /// Whether the process is in its place from its birth.
    is_in_place: Cell<bool>,
}

impl Entry {
    /// Opens the cgroups of the container at `path` (empty: it has none of its own).
    ///
    /// `of_init` is the /proc/PID/cgroup of the container's init. Where the container's processes have been distributed
    /// over children of its cgroup since, v2 allows none in between, and its init's cgroup is the one to be in.
    pub fn open(path: &Path, unit: Option<&Unit>, subgroups: &Subgroups, of_init: &str) -> Result<Self, Error> {
        if path.as_os_str().is_empty() {
            let asked = subgroups.everywhere.iter().chain(subgroups.by_controller.iter().map(|(_, path)| path)).next();
            let none = |asked: &PathBuf| refused(&asked.to_string_lossy(), "the container has no cgroup of its own");
            return asked.map_or_else(|| Ok(Self::default()), |asked| Err(none(asked)));
        }
        let all = hierarchies()?;
        subgroups.check(all, path)?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut entry = Self::default();
        for hierarchy in all {
            let wanted = subgroups.wanted(hierarchy, path);
            let here = hierarchy.member_of(&own);
            if wanted.is_none() && here.is_some() && here == hierarchy.member_of(of_init) {
                // Of a container that has none of its own.
                continue;
            }
            match hierarchy.kind {
                Kind::Unified => entry.open_unified(hierarchy, path, unit, wanted, of_init)?,
                _ => entry.walked_to.push(doors(hierarchy, path, wanted, of_init, own_way::open)?),
            }
        }
        Ok(entry)
    }

    /// A cgroup that was given to somebody else may be closed to us once we are in the container's user namespace, where
    /// we are nobody who counts outside. What is opened now stays open.
    fn open_unified(
        &mut self,
        hierarchy: &Hierarchy,
        path: &Path,
        unit: Option<&Unit>,
        wanted: Option<&Path>,
        of_init: &str,
    ) -> Result<(), Error> {
        self.born_in = doors(hierarchy, path, wanted, of_init, open_dir)?;
        let is_ours = |dir: &Path| fs::metadata(dir).is_ok_and(|found| found.uid() == geteuid().as_raw());
        if !is_ours(&hierarchy.dir(path)) {
            // Where it cannot be opened nothing is lost: being born there is still to be tried.
            self.moved_to = doors(hierarchy, path, wanted, of_init, open_procs).unwrap_or_default();
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = hierarchy.member_of(&own).unwrap_or_default();
        if let Some(unit) = unit.filter(|unit| unit.user && !is_ours(&hierarchy.dir(&common(&own, path)))) {
            self.systemd = Some(RefCell::new(Visit::open(unit, hierarchy.dir(path))?));
        }
        Ok(())
    }

    /// Forks; the child is born in the container's cgroup of the unified hierarchy. That costs nothing, while moving a
    /// process waits for all processors (about 10 ms).
    pub fn fork(&self) -> Result<clone::Clone, Error> {
        let failed = |dir: Option<&Path>, error| match dir {
            Some(dir) => Error::io(format!("make a process in cgroup {}", dir.display()), error),
            None => Error::io("make a process", error),
        };
        let Some((last, others)) = self.born_in.split_last() else {
            return clone3(0, None, false).map_err(|error| failed(None, error));
        };
        self.is_in_place.set(true);
        for door in others {
            match clone3(0, Some(door.file.as_fd()), false) {
                Err(error) if takes_none(&error) => {}
                Err(error) if self.is_later_possible(&error) => return self.fork_for_later(),
                Err(error) if clone::is_refused(&error) => return fork_inside(door),
                made => return made.map_err(|error| failed(Some(&door.dir), error)),
            }
        }
        match clone3(0, Some(last.file.as_fd()), false) {
            Err(error) if self.is_later_possible(&error) => self.fork_for_later(),
            Err(error) if clone::is_refused(&error) => fork_inside(last),
            made => made.map_err(|error| failed(Some(&last.dir), error)),
        }
    }

    fn is_later_possible(&self, error: &io::Error) -> bool {
        self.is_by_moving() && error.kind() == io::ErrorKind::PermissionDenied
    }

    fn fork_for_later(&self) -> Result<clone::Clone, Error> {
        self.is_in_place.set(false);
        clone3(0, None, false).map_err(|error| Error::io("make a process", error))
    }

    /// What the process does first of all: goes where it could not be born, [by itself](own_way).
    pub fn walk(&self) -> Result<(), Error> {
        self.walked_to.iter().try_for_each(|doors| first_open(doors, own_way::take))
    }

    /// Whether a process may have to be moved when it has been made.
    pub fn is_by_moving(&self) -> bool {
        !self.moved_to.is_empty() || self.systemd.is_some()
    }

    /// Moves the process into the cgroups it was not born in.
    pub fn place(&self, pid: i32) -> Result<(), Error> {
        if self.is_in_place.get() {
            return Ok(());
        }
        if let Some(visit) = &self.systemd {
            let mut visit = visit.borrow_mut();
            let mut result = Ok(());
            for door in &self.born_in {
                result = visit.attach(&door.dir, pid);
                if result.is_ok() {
                    break;
                }
            }
            return result;
        }
        let text = pid.to_string();
        first_open(&self.moved_to, |mut file| file.write_all(text.as_bytes()))
    }
}

/// Goes through the first of these doors that takes processes.
fn first_open(doors: &[Door], enter: impl Fn(&File) -> io::Result<()>) -> Result<(), Error> {
    let mut result = Ok(());
    for door in doors {
        let entered = enter(&door.file);
        let other = entered.as_ref().is_err_and(takes_none);
        result = entered.map_err(|error| Error::io(format!("join cgroup {}", door.dir.display()), error));
        if !other {
            break;
        }
    }
    result
}

/// Makes a child in that cgroup where clone3 is not to be had: we go there first, and stay.
fn fork_inside(door: &Door) -> Result<clone::Clone, Error> {
    let joined = openat(&door.file, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|procs| File::from(procs).write_all(b"0"));
    joined.map_err(|error| Error::io(format!("join cgroup {}", door.dir.display()), error))?;
    clone3(0, None, false).map_err(|error| Error::io("make a process", error))
}

/// The deepest cgroup that both are in.
fn common(a: &Path, b: &Path) -> PathBuf {
    a.components().zip(b.components()).take_while(|(a, b)| a == b).map(|(both, _)| both).collect()
}

/// Whether that cgroup is none for processes (any more), while another may be.
fn takes_none(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EOPNOTSUPP | libc::ENODEV))
}

/// The cgroups of one hierarchy that come into question. One that was asked for is the only one.
fn doors(
    hierarchy: &Hierarchy,
    container: &Path,
    wanted: Option<&Path>,
    of_init: &str,
    open: fn(&Path) -> io::Result<File>,
) -> Result<Vec<Door>, Error> {
    let at = |path: &Path| {
        let dir = hierarchy.dir(path);
        open(&dir).map(|file| Door { file, dir: dir.clone() }).map_err(|error| (dir, error))
    };
    let cannot = |(dir, error): (PathBuf, io::Error)| Error::io(format!("open cgroup {}", dir.display()), error);
    if let Some(wanted) = wanted {
        return Ok(vec![at(&container.join(wanted)).map_err(cannot)?]);
    }
    let beside = hierarchy.member_of(of_init).filter(|beside| beside != container);
    match (at(container), beside.map(|beside| at(&beside))) {
        (Ok(first), beside) => Ok([first].into_iter().chain(beside.and_then(Result::ok)).collect()),
        (Err(_), Some(Ok(beside))) => Ok(vec![beside]),
        (Err(error), _) => Err(cannot(error)),
    }
}

fn open_dir(dir: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)
}

fn open_procs(dir: &Path) -> io::Result<File> {
    File::options().write(true).open(dir.join("cgroup.procs"))
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::Layout;
    use super::*;

    fn parse(given: &[&str]) -> Result<Subgroups, Error> {
        Subgroups::parse(&given.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn nothing_leads_out_of_the_containers_cgroup() {
        for given in ["..", "a/../..", "cpu:../b"] {
            let text = parse(&[given]).expect_err(given).to_string();
            assert!(text.contains("`..` components are not allowed") && text.contains(given), "{text}");
        }
        assert_eq!(parse(&["/a//b/./"]).expect("a path").everywhere.as_deref(), Some(Path::new("a/b")));
    }

    #[test]
    fn a_controller_is_named_once_and_a_plain_path_is_alone() {
        for given in [&["a", "b"][..], &["a", "cpu:b"], &["cpu:a", "cpu:b"], &[":a"], &["cpu,,pids:a"]] {
            parse(given).expect_err("ambiguous");
        }
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::made_up(root.path(), &["cpu", "memory"], None);
        let subgroups = parse(&["cpu,memory:a"]).expect("two controllers");
        for hierarchy in layout.all() {
            assert_eq!(subgroups.wanted(hierarchy, Path::new("/box")), Some(Path::new("a")));
        }
        subgroups.check(layout.all(), Path::new("/box")).expect("both are there");
        parse(&["pids:a"]).expect("a path").check(layout.all(), Path::new("/box")).expect_err("no such hierarchy");
    }

    #[test]
    fn a_plain_path_means_the_hierarchies_that_have_it() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::made_up(root.path(), &["cpu", "memory"], None);
        let subgroups = parse(&["a"]).expect("a path");
        subgroups.check(layout.all(), Path::new("/box")).expect_err("it is nowhere");
        fs::create_dir_all(root.path().join("memory/box/a")).expect("made");
        subgroups.check(layout.all(), Path::new("/box")).expect("it is somewhere");
        let wanted: Vec<_> = layout.all().iter().map(|each| subgroups.wanted(each, Path::new("/box"))).collect();
        assert_eq!(wanted, [None, Some(Path::new("a"))]);
    }
}
