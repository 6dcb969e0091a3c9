//! `pea list`

use clap::Args;

use super::{Format, json, print};
use crate::error::Error;
use crate::{Runtime, State};

/// List the containers
#[derive(Debug, Args)]
pub struct Arguments {
    /// As a table or as JSON
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    let states = runtime.list()?;
    if arguments.quiet {
        return states.iter().try_for_each(|state| print(&state.id));
    }
    match arguments.format {
        Format::Json => print(&json(&states)?),
        Format::Table => print(table(&states).trim_end()),
    }
}

fn table(states: &[State]) -> String {
    let width = states.iter().map(|state| state.id.len()).chain([2]).max().unwrap_or(2);
    let bundle = states.iter().map(|state| state.bundle.as_os_str().len()).chain([6]).max().unwrap_or(6);
    let mut text =
        format!("{:width$}  {:7}  {:8}  {:bundle$}  {:30}  OWNER\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
    for state in states {
        let owner = if state.owner.is_empty() { "root" } else { &state.owner };
        text += &format!(
            "{:width$}  {:<7}  {:8}  {:bundle$}  {:30}  {owner}\n",
            state.id,
            state.pid,
            state.status,
            state.bundle.display(),
            state.created
        );
    }
    text
}
