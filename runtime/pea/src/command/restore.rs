//! `pea restore`

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::checkpoint::Images;
use super::foreground::Foreground;
use super::terminal::Console;
use crate::error::Error;
use crate::{RestoreOptions, Runtime, spec};

/// Make a container of what a checkpoint has left, by means of CRIU
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    images: Images,
    /// The bundle: a directory with config.json
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// A file for the pid of the container's init
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// A Unix socket that receives the terminal's master
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Do not become the parent of processes the container leaves behind
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for compatibility: CRIU changes the root as it needs to
    #[arg(long)]
    no_pivot: bool,
    /// The processes' profile from now on
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// The context of mounts that have one
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, global: &Global, arguments: &Arguments) -> Result<u8, Error> {
    let restore = |console_socket| {
        let options = RestoreOptions {
            console_socket,
            pid_file: arguments.pid_file.clone(),
            lsm_profile: arguments.lsm_profile.clone(),
            lsm_mount_context: arguments.lsm_mount_context.clone(),
            ..RestoreOptions::new(arguments.images.options(global))
        };
        runtime.restore(&arguments.id, &arguments.bundle, options)?.finish()
    };
    if arguments.detach {
        return restore(arguments.console_socket.clone()).map(|_| 0);
    }
    let console = arguments.serves_terminal()?.then(Console::listen).transpose()?;
    let own = console.as_ref().map(Console::path);
    let mut foreground = Foreground::begin()?;
    let pid = restore(own.or(arguments.console_socket.clone()))?;
    if arguments.no_subreaper {
        Foreground::adopt_no_more()?;
    }
    let ended = foreground.attach(pid, console).and_then(|()| foreground.wait());
    drop(foreground);
    let deleted = runtime.delete(&arguments.id, true);
    let code = ended?;
    deleted.map(|()| code)
}

impl Arguments {
    /// Whether the container's terminal is ours to serve: nobody else has been named, and it is no job that has ours.
    fn serves_terminal(&self) -> Result<bool, Error> {
        if self.console_socket.is_some() || self.images.is_shell_job() {
            return Ok(false);
        }
        let (spec, _) = spec::load_given(&self.bundle.join("config.json"))?;
        Ok(spec::has_terminal(&spec))
    }
}
