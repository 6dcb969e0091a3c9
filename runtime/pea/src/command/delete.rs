//! `pea delete`

use clap::Args;

use crate::Runtime;
use crate::error::Error;

/// Delete what is left of a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// End it first if it lives; content if there is none
    #[arg(short, long)]
    force: bool,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    runtime.delete(&arguments.id, arguments.force)
}
