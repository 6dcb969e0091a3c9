//! From `linux.resources` to values in files (config-linux.md, "Control groups").
//!
//! The specification speaks the language of cgroup v1. Where a controller is of v2 a value is converted, in the way
//! callers know from runc and crun; what v2 has no means for is an error, as the specification demands. Zero is "not
//! set", unless said otherwise.

mod block_io;
mod cpu;
mod memory;
mod other;

pub use memory::check_before_update;

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::hierarchy::Layout;
use super::value::{Value, unsupported};
use crate::error::Error;
use crate::stats::CgroupVersion;

/// The cgroup the values are for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub layout: &'a Layout,
    /// The same in every hierarchy.
    pub path: &'a Path,
    /// Whether a pids limit of zero is a limit, as since version 1.3 of the specification; before, it was "not set".
    pub zero_is_a_limit: bool,
}

/// A cgroup in the hierarchy of one controller.
struct Home {
    dir: PathBuf,
    version: CgroupVersion,
}

impl Target<'_> {
    /// Where the controller is; an error that names the key when the machine has none.
    fn home(&self, controller: &str, key: &str) -> Result<Home, Error> {
        let (hierarchy, version) = self
            .layout
            .home_of(controller)
            .ok_or_else(|| unsupported(key, &format!("there is no {controller} cgroup controller")))?;
        Ok(Home { dir: hierarchy.dir(self.path), version })
    }
}

/// All that is to be written, in its order; device rules are another matter.
pub fn values(resources: &LinuxResources, target: Target<'_>) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    if let Some(memory) = resources.memory() {
        values.extend(memory::values(memory, target)?);
    }
    if let Some(cpu) = resources.cpu() {
        values.extend(cpu::values(cpu, target)?);
    }
    if let Some(block_io) = resources.block_io() {
        values.extend(block_io::values(block_io, target)?);
    }
    if let Some(pids) = resources.pids() {
        values.extend(other::pids(pids, target)?);
    }
    values.extend(other::hugepages(resources.hugepage_limits().as_deref().unwrap_or_default(), target)?);
    if let Some(network) = resources.network() {
        values.extend(other::network(network, target)?);
    }
    values.extend(other::rdma(resources.rdma().iter().flatten(), target)?);
    // In cgroup v2's own words, which have the last word.
    values.extend(other::unified(resources.unified().iter().flatten(), target)?);
    Ok(values)
}

#[cfg(test)]
pub mod testing {
    //! Plans on machines that are made up.

    use serde_json::Value as Json;

    use super::*;

    pub fn v1() -> Layout {
        Layout::of_v1()
    }

    pub fn v2() -> Layout {
        Layout::of_v2()
    }

    /// "directory/file=value" of each value, with only the last part of the hierarchy's name.
    pub fn plan(layout: &Layout, resources: Json) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_value(resources).expect("resources");
        let target = Target { layout, path: Path::new("/x"), zero_is_a_limit: true };
        let values = values(&resources, target).map_err(|error| error.to_string())?;
        let line = |value: &Value| {
            let (dir, file, text) = value.first();
            format!("{}/{file}={text}", dir.parent().unwrap_or(dir).display()).trim_start_matches('/').to_owned()
        };
        Ok(values.iter().map(line).collect())
    }
}
