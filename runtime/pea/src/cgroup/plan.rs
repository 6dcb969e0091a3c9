//! The plan of a container's cgroup: where it is, and which file gets which value.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use oci_spec::runtime::Spec;

use super::create;
use super::delegate;
use super::devices::{self, Rules};
use super::hierarchy::{Hierarchy, Kind, Layout};
use super::own_way;
use super::resources::{self, Target};
use super::systemd::{Scope, Unit};
use super::value::{Value, write_all};
use super::{is_frozen, pids, remove_above, remove_tree};
use crate::error::{Error, ErrorKind};
use crate::options::CgroupDriver;
use crate::{rdt, spec};

/// All that will be done about the container's cgroup. Its steps, in their order: [`check`](Self::check),
/// [`prepare`](Self::prepare), [`place`](Self::place), [`enforce`](Self::enforce).
#[derive(Clone, Debug)]
pub struct Plan {
    path: PathBuf,
    driver: CgroupDriver,
    /// What systemd is to make, where it manages the cgroup.
    scope: Option<Scope>,
    layout: Layout,
    values: Vec<Value>,
    devices: Rules,
    /// The user who is to own the cgroup.
    owner: Option<u32>,
    /// Shares of caches and memory bandwidth: not of a cgroup, but given and taken back like its values.
    rdt: Option<rdt::Plan>,
    /// Whether device rules that this process may not set are no failure.
    rootless: bool,
    /// What was not there above the container's cgroup, the deepest first.
    made_above: RefCell<Vec<PathBuf>>,
    /// Whether the place was left to us: then a container may go without, if it asks for nothing.
    anywhere: bool,
}

impl Plan {
    /// For this specification, on this machine.
    pub fn new(spec: &Spec, id: &str, driver: CgroupDriver) -> Result<Self, Error> {
        // One that is not managed is in no hierarchy.
        let layout = if driver == CgroupDriver::Disabled { Layout::default() } else { Layout::read()? };
        Self::on(layout, spec, id, driver)
    }

    /// For a machine of that layout.
    pub fn on(layout: Layout, spec: &Spec, id: &str, driver: CgroupDriver) -> Result<Self, Error> {
        let linux = spec.linux().as_ref();
        let given = linux.and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
        let anywhere = given.as_os_str().is_empty();
        let mut scope = None;
        let path = match driver {
            CgroupDriver::Systemd => {
                let annotations = spec.annotations().clone().unwrap_or_default();
                scope.insert(Scope::new(&given.to_string_lossy(), id, &annotations)?).path().to_owned()
            }
            CgroupDriver::Cgroupfs if anywhere && !geteuid().is_root() => below_own(&layout, id)?,
            CgroupDriver::Cgroupfs => spec::cgroups_path(spec, id)?,
            CgroupDriver::Disabled => PathBuf::new(),
        };
        let target = Target { layout: &layout, path: &path, zero_is_a_limit: zero_is_a_limit(spec) };
        let values = match linux.and_then(|linux| linux.resources().as_ref()) {
            Some(resources) if driver != CgroupDriver::Disabled => resources::values(resources, target)?,
            _ => Vec::new(),
        };
        let owner = delegate::owner(spec, &layout);
        let rdt = rdt::Plan::new(spec, id)?;
        Ok(Self {
            devices: spec::device_rules(spec)?,
            rootless: false,
            rdt,
            path,
            driver,
            scope,
            values,
            owner,
            anywhere,
            layout,
            made_above: RefCell::default(),
        })
    }

    /// The cgroup's path, absolute and the same in every hierarchy; empty when nobody manages one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgives missing rights to set device rules. Who lacks them can make no device nodes either, and gets at no device
    /// whose owner does not let him.
    pub fn set_rootless(&mut self, rootless: bool) {
        self.rootless = rootless;
    }

    /// The unit of systemd that it belongs to, if to any.
    pub fn unit(&self) -> Option<&Unit> {
        self.scope.as_ref().map(Scope::unit)
    }

    /// Before anything says that the container has this cgroup: refuses one in which processes live. They would be
    /// killed and counted with the container's.
    pub fn check(&self) -> Result<(), Error> {
        if self.driver == CgroupDriver::Disabled {
            return Ok(());
        }
        if self.scope.is_none() {
            self.made_above.replace(self.missing_above());
        }
        self.check_unused()
    }

    /// The cgroups above the container's that are made with it, the deepest first, to be removed with it, too.
    pub fn made_above(&self) -> Vec<PathBuf> {
        self.made_above.borrow().clone()
    }

    /// Before the clone: makes the cgroup, empty and without limits.
    ///
    /// Returns its directory where the init can be cloned into it (`CLONE_INTO_CGROUP`); where it has to be placed
    /// later, or the kernel refuses to clone into it, [`place`](Self::place) does it. systemd makes one around a process
    /// only.
    pub fn prepare(&self) -> Result<Option<OwnedFd>, Error> {
        if self.driver == CgroupDriver::Disabled || self.scope.is_some() {
            return Ok(None);
        }
        self.make().inspect_err(|_| self.undo())
    }

    fn make(&self) -> Result<Option<OwnedFd>, Error> {
        let mut open = None;
        if self.scope.is_some() {
            // What systemd makes is there by now, and is systemd's to remove.
            self.made_above.replace(self.missing_above());
        }
        // Nobody but systemd makes cgroups in a hierarchy that is systemd's.
        let systemds = |hierarchy: &Hierarchy| self.scope.is_some() && hierarchy.kind != Kind::Controllers;
        for hierarchy in self.layout.all().iter().filter(|hierarchy| !systemds(hierarchy)) {
            match create::make(hierarchy, &self.path, &self.enabled_in(hierarchy)) {
                Ok(made) => open = open.or(made),
                Err(error) if self.can_do_without(hierarchy, &error) => {}
                Err(error) => return Err(error),
            }
        }
        // A cpuset must not be empty, and a real-time process not be without its share, when the init joins.
        write_all(self.values.iter().filter(|value| value.is_for("cpuset") || value.is_for("cpu") && !value.late))?;
        if let (Some(owner), Some(unified)) = (self.owner, self.layout.unified()) {
            delegate::hand_over(&unified.dir(&self.path), owner)?;
        }
        Ok(open)
    }

    /// The ways into the cgroups that were made, for the init to [take by itself](own_way).
    pub fn ways(&self) -> Vec<File> {
        if self.driver == CgroupDriver::Disabled || self.scope.is_some() {
            return Vec::new();
        }
        let open = |hierarchy: &Hierarchy| own_way::open(&hierarchy.dir(&self.path)).ok();
        self.layout.all().iter().filter(|hierarchy| hierarchy.kind != Kind::Unified).filter_map(open).collect()
    }

    /// After the clone: makes the init a member in every hierarchy where it is not one yet, and sets the limits.
    ///
    /// Of an init that is not there yet this waits for all processors of the machine (about 10 ms); it can work meanwhile.
    /// `born`: whether it was cloned into what [`prepare`](Self::prepare) returned.
    pub fn place(&self, init: i32, born: bool) -> Result<(), Error> {
        if let Some(scope) = &self.scope {
            scope.start(init, &self.values, &self.devices)?;
            // There may be controllers that systemd does not manage.
            self.make()?;
        }
        let everywhere = born && self.layout.is_unified_alone();
        let now = if everywhere { String::new() } else { create::membership(init)? };
        for hierarchy in self.layout.all() {
            if everywhere || hierarchy.member_of(&now).as_deref() == Some(&self.path) {
                continue;
            }
            match create::join(&hierarchy.dir(&self.path), init) {
                Err(error) if self.can_do_without(hierarchy, &error) => {}
                joined => joined?,
            }
        }
        write_all(self.values.iter().filter(|value| !value.late))?;
        self.rdt.as_ref().map_or(Ok(()), |rdt| rdt.place(init))
    }

    /// While the init works: what can be done ahead for [`enforce`](Self::enforce).
    pub fn load_device_program(&self) -> Option<OwnedFd> {
        if self.driver == CgroupDriver::Disabled { None } else { devices::load_ahead(&self.devices) }
    }

    /// When the container has been set up, and before a hook or its program runs: what would have slowed or hindered
    /// the set-up, which are the limits of processor time and the device rules.
    pub fn enforce(&self, device_program: Option<OwnedFd>) -> Result<(), Error> {
        if self.driver == CgroupDriver::Disabled {
            return Ok(());
        }
        write_all(self.values.iter().filter(|value| value.late))?;
        match devices::enforce(&self.path, &self.devices, device_program) {
            Err(_) if self.rootless => Ok(()),
            enforced => enforced,
        }
    }

    /// Removes what was made, after a failed creation and once its processes have ended. What cannot be removed is
    /// there for `delete` to report.
    pub fn undo(&self) {
        if let Some(scope) = &self.scope {
            scope.undo();
        }
        let _ = remove_tree(&self.path);
        remove_above(&self.path, &self.made_above.take());
        if let Some(rdt) = &self.rdt {
            let _ = rdt.remove();
        }
    }

    fn check_unused(&self) -> Result<(), Error> {
        let path = self.path.display();
        let others = pids(&self.path)?;
        let text = if !others.is_empty() {
            format!("is in use by processes {others:?}; a container needs one of its own (linux.cgroupsPath)")
        } else if is_frozen(&self.path) {
            "is frozen; nothing could start in it (linux.cgroupsPath)".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidState, format!("cgroup {path} {text}")))
    }

    /// The cgroups between a hierarchy's root and the container's that are not there yet, the deepest first.
    fn missing_above(&self) -> Vec<PathBuf> {
        let above = self.path.ancestors().skip(1).filter(|path| path.parent().is_some());
        let dirs = above.flat_map(|path| self.layout.all().iter().map(|hierarchy| hierarchy.dir(path)));
        dirs.filter(|dir| !dir.exists()).collect()
    }

    fn enabled_in(&self, hierarchy: &Hierarchy) -> create::Controllers {
        create::Controllers::new(&self.layout, &self.values, &hierarchy.dir(&self.path))
    }

    /// Whether a hierarchy that this process may not write to can be left out: nothing was asked of it, and, where it
    /// has controllers, the place was not asked for either.
    fn can_do_without(&self, hierarchy: &Hierarchy, error: &Error) -> bool {
        let dir = hierarchy.dir(&self.path);
        let controls = hierarchy.kind == Kind::Controllers || self.layout.is_unified_alone();
        // Devices are limited for every container, but for those of somebody without privilege.
        let devices = !self.rootless && (hierarchy.controls("devices") || self.layout.is_unified_alone());
        let asked = devices || self.values.iter().any(|value| value.needs(&dir).is_some());
        error.kind() == ErrorKind::Permission && !asked && (self.anywhere || !controls)
    }
}

/// The place for a container of somebody without privilege: below our own cgroup, which may have been given to him.
fn below_own(layout: &Layout, id: &str) -> Result<PathBuf, Error> {
    let own = create::membership(std::process::id() as i32)?;
    let own = layout.unified().and_then(|hierarchy| hierarchy.member_of(&own));
    Ok(own.unwrap_or_else(|| PathBuf::from("/")).join(id))
}

/// Since version 1.3 of the specification.
pub fn zero_is_a_limit(spec: &Spec) -> bool {
    let minor = spec.version().split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.is_some_and(|minor: u32| minor >= 3)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resources::testing;
    use super::*;

    fn plan(layout: Layout, linux: serde_json::Value) -> Result<Plan, Error> {
        let spec = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": linux});
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        Plan::on(layout, &spec, "box", CgroupDriver::Cgroupfs)
    }

    #[test]
    fn the_place_is_the_one_given_or_the_id() {
        let path = |linux| plan(testing::v2(), linux).map(|plan| plan.path().display().to_string());
        assert_eq!(path(json!({})).as_deref(), Ok("/box"));
        assert_eq!(path(json!({"cgroupsPath": "pods/a"})).as_deref(), Ok("/pods/a"));
        assert_eq!(path(json!({"cgroupsPath": "/pods/a"})).as_deref(), Ok("/pods/a"));
        path(json!({"cgroupsPath": "/pods/../.."})).expect_err("leads above the root");
    }

    #[test]
    fn with_the_unified_hierarchy_alone_all_its_controllers_are_enabled() {
        let plan = plan(testing::v2(), json!({"resources": {"memory": {"limit": 4096}}})).expect("a plan");
        let controllers = plan.enabled_in(&plan.layout.all()[0]);
        assert_eq!(controllers.wanted, testing::v2().unified_controllers());
        assert_eq!(controllers.needed, [("memory".to_owned(), "linux.resources.memory.limit".to_owned())]);
    }

    #[test]
    fn beside_v1_controllers_only_those_needed_are_enabled() {
        let hybrid = Layout::made_up(Path::new(""), &["memory"], Some(&["hugetlb", "misc"]));
        let limits =
            json!({"resources": {"memory": {"limit": 4096}, "hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}});
        let plan = plan(hybrid, limits).expect("a plan");
        assert_eq!(plan.enabled_in(plan.layout.unified().expect("one")).wanted, ["hugetlb"]);
    }

    #[test]
    fn no_permission_matters_only_where_something_was_asked_for() {
        let refused = Error::new(ErrorKind::Permission, "");
        let can = |linux| {
            let plan = plan(testing::v1(), linux).expect("a plan");
            let memory = &plan.layout.all()[3];
            assert!(memory.controls("memory"));
            assert!(!plan.can_do_without(memory, &Error::internal("another reason")));
            plan.can_do_without(memory, &refused)
        };
        assert!(can(json!({})));
        assert!(can(json!({"resources": {"pids": {"limit": 1}}})));
        assert!(!can(json!({"resources": {"memory": {"limit": 4096}}})));
        assert!(!can(json!({"cgroupsPath": "/pods/a"})));
    }

    #[test]
    fn a_pids_limit_of_zero_depends_on_the_version() {
        let spec = |version| serde_json::from_value(json!({"ociVersion": version})).expect("a spec");
        assert!(!zero_is_a_limit(&spec("1.2.1")));
        assert!(zero_is_a_limit(&spec("1.3.0")));
    }

    /// On the machine itself, whatever it has.
    #[test]
    fn a_cgroup_is_made_joined_limited_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            testkit::skip("not root");
            return;
        }
        let spec = json!({"ociVersion": "1.2.0", "linux": {"resources": {"pids": {"limit": 20}}}});
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        let plan = Plan::new(&spec, "pea-unit-test", CgroupDriver::Cgroupfs).expect("a plan");
        plan.prepare().expect("made");
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let pid = child.id() as i32;
        assert_eq!(plan.ways().is_empty(), plan.layout.is_unified_alone());
        let limited = plan.place(pid, false).and_then(|()| plan.enforce(None));
        let members = pids(plan.path());
        let busy = plan.check();
        child.kill().expect("killed");
        child.wait().expect("reaped");
        plan.undo();
        limited.expect("joined and limited");
        assert_eq!(members, Ok(vec![pid]));
        assert_eq!(busy.expect_err("in use").kind(), ErrorKind::InvalidState);
        for hierarchy in plan.layout.all() {
            assert!(!hierarchy.dir(plan.path()).exists(), "{hierarchy:?}");
        }
    }
}
