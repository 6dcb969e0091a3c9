//! `pea create`

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::Error;
use crate::{CreateOptions, Runtime};

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub struct Creation {
    /// The bundle: a directory with config.json
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// A Unix socket that receives the terminal's master
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// A file for the pid of the container's init
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root (for a root on a ramdisk)
    #[arg(long)]
    pub no_pivot: bool,
    /// Do not make a session keyring for the container
    #[arg(long)]
    pub no_new_keyring: bool,
    /// How many descriptors after 2 the container gets
    #[arg(long, default_value_t, value_name = "N")]
    pub preserve_fds: u32,
}

impl Creation {
    /// The library's view of it.
    pub fn options(&self) -> CreateOptions {
        CreateOptions {
            console_socket: self.console_socket.clone(),
            pid_file: self.pid_file.clone(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            ..CreateOptions::default()
        }
    }

    /// Whether the bundle asks for a terminal.
    pub fn terminal(&self) -> Result<bool, Error> {
        let spec = crate::spec::load(Path::new(&self.bundle))?;
        Ok(spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false))
    }
}

/// Create a container, to be started later
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    creation: Creation,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: Arguments) -> Result<(), Error> {
    let creation = &arguments.creation;
    runtime.create(&arguments.id, &creation.bundle, creation.options())?.finish().map(drop)
}
