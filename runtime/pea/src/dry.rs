//! Dry runs, for tests: all that is done with a file from outside before anything is made of it. Nothing is left or
//! changed by them, and whatever the file says, they end, with an error at most.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::engine;
use crate::error::Error;
use crate::options::CgroupDriver;
use crate::process;
use crate::rootfs;
use crate::spec;
use crate::state::{State, Status};
use crate::store::{Container, Record};

/// A state root that nobody can make, so that no compiled filter is kept.
const NOWHERE: &str = "/proc/self/no-such-root";
const ID: &str = "dry";

/// `create`, with this `config.json` in that bundle. Every plan is made, whatever the others say.
///
/// # Errors
/// The first one of the plan of this machine.
pub fn config(text: &[u8], bundle: &Path) -> Result<(), Error> {
    let mut spec = spec::parse(text, Path::new("config.json"))?;
    spec::add_env(&mut spec, &["NAME=value".to_owned()]);
    spec::add_notify_socket(&mut spec, Path::new("/notify"));
    let checked = spec::check(&spec);
    let _ = rootfs::Plan::new(&spec, bundle, true).map(|plan| format!("{plan:?}"));
    if let Some(process) = spec.process() {
        let _ = process::Plan::new(process, spec.linux().as_ref(), None).map(|plan| format!("{plan:?}"));
    }
    for layout in [cgroup::Layout::of_v1(), cgroup::Layout::of_v2()] {
        for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd, CgroupDriver::Disabled] {
            let _ = cgroup::Plan::on(layout.clone(), &spec, ID, driver).map(|plan| format!("{plan:?}"));
        }
    }
    whole(&spec, bundle).and(checked)
}

fn whole(spec: &Spec, bundle: &Path) -> Result<(), Error> {
    let container = Container::new(Path::new(NOWHERE), ID)?;
    let plan = engine::Plan::new(spec, bundle, &container, CgroupDriver::Cgroupfs)?;
    drop(format!("{plan:?}"));
    Ok(())
}

/// `exec --process`, with this file.
///
/// # Errors
/// Whatever is wrong with it.
pub fn process(text: &[u8]) -> Result<(), Error> {
    let process = spec::parse_process(text, Path::new("process.json"))?;
    let plan = process::Plan::new(&process, None, None)?;
    drop(format!("{plan:?}"));
    Ok(())
}

/// Any verb, with this `state.json` of a container. What was read is written again as it was.
///
/// # Errors
/// Whatever is wrong with it.
pub fn state(text: &[u8]) -> Result<(), Error> {
    let damaged = |error| Error::internal(format!("state.json: {error}"));
    let record = Record::decode(text).map_err(damaged)?;
    let _ = (record.is_abandoned(), record.living_init());
    let _ = cgroup::checked(&record.cgroup);
    let encode = |value| serde_json::to_string(&value).map_err(damaged);
    encode(State::of(&record, Status::Running, 1))?;
    let again = record.encode()?;
    let again = Record::decode(&again).map_err(|error| Error::internal(format!("written, but not readable: {error}")));
    // Field by field: annotations have no order.
    match format!("{:?}", (&record.id, &record.cgroup, &record.init)) {
        first
            if again.as_ref().is_ok_and(|again| first == format!("{:?}", (&again.id, &again.cgroup, &again.init))) =>
        {
            Ok(())
        }
        _ => Err(Error::internal("a bug: state.json is not written as it was read")),
    }
}
