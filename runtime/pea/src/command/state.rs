//! `pea state`

use clap::Args;

use super::{json, print};
use crate::error::Error;
use crate::{Runtime, Status};

/// Print the state of a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    let state = runtime.state(&arguments.id)?;
    // Callers take the first answer for that of a container they can start.
    if state.status == Status::Creating {
        return Err(Error::does_not_exist(&state.id));
    }
    print(&json(&state)?)
}
