//! `pea state`

use clap::Args;

use super::{json, print};
use crate::Runtime;
use crate::error::Error;

/// Print the state of a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    print(&json(&runtime.state(&arguments.id)?)?)
}
