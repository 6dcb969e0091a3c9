//! `pea list`

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::Args;

use super::{Format, compact_json, print};
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

pub fn run(runtime: &Runtime, root: &Path, arguments: &Arguments) -> Result<(), Error> {
    let mut states = runtime.list()?;
    if arguments.quiet {
        return states.iter().try_for_each(|state| print(&state.id));
    }
    for state in &mut states {
        state.owner = owner(&root.join(&state.id));
    }
    match arguments.format {
        Format::Json => print(&compact_json(&states)?),
        Format::Table => print(&table(&states)),
    }
}

/// Who made the container: the name of the directory's owner, or the number after a #.
fn owner(dir: &Path) -> String {
    let Ok(uid) = fs::metadata(dir).map(|dir| dir.uid()) else { return String::new() };
    user_name(uid).unwrap_or_else(|| format!("#{uid}"))
}

/// As the machine's own list has it. Not getpwuid_r(3), which would load other sources of names: a static program cannot.
fn user_name(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let users = fs::read("/etc/passwd").ok()?;
    String::from_utf8_lossy(&users).lines().find_map(|line| {
        // passwd(5): name, password, user id.
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// In runc's columns: at least 12 wide, and 3 apart.
fn table(states: &[State]) -> String {
    let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |state: &State| {
        let State { id, pid, status, bundle, created, owner, .. } = state;
        let bundle = bundle.display().to_string();
        [id.clone(), pid.to_string(), status.to_string(), bundle, created.clone(), owner.clone()]
    };
    let rows: Vec<[String; 6]> = [heading].into_iter().chain(states.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<String>() + &row[5]
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;
    use crate::{State, Status};

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let state = State {
            oci_version: String::new(),
            id: "a-rather-long-id".to_owned(),
            pid: 7,
            status: Status::Running,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "now".to_owned(),
            annotations: Default::default(),
            owner: "root".to_owned(),
        };
        let text = "ID                 PID         STATUS      BUNDLE      CREATED     OWNER\n\
                    a-rather-long-id   7           running     /b          now         root";
        assert_eq!(table(&[state]), text);
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER");
    }
}
