//! What is to be built: all that can be computed or opened before anything is made.

use std::path::Path;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Hook, Spec};

use super::idmap::IdMaps;
use super::namespace::Namespaces;
use super::netdevice::{self, NetDevice};
use crate::error::Error;
use crate::options::CgroupDriver;
use crate::state::State;
use crate::store::Container;
use crate::{cgroup, hooks, process, rootfs};

/// A container to be.
#[derive(Debug)]
pub struct Plan {
    pub namespaces: Namespaces,
    /// For a user namespace that is made.
    pub id_maps: Option<IdMaps>,
    pub cgroup: cgroup::Plan,
    pub rootfs: rootfs::Plan,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub net_devices: Vec<NetDevice>,
    pub hooks: Hooks,
    pub process: process::Plan,
}

/// The hooks of the creation (config.md, "POSIX-platform Hooks"), by where and when they run.
#[derive(Debug, Default)]
pub struct Hooks {
    /// In the runtime's namespaces, when the mounts are there. The older name of the next.
    pub prestart: Vec<Hook>,
    /// The same.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, the root still the machine's.
    pub create_container: Vec<Hook>,
    /// In the container, before its program.
    pub start_container: Vec<Hook>,
}

impl Plan {
    /// The plan for a container of that specification; relative paths are relative to `bundle`.
    pub fn new(spec: &Spec, bundle: &Path, container: &Container, driver: CgroupDriver) -> Result<Self, Error> {
        let given = spec.process().as_ref().ok_or_else(|| Error::spec("config.json: process: missing"))?;
        let mut process = process::Plan::new(given, spec.linux().as_ref(), Some(&container.filters_dir()))?;
        process.make_cwd = true;
        let namespaces = Namespaces::open(spec)?;
        let made = namespaces.makes(CloneFlags::CLONE_NEWUSER);
        Ok(Self {
            id_maps: made.then(|| IdMaps::new(spec)).transpose()?,
            cgroup: cgroup::Plan::new(spec, container.id(), driver)?,
            rootfs: rootfs::Plan::new(spec, bundle, namespaces.user())?,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            net_devices: netdevice::parse(spec, &namespaces)?,
            hooks: Hooks::new(spec),
            namespaces,
            process,
        })
    }
}

impl Hooks {
    /// Those of a specification.
    pub fn new(spec: &Spec) -> Self {
        let Some(hooks) = spec.hooks() else { return Self::default() };
        let list = |kind: &Option<Vec<Hook>>| kind.clone().unwrap_or_default();
        #[allow(deprecated)] // by the specification, yet in use
        let prestart = list(hooks.prestart());
        Self {
            prestart,
            create_runtime: list(hooks.create_runtime()),
            create_container: list(hooks.create_container()),
            start_container: list(hooks.start_container()),
        }
    }

    /// Whether any run while the container is created.
    pub fn any(&self) -> bool {
        self.any_of_runtime() || !self.create_container.is_empty()
    }

    /// Whether any run in the runtime's namespaces.
    pub fn any_of_runtime(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// Runs those, in this process's namespaces.
    pub fn run_of_runtime(&self, state: &State) -> Result<(), Error> {
        hooks::run("prestart", &self.prestart, state, None)?;
        hooks::run("createRuntime", &self.create_runtime, state, None)
    }
}
