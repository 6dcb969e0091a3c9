//! `pea pause` and `pea resume`

use clap::Args;

use crate::Runtime;
use crate::error::Error;

/// Stop all processes of a container where they are
#[derive(Debug, Args)]
pub struct PauseArguments {
    /// The container's id
    id: String,
}

/// Let the processes of a paused container go on
#[derive(Debug, Args)]
pub struct ResumeArguments {
    /// The container's id
    id: String,
}

pub fn pause(runtime: &Runtime, arguments: &PauseArguments) -> Result<(), Error> {
    runtime.pause(&arguments.id)
}

pub fn resume(runtime: &Runtime, arguments: &ResumeArguments) -> Result<(), Error> {
    runtime.resume(&arguments.id)
}
