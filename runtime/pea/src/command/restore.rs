//! `pea restore`

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::checkpoint::Images;
use super::foreground::Foreground;
use crate::error::{Error, ErrorKind};
use crate::{RestoreOptions, Runtime};

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
    /// For a terminal, which cannot be restored
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
    if arguments.console_socket.is_some() {
        let text = "--console-socket: a container with a terminal cannot be restored";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let options = RestoreOptions {
        pid_file: arguments.pid_file.clone(),
        lsm_profile: arguments.lsm_profile.clone(),
        lsm_mount_context: arguments.lsm_mount_context.clone(),
        ..RestoreOptions::new(arguments.images.options(global))
    };
    if arguments.detach {
        return runtime.restore(&arguments.id, &arguments.bundle, options)?.finish().map(|_| 0);
    }
    let mut foreground = Foreground::begin()?;
    let pid = runtime.restore(&arguments.id, &arguments.bundle, options)?.finish()?;
    if arguments.no_subreaper {
        Foreground::adopt_no_more()?;
    }
    let ended = foreground.attach(pid, None).and_then(|()| foreground.wait());
    drop(foreground);
    let deleted = runtime.delete(&arguments.id, true);
    let code = ended?;
    deleted.map(|()| code)
}
