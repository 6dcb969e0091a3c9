//! `pea ps`

use std::fs;
use std::os::unix::fs::MetadataExt;

use clap::Args;

use super::{Format, json, print};
use crate::Runtime;
use crate::error::Error;

/// List the processes of a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// As a table or as JSON
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    let pids = runtime.pids(&arguments.id)?;
    match arguments.format {
        Format::Json => print(&json(&pids)?),
        Format::Table => {
            let rows: Vec<String> = pids.iter().filter_map(|pid| row(*pid)).collect();
            print(&format!("{:>8}  {:>8}  {:>6}  COMMAND{}", "PID", "PPID", "UID", rows.concat()))
        }
    }
}

/// A process that has ended since it was listed has no row.
fn row(pid: i32) -> Option<String> {
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{}]", field("Name:")) } else { command };
    Some(format!("\n{pid:>8}  {:>8}  {uid:>6}  {command}", field("PPid:")))
}
