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
    start(runtime, &arguments.id, || runtime.start(&arguments.id))
}

/// Starts it by `start`; if somebody wants to know when it is ready, waits until it is.
pub fn start(runtime: &Runtime, id: &str, start: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let notify = Notify::listen(runtime, id)?;
    start()?;
    notify.map_or(Ok(()), |notify| notify.forward())
}
