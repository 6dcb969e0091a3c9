//! `start`: the init executes the user's program.

use crate::engine;
use crate::error::{Error, ErrorKind};
use crate::hooks;
use crate::state::{State, Status};
use crate::store::{Container, Lock, Record};
use crate::verb::{delete, query};

/// Starts a created container.
pub fn start(container: &Container) -> Result<(), Error> {
    let lock = container.lock()?;
    let record = container.record()?;
    let id = container.id();
    match query::status(container, &record) {
        Status::Created => {}
        Status::Stopped => {
            let text = format!("cannot start container \"{id}\": it has stopped");
            return Err(Error::new(ErrorKind::InvalidState, text));
        }
        status => {
            let text = format!("cannot start container \"{id}\": it is {status}");
            return Err(Error::new(ErrorKind::InvalidState, text));
        }
    }
    start_created(container, lock, &record)
}

/// Starts a container that is known to wait for it.
pub fn start_created(container: &Container, lock: Lock, record: &Record) -> Result<(), Error> {
    engine::open_gate(&container.dir(), container.id())?;
    if !record.follow_up {
        return Ok(());
    }
    let spec = container.spec()?;
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().clone()).unwrap_or_default();
    let state = State::of(record, Status::Running, record.living_init().unwrap_or(0));
    let told = hooks::run("poststart", &hooks, &state, None);
    if told.is_err() {
        // As other runtimes have it: the container ends, and is no more.
        drop(lock);
        delete::delete(container, true)?;
    }
    told
}
