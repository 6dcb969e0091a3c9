//! `pea ps`

use std::process::{Command, Stdio};

use clap::Args;

use super::{Format, compact_json, print};
use crate::Runtime;
use crate::error::Error;

/// List the processes of a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// As the system's ps prints them, or their numbers as JSON
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// The container's id
    id: String,
    /// What ps is to be told; -ef if nothing
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS ARGUMENTS")]
    arguments: Vec<String>,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    let pids = runtime.pids(&arguments.id)?;
    match arguments.format {
        Format::Json => print(&compact_json(&pids)?),
        Format::Table => {
            let table = ps(&arguments.arguments)?;
            let rows = rows_of(&table, &pids).ok_or_else(|| Error::internal("couldn't find PID field in ps output"))?;
            print(&rows.join("\n"))
        }
    }
}

/// What the system's own ps says of all processes: people know its options and columns.
fn ps(arguments: &[String]) -> Result<String, Error> {
    let default = ["-ef".to_owned()];
    let arguments = if arguments.is_empty() { &default } else { arguments };
    let output = Command::new("ps").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Error::io("execute ps", error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    Err(Error::internal(format!("ps {}: {}: {said}", arguments.join(" "), output.status)))
}

/// The heading, and the lines whose PID is one of these; `None` when there is no such column.
fn rows_of<'a>(table: &'a str, pids: &[i32]) -> Option<Vec<&'a str>> {
    let mut lines = table.lines();
    let heading = lines.next()?;
    let column = heading.split_whitespace().position(|name| name == "PID")?;
    let pid = |line: &str| line.split_whitespace().nth(column)?.parse().ok();
    let wanted = lines.filter(|line| pid(line).is_some_and(|pid: i32| pids.contains(&pid)));
    Some([heading].into_iter().chain(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::rows_of;

    #[test]
    fn rows_are_chosen_by_their_pid() {
        let table = "USER  PID COMMAND\nroot    7 sleep 42\nroot   42 sleep 7\n";
        assert_eq!(rows_of(table, &[42]), Some(vec!["USER  PID COMMAND", "root   42 sleep 7"]));
        assert_eq!(rows_of("COMMAND\nsleep\n", &[42]), None);
    }
}
