//! `pea start`

use clap::Args;

use crate::Runtime;
use crate::error::Error;

/// Start the program of a created container
#[derive(Debug, Args)]
pub struct Arguments {
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    runtime.start(&arguments.id)
}
