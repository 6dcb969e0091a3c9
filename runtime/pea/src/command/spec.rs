//! `pea spec`

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use nix::unistd::{getegid, geteuid};

use super::json;
use crate::error::{Error, ErrorKind};
use crate::spec::{default_spec, make_rootless};

/// Write a config.json to start from
#[derive(Debug, Args)]
pub struct Arguments {
    /// The directory to write it to
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// For a user who is not root: only namespaces and mounts that need no privilege outside
    #[arg(long)]
    rootless: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let path = arguments.bundle.join("config.json");
    let mut spec = default_spec();
    if arguments.rootless {
        make_rootless(&mut spec, geteuid().as_raw(), getegid().as_raw());
    }
    let text = json(&spec)?;
    let written = File::create_new(&path).and_then(|mut file| writeln!(file, "{text}"));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let text = format!("{} exists; remove it first", path.display());
            Error::new(ErrorKind::AlreadyExists, text)
        }
        _ => Error::io(format!("write {}", path.display()), error),
    })
}
