//! `pause` and `resume`: all processes of a container stop where they are, and go on.

use crate::cgroup;
use crate::error::{Error, ErrorKind};
use crate::state::Status;
use crate::store::Container;
use crate::verb::query;

/// Freezes a created or running container.
pub fn pause(container: &Container) -> Result<(), Error> {
    let _lock = container.lock()?;
    let record = container.record()?;
    match query::status(container, &record) {
        Status::Created | Status::Running => cgroup::freeze(&record.cgroup),
        Status::Paused => {
            let text = format!("cannot pause container \"{}\": it is paused", container.id());
            Err(Error::new(ErrorKind::InvalidState, text))
        }
        Status::Creating | Status::Stopped => Err(Error::not_running(container.id())),
    }
}

/// Lets a paused container go on.
pub fn resume(container: &Container) -> Result<(), Error> {
    let _lock = container.lock()?;
    let record = container.record()?;
    match query::status(container, &record) {
        Status::Paused => cgroup::thaw(&record.cgroup),
        status => {
            let text = format!("container not paused: \"{}\" is {status}", container.id());
            Err(Error::new(ErrorKind::InvalidState, text))
        }
    }
}
