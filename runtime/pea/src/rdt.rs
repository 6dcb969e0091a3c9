//! Shares of caches and memory bandwidth: `linux.intelRdt` (config-linux.md, "IntelRdt"; the kernel's resctrl.rst).
//!
//! The container's init becomes a task of a group, which is a directory of the resctrl file system, before its program
//! runs; its children follow.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use oci_spec::runtime::{LinuxIntelRdt, Spec};

use crate::error::{Error, ErrorKind, reason};
use crate::stats::{RdtDomain, RdtStats};

/// Where the kernel wants it mounted.
const MOUNTPOINT: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC` of linux/magic.h.
const MAGIC: libc::__fsword_t = 0x765_5821;
/// Directories of the file system that are no groups.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// What is to be done for one container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    root: PathBuf,
    group: PathBuf,
    /// The group's `closID` was given: it may be shared, and is not ours to remove.
    shared: bool,
    /// The container's own monitoring group.
    monitor: Option<PathBuf>,
    /// What is to be written, line by line.
    schemata: Vec<String>,
}

impl Plan {
    /// Of a specification; none when it does not ask for it.
    pub fn new(spec: &Spec, id: &str) -> Result<Option<Self>, Error> {
        match spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) {
            None => Ok(None),
            Some(rdt) => Self::at(mountpoint()?, rdt, id).map(Some),
        }
    }

    fn at(root: PathBuf, rdt: &LinuxIntelRdt, id: &str) -> Result<Self, Error> {
        let given = rdt.clos_id().as_deref().filter(|name| !name.is_empty());
        let name = given.unwrap_or(id);
        if name.contains('/') || name.starts_with('.') || RESERVED.contains(&name) {
            return Err(Error::spec(format!("linux.intelRdt.closID: {name:?} is not the name of a group")));
        }
        let group = root.join(name);
        #[allow(deprecated)] // Specifications before 1.3 ask for one kind of it.
        let monitored = [rdt.enable_monitoring(), rdt.enable_cmt(), rdt.enable_mbm()];
        let monitor = monitored.contains(&&Some(true)).then(|| group.join("mon_groups").join(id));
        Ok(Self { root, shared: given.is_some(), monitor, schemata: schemata(rdt)?, group })
    }

    /// Makes the group, or checks the one that is there, and makes the process a task of it.
    pub fn place(&self, pid: i32) -> Result<(), Error> {
        let made = match fs::create_dir(&self.group) {
            // With no schema of its own the container is to be in one that was prepared.
            Ok(()) if self.shared && self.schemata.is_empty() => {
                let _ = fs::remove_dir(&self.group);
                let text = format!("linux.intelRdt.closID: there is no group {}", self.group.display());
                return Err(Error::spec(text));
            }
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(self.failed(&format!("make {}", self.group.display()), error)),
        };
        if made || !self.shared {
            self.write_schemata()?;
        } else {
            self.compare()?;
        }
        self.write(&self.group.join("tasks"), &pid.to_string())?;
        let Some(monitor) = &self.monitor else { return Ok(()) };
        match fs::create_dir(monitor) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(self.failed(&format!("make {}", monitor.display()), error))
            }
            _ => self.write(&monitor.join("tasks"), &pid.to_string()),
        }
    }

    /// Writes other schemata to the group, as `update` does.
    pub fn write_schemata(&self) -> Result<(), Error> {
        match self.schemata.is_empty() {
            true => Ok(()),
            // In one call: the file takes several lines.
            false => self.write(&self.group.join("schemata"), &format!("{}\n", self.schemata.join("\n"))),
        }
    }

    /// Removes what was made for this container alone. Succeeds when there is nothing.
    pub fn remove(&self) -> Result<(), Error> {
        let own = if self.shared { self.monitor.as_ref() } else { Some(&self.group) };
        match own.map_or(Ok(()), fs::remove_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed(&format!("remove {}", self.group.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// What the group is allowed and uses.
    pub fn stats(&self) -> RdtStats {
        let text = fs::read_to_string(self.group.join("schemata")).unwrap_or_default();
        let data = self.monitor.as_ref().unwrap_or(&self.group).join("mon_data");
        let mut domains: Vec<_> =
            fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        domains.sort();
        let number =
            |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok());
        let domain = |dir: PathBuf| RdtDomain {
            name: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            cache_occupancy: number(&dir, "llc_occupancy"),
            total_bandwidth: number(&dir, "mbm_total_bytes"),
            local_bandwidth: number(&dir, "mbm_local_bytes"),
        };
        RdtStats {
            schemata: text.lines().map(|line| line.trim().to_owned()).collect(),
            domains: domains.into_iter().map(domain).collect(),
        }
    }

    fn write(&self, file: &Path, text: &str) -> Result<(), Error> {
        let written = crate::cgroup::write_file(file, text);
        written.map_err(|error| {
            self.failed(&format!("write {} to {}", text.trim().replace('\n', ", "), file.display()), error)
        })
    }

    /// With what the kernel itself says of it.
    fn failed(&self, doing: &str, error: io::Error) -> Error {
        let said = fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let said = Some(said.trim()).filter(|said| !said.is_empty() && *said != "ok");
        let said = said.map_or(String::new(), |said| format!(" ({said})"));
        let text = format!("linux.intelRdt: {doing}: {}{said}", reason(&error));
        Error::new(Error::io("", error).kind(), text)
    }

    /// A group that is there already must have what the container asks for.
    fn compare(&self) -> Result<(), Error> {
        let file = self.group.join("schemata");
        let there =
            fs::read_to_string(&file).map_err(|error| self.failed(&format!("read {}", file.display()), error))?;
        let step = fs::read_to_string(self.root.join("info/MB/bandwidth_gran")).unwrap_or_default();
        let step = step.trim().parse().unwrap_or(1);
        match self.schemata.iter().find(|wanted| !there.lines().any(|line| satisfies(line, wanted, step))) {
            None => Ok(()),
            Some(wanted) => {
                let text = format!("linux.intelRdt: {wanted} is not what {} has", file.display());
                Err(Error::new(ErrorKind::InvalidState, text))
            }
        }
    }
}

/// The lines to write: bandwidth has a key of its own, which counts more than a line within the other.
fn schemata(rdt: &LinuxIntelRdt) -> Result<Vec<String>, Error> {
    let bandwidth = rdt.mem_bw_schema().as_deref().filter(|line| !line.is_empty());
    if let Some(line) = bandwidth.filter(|line| !line.starts_with("MB:") || line.contains('\n')) {
        return Err(Error::spec(format!("linux.intelRdt.memBwSchema: {line:?} is not a line that begins with MB:")));
    }
    let cache = rdt.l3_cache_schema().as_deref().unwrap_or_default().lines();
    let cache = cache.filter(|line| !line.is_empty() && (bandwidth.is_none() || !line.starts_with("MB:")));
    let last = rdt.schemata().iter().flatten().flat_map(|lines| lines.lines()).filter(|line| !line.is_empty());
    Ok(cache.chain(bandwidth).chain(last).map(str::to_owned).collect())
}

/// Whether a line the kernel has is one that was wanted: the same resource, and for each domain wanted the same value,
/// however it is written. Bandwidth the kernel rounds up to its steps.
fn satisfies(there: &str, wanted: &str, step: u64) -> bool {
    let (Some((resource, there)), Some((name, wanted))) = (there.trim().split_once(':'), wanted.trim().split_once(':'))
    else {
        return false;
    };
    let bandwidth = name == "MB";
    let value = |text: &str| u64::from_str_radix(text.trim(), if bandwidth { 10 } else { 16 }).ok();
    let find = |domain: &str| {
        let domains = there.split(';').filter_map(|each| each.split_once('='));
        domains.filter(|(name, _)| name.trim() == domain).find_map(|(_, text)| value(text))
    };
    resource.trim() == name
        && wanted.split(';').all(|each| {
            let Some((domain, text)) = each.split_once('=') else { return false };
            let (Some(there), Some(wanted)) = (find(domain.trim()), value(text)) else { return false };
            there == wanted || bandwidth && there > wanted && there < wanted.saturating_add(step)
        })
}

/// Where resctrl is mounted.
fn mountpoint() -> Result<PathBuf, Error> {
    let default = Path::new(MOUNTPOINT);
    if statfs(default).is_ok_and(|found| found.filesystem_type() == FsType(MAGIC)) {
        return Ok(default.to_owned());
    }
    // Asked for so rarely that reading the mount table does no harm.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = mounts.lines().find(|line| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("resctrl ")));
    found.and_then(|line| line.split(' ').nth(4)).map(PathBuf::from).ok_or_else(|| {
        let text = "linux.intelRdt: no resctrl file system is mounted (mount -t resctrl resctrl /sys/fs/resctrl)";
        Error::new(ErrorKind::Unsupported, text)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A group's files, as the kernel would make them with it.
    fn group(root: &Path, name: &str, schemata: &str) {
        fs::create_dir_all(root.join(name).join("mon_groups")).expect("a directory");
        fs::write(root.join(name).join("schemata"), schemata).expect("a file");
        fs::write(root.join(name).join("tasks"), "").expect("a file");
    }

    fn plan(root: &Path, rdt: Value) -> Result<Plan, Error> {
        Plan::at(root.to_owned(), &serde_json::from_value(rdt).expect("intelRdt"), "box")
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn the_container_becomes_a_task_of_its_group() {
        let root = testkit::scratch();
        group(root.path(), "box", &" ".repeat(20));
        let plan = plan(root.path(), json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"})).expect("a plan");
        plan.place(42).expect("placed");
        assert_eq!(text(&root.path().join("box/tasks")), "42");
        assert!(text(&root.path().join("box/schemata")).starts_with("L3:0=f\nMB:0=20\n"));
    }

    #[test]
    fn a_monitoring_group_is_the_containers_own() {
        let root = testkit::scratch();
        group(root.path(), "shared", "L3:0=f\n");
        let plan = plan(root.path(), json!({"closID": "shared", "enableMonitoring": true})).expect("a plan");
        let monitor = root.path().join("shared/mon_groups/box");
        fs::create_dir(&monitor).expect("a directory");
        fs::write(monitor.join("tasks"), "").expect("a file");
        plan.place(42).expect("placed");
        assert_eq!((text(&root.path().join("shared/tasks")), text(&monitor.join("tasks"))), ("42".into(), "42".into()));
        let domain = monitor.join("mon_data/mon_L3_00");
        fs::create_dir_all(&domain).expect("a directory");
        fs::write(domain.join("llc_occupancy"), "4096\n").expect("a file");
        let stats = plan.stats();
        assert_eq!(stats.schemata, ["L3:0=f"]);
        assert_eq!((stats.domains[0].name.as_str(), stats.domains[0].cache_occupancy), ("mon_L3_00", Some(4096)));
        fs::remove_dir_all(&monitor).expect("removed");
        fs::create_dir(&monitor).expect("a directory without the files, which a real one needs not be rid of");
        plan.remove().expect("removed");
        assert!(!monitor.exists() && root.path().join("shared").exists());
    }

    #[test]
    fn a_group_without_a_schema_must_be_there() {
        let root = testkit::scratch();
        let error = plan(root.path(), json!({"closID": "gold"})).expect("a plan").place(42).expect_err("none");
        assert!(error.to_string().starts_with("linux.intelRdt.closID: there is no group"), "{error}");
        assert!(!root.path().join("gold").exists());
    }

    #[test]
    fn a_group_that_is_there_must_have_the_same_schema() {
        let root = testkit::scratch();
        group(root.path(), "gold", "    L3:0=00ff;1=00f0\n    MB:0=30;1=100\n");
        for (schemata, fits) in [
            (json!(["L3:0=ff;1=f0"]), true),
            (json!(["L3:1=f0", "MB:0=30"]), true),
            (json!(["L3:0=f"]), false),
            (json!(["L2:0=ff"]), false),
            (json!(["MB:0=20"]), false),
        ] {
            let plan = plan(root.path(), json!({"closID": "gold", "schemata": schemata})).expect("a plan");
            assert_eq!(plan.place(42).is_ok(), fits, "{schemata}");
        }
        fs::create_dir_all(root.path().join("info/MB")).expect("a directory");
        fs::write(root.path().join("info/MB/bandwidth_gran"), "10\n").expect("a file");
        let plan = plan(root.path(), json!({"closID": "gold", "memBwSchema": "MB:0=25"})).expect("a plan");
        plan.place(42).expect("25 in steps of 10 is 30");
    }

    #[test]
    fn the_key_for_bandwidth_counts_more_and_schemata_come_last() {
        let lines = |rdt| schemata(&serde_json::from_value(rdt).expect("intelRdt"));
        let rdt = json!({"l3CacheSchema": "L3:0=f\nMB:0=10", "memBwSchema": "MB:0=20", "schemata": ["L2:0=1"]});
        assert_eq!(lines(rdt), Ok(vec!["L3:0=f".to_owned(), "MB:0=20".to_owned(), "L2:0=1".to_owned()]));
        lines(json!({"memBwSchema": "L3:0=f"})).expect_err("no bandwidth");
    }

    #[test]
    fn a_group_is_one_directory() {
        for name in ["../x", "a/b", "..", "info", "mon_groups"] {
            plan(Path::new("/"), json!({"closID": name})).expect_err(name);
        }
    }
}
