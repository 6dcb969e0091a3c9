//! `pea create`

use std::env;
use std::path::PathBuf;
use std::process;

use clap::Args;

use super::{Global, notify};
use crate::error::Error;
use crate::spec;
use crate::verb::create::Source;
use crate::{CreateOptions, Runtime};

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub struct Creation {
    /// The bundle: a directory with config.json
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// Use this file instead of the bundle's config.json
    #[arg(short = 'f', long)]
    pub config: Option<PathBuf>,
    /// A Unix socket that receives the terminal's master
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// A Unix socket that receives a pidfd of the container's init
    #[arg(long)]
    pub pidfd_socket: Option<PathBuf>,
    /// A file for the pid of the container's init
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root (for a root on a ramdisk)
    #[arg(long)]
    pub no_pivot: bool,
    /// Do not make a session keyring for the container
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Do not become the parent of processes the container leaves behind (`create` never does)
    #[arg(long)]
    pub no_subreaper: bool,
    /// How many descriptors the container gets after 2 and those of $LISTEN_FDS
    #[arg(long, default_value_t, value_name = "N")]
    pub preserve_fds: u32,
}

impl Creation {
    /// The library's view of it.
    pub fn options(&self, global: &Global) -> CreateOptions {
        let listening = listening();
        CreateOptions {
            console_socket: self.console_socket.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            pid_file: self.pid_file.clone(),
            config: self.config.clone(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds.saturating_add(listening),
            env: listening_env(listening),
            notify_socket: notify::wanted(),
            rootless: global.rootless(),
            ..CreateOptions::default()
        }
    }

    /// Reads the configuration, and whether it asks for a terminal.
    pub fn read(&self) -> Result<(Source, bool), Error> {
        let path = self.config.clone().unwrap_or_else(|| self.bundle.join("config.json"));
        let (spec, text) = spec::load_given(&path)?;
        let terminal = spec::has_terminal(&spec);
        Ok((Source::Spec(Box::new(spec), text), terminal))
    }
}

/// How many listening sockets were passed to us (sd_listen_fds(3)); those meant for another process do not count.
fn listening() -> u32 {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match number("LISTEN_PID") {
        Some(pid) if pid != process::id() => 0,
        _ => number("LISTEN_FDS").unwrap_or(0),
    }
}

/// Tells the container of them. Its first process has the pid 1 in there.
fn listening_env(count: u32) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").ok().map(|names| format!("LISTEN_FDNAMES={names}"));
    [format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()].into_iter().chain(names).collect()
}

/// Create a container, to be started later
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    creation: Creation,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, global: &Global, arguments: Arguments) -> Result<(), Error> {
    let creation = &arguments.creation;
    runtime.create_here(&arguments.id, &creation.bundle, Source::Bundle, creation.options(global)).map(drop)
}
