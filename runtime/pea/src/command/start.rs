//! `pea start`

use clap::Args;

use super::notify::Notify;
use crate::Runtime;
use crate::error::Error;

/// Start the program of a created container
#[derive(Debug, Args)]
pub struct Arguments {
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    start(runtime, &arguments.id)
}

/// Starts it; if somebody wants to know when it is ready, waits until it is.
pub fn start(runtime: &Runtime, id: &str) -> Result<(), Error> {
    let notify = Notify::listen(runtime, id)?;
    runtime.start(id)?;
    notify.map_or(Ok(()), |notify| notify.forward())
}
