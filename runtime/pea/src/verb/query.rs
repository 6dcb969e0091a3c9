//! `state`, `list`, `ps`, statistics: what can be known of a container.

use std::path::Path;

use crate::cgroup;
use crate::engine;
use crate::error::{Error, ErrorKind};
use crate::rdt;
use crate::state::{State, Status, Traits};
use crate::stats::Stats;
use crate::store::{self, Container, Record};

/// Where the container stands, by what lives now.
pub fn status(container: &Container, record: &Record) -> Status {
    let started = || record.started || !engine::is_gate_closed(&container.dir());
    match record.living_init() {
        None if record.init.is_none() && !record.is_abandoned() && container.is_locked() => Status::Creating,
        None => Status::Stopped,
        Some(_) if cgroup::is_frozen(&record.cgroup) => Status::Paused,
        Some(_) if started() => Status::Running,
        Some(_) => Status::Created,
    }
}

/// The container's state.
pub fn state(container: &Container) -> Result<State, Error> {
    let record = container.record()?;
    Ok(State::of(&record, status(container, &record), record.living_init().unwrap_or(0)))
}

/// What is known of the container's specification without reading it, unless an earlier version has created it.
pub fn traits(container: &Container) -> Result<Traits, Error> {
    match container.record()?.traits {
        Some(traits) => Ok(traits),
        None => Ok(Traits::of(&container.spec()?)),
    }
}

/// All containers under `root` whose state can be read; of others a warning is logged.
pub fn list(root: &Path) -> Result<Vec<State>, Error> {
    let mut states = Vec::new();
    for id in store::ids(root)? {
        match state(&Container::new(root, &id)?) {
            Ok(state) => states.push(state),
            // Deleted since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // One that is damaged must not hide the others.
            Err(error) => tracing::warn!("container \"{id}\": {error}"),
        }
    }
    Ok(states)
}

/// Every process of the container's cgroup.
pub fn pids(container: &Container) -> Result<Vec<i32>, Error> {
    cgroup::pids(&container.record()?.cgroup)
}

/// What the container uses.
pub fn stats(container: &Container) -> Result<Stats, Error> {
    let record = container.record()?;
    let stats = cgroup::stats(&record.cgroup)?;
    if !record.follow_up {
        // Shares of caches would have to be taken back: there are none.
        return Ok(stats);
    }
    let rdt = rdt::Plan::new(&container.spec()?, container.id())?.map(|plan| plan.stats());
    Ok(Stats { rdt, ..stats })
}
