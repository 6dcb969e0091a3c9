//! The hierarchies of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use crate::error::Error;
use crate::small_file;
use crate::stats::CgroupVersion;

/// Where every distribution mounts them.
const MOUNTPOINT: &str = "/sys/fs/cgroup";

/// What a hierarchy is there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// cgroup v1 with controllers.
    Controllers,
    /// cgroup v1 with only a name (systemd's).
    Named,
    /// cgroup v2.
    Unified,
}

/// One mounted hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mountpoint: PathBuf,
    /// The mountpoint's name: its controllers, or its name.
    name: String,
    pub kind: Kind,
}

impl Hierarchy {
    /// The directory of a cgroup in it.
    pub fn dir(&self, path: &Path) -> PathBuf {
        self.mountpoint.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The directory of its root cgroup.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether it has that controller (v1).
    pub fn controls(&self, controller: &str) -> bool {
        self.kind == Kind::Controllers && self.name.split(',').any(|each| each == controller)
    }

    /// Whether it goes by that name: "systemd", or "unified".
    pub fn is_called(&self, name: &str) -> bool {
        self.kind != Kind::Controllers && self.name == name
    }

    /// Which cgroup of it a process is in, by the text of its /proc/PID/cgroup (cgroups(7)).
    pub fn member_of(&self, proc_cgroup: &str) -> Option<PathBuf> {
        let ours = |controllers: &str| match self.kind {
            Kind::Unified => controllers.is_empty(),
            Kind::Named => controllers.strip_prefix("name=") == Some(&self.name),
            Kind::Controllers => controllers.split(',').any(|each| self.controls(each)),
        };
        proc_cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            ours(controllers).then(|| PathBuf::from(path))
        })
    }
}

/// All hierarchies of a machine, and which of them has which controller.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    all: Vec<Hierarchy>,
    /// The controllers of the unified hierarchy, by their names there.
    unified: Vec<String>,
}

impl Layout {
    /// That of this machine.
    pub fn read() -> Result<Self, Error> {
        let all = all()?.to_vec();
        let unified = all.iter().find(|hierarchy| hierarchy.kind == Kind::Unified);
        // One that cannot be read offers none.
        let text = unified.and_then(|it| small_file::read_text(it.root().join("cgroup.controllers")).ok());
        let unified = text.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        Ok(Self { all, unified })
    }

    /// Every hierarchy.
    pub fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    /// The unified hierarchy, where it is mounted.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.kind == Kind::Unified)
    }

    /// Whether there is nothing but the unified hierarchy.
    pub fn is_unified_alone(&self) -> bool {
        matches!(self.all.as_slice(), [only] if only.kind == Kind::Unified)
    }

    /// The controllers of the unified hierarchy, by their names there.
    pub fn unified_controllers(&self) -> &[String] {
        &self.unified
    }

    /// Where a controller is to be found, and with which interface. Its name is that of v1 (`blkio` for `io`).
    pub fn home_of(&self, controller: &str) -> Option<(&Hierarchy, CgroupVersion)> {
        if let Some(hierarchy) = self.all.iter().find(|hierarchy| hierarchy.controls(controller)) {
            return Some((hierarchy, CgroupVersion::V1));
        }
        let name = if controller == "blkio" { "io" } else { controller };
        let there = self.unified.iter().any(|each| each == name);
        self.unified().filter(|_| there).map(|hierarchy| (hierarchy, CgroupVersion::V2))
    }
}

/// All hierarchies that are mounted. Looked up once in a process's life: nobody mounts others on a machine that runs.
pub fn all() -> Result<&'static [Hierarchy], Error> {
    static ALL: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    match ALL.get() {
        Some(all) => Ok(all),
        None => {
            let found = find()?;
            Ok(ALL.get_or_init(|| found))
        }
    }
}

/// By directory: the machine's mount table may be long.
fn find() -> Result<Vec<Hierarchy>, Error> {
    let root = Path::new(MOUNTPOINT);
    if let Some(hierarchy) = at(root) {
        return Ok(vec![hierarchy]);
    }
    let entries =
        fs::read_dir(root).map_err(|error| Error::io(format!("read {MOUNTPOINT} (is it mounted?)"), error))?;
    // Links such as cpu -> cpu,cpuacct lead to a hierarchy that is there anyway.
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| at(&entry.path()))
        .collect())
}

fn at(mountpoint: &Path) -> Option<Hierarchy> {
    let name = mountpoint.file_name()?.to_str()?.to_owned();
    let kind = match statfs(mountpoint).ok()?.filesystem_type() {
        CGROUP2_SUPER_MAGIC => Kind::Unified,
        CGROUP_SUPER_MAGIC if mountpoint.join("cgroup.procs").exists() && name == "systemd" => Kind::Named,
        CGROUP_SUPER_MAGIC => Kind::Controllers,
        _ => return None,
    };
    Some(Hierarchy { mountpoint: mountpoint.to_owned(), name, kind })
}

/// Layouts that no machine has.
impl Layout {
    /// One with every v1 controller.
    pub fn of_v1() -> Self {
        const ALL: [&str; 11] = [
            "cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "rdma", "devices",
        ];
        Self::made_up(Path::new(""), &ALL, None)
    }

    /// One with the unified hierarchy alone, and every controller in it.
    pub fn of_v2() -> Self {
        const ALL: [&str; 8] = ["cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc"];
        Self::made_up(Path::new(""), &[], Some(&ALL))
    }

    /// A machine with one hierarchy for each of these v1 controllers under `root`, and, when there is a list of its
    /// controllers, a unified one.
    pub fn made_up(root: &Path, v1: &[&str], unified: Option<&[&str]>) -> Self {
        let hierarchy = |name: &str, kind| Hierarchy {
            mountpoint: if v1.is_empty() { root.to_owned() } else { root.join(name) },
            name: name.to_owned(),
            kind,
        };
        let mut all: Vec<_> = v1.iter().map(|name| hierarchy(name, Kind::Controllers)).collect();
        all.extend(unified.map(|_| hierarchy("unified", Kind::Unified)));
        Self { all, unified: unified.unwrap_or_default().iter().map(|&name| name.to_owned()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_each_kind_of_hierarchy() {
        let text = "7:cpu,cpuacct:/a\n2:name=systemd:/b:c\n0::/d\n";
        let member =
            |kind, name: &str| Hierarchy { mountpoint: PathBuf::new(), name: name.to_owned(), kind }.member_of(text);
        assert_eq!(member(Kind::Controllers, "cpu,cpuacct"), Some(PathBuf::from("/a")));
        assert_eq!(member(Kind::Controllers, "cpuacct"), Some(PathBuf::from("/a")));
        assert_eq!(member(Kind::Controllers, "memory"), None);
        assert_eq!(member(Kind::Named, "systemd"), Some(PathBuf::from("/b:c")));
        assert_eq!(member(Kind::Unified, "unified"), Some(PathBuf::from("/d")));
    }
}
