//! `pea exec`

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process};

use super::foreground::Foreground;
use super::terminal::Console;
use crate::error::{Error, ErrorKind};
use crate::{ExecOptions, Runtime};

/// Execute a program in a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// A file describing the process; instead of the flags below and a command
    #[arg(short, long, conflicts_with = "command")]
    process: Option<PathBuf>,
    /// A Unix socket that receives the terminal's master
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// A file for the pid of the process
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// A Unix socket that receives a pidfd of the process
    #[arg(long)]
    pidfd_socket: Option<PathBuf>,
    /// How many descriptors after 2 the process gets
    #[arg(long, default_value_t, value_name = "N")]
    preserve_fds: u32,
    /// A cgroup below the container's to run it in
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    cgroup: Vec<String>,
    /// Serve a paused container too: the process begins when the container is resumed
    #[arg(long)]
    ignore_paused: bool,
    #[command(flatten)]
    changes: Changes,
    /// The container's id
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// How the process differs from the container's first.
#[derive(Debug, Args)]
struct Changes {
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// An environment variable to add, NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Its working directory
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// Its user, UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// A group to add
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// A capability to add
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Do not let it gain privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Its AppArmor profile
    #[arg(long)]
    apparmor: Option<String>,
    /// Its SELinux label
    #[arg(long)]
    process_label: Option<String>,
}

pub fn run(runtime: &Runtime, arguments: Arguments) -> Result<u8, Error> {
    let template = runtime.template(&arguments.id)?;
    let process = process(&template.process, &arguments)?;
    let terminal = process.terminal().unwrap_or(false);
    let mut options = ExecOptions {
        console_socket: arguments.console_socket.clone(),
        pid_file: arguments.pid_file.clone(),
        pidfd_socket: arguments.pidfd_socket.clone(),
        preserve_fds: arguments.preserve_fds,
        cgroup: arguments.cgroup.clone(),
        ignore_paused: arguments.ignore_paused,
        ..ExecOptions::default()
    };
    if arguments.detach {
        return runtime.exec_from(&arguments.id, template, process, options)?.finish().map(|_| 0);
    }
    let console = if terminal && options.console_socket.is_none() { Some(Console::listen()?) } else { None };
    if let Some(console) = &console {
        options.console_socket = Some(console.path().to_owned());
    }
    let mut foreground = Foreground::begin()?;
    let pid = runtime.exec_from(&arguments.id, template, process, options)?.finish()?;
    foreground.attach(pid, console)?;
    foreground.wait()
}

/// The process given by file, or the container's own with the flags applied.
fn process(own: &Process, arguments: &Arguments) -> Result<Process, Error> {
    if let Some(path) = &arguments.process {
        let text = fs::read(path).map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        return crate::spec::parse_process(&text, path);
    }
    if arguments.command.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "exec: a command is required (or --process)"));
    }
    let mut process = own.clone();
    process.set_args(Some(arguments.command.clone()));
    change(&mut process, &arguments.changes)?;
    Ok(process)
}

fn change(process: &mut Process, changes: &Changes) -> Result<(), Error> {
    process.set_terminal(Some(changes.tty));
    set_variables(process.env_mut().get_or_insert_default(), &changes.env)?;
    if let Some(cwd) = &changes.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(user) = &changes.user {
        let (uid, gid) = parse_user(user)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    process.user_mut().additional_gids_mut().get_or_insert_default().extend(&changes.additional_gids);
    if changes.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if changes.apparmor.is_some() {
        process.set_apparmor_profile(changes.apparmor.clone());
    }
    if changes.process_label.is_some() {
        process.set_selinux_label(changes.process_label.clone());
    }
    add_capabilities(process, &changes.cap)
}

/// A variable given replaces one of that name.
fn set_variables(env: &mut Vec<String>, given: &[String]) -> Result<(), Error> {
    for variable in given {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("--env {variable}: NAME=VALUE is wanted")));
        };
        env.retain(|other| other.split_once('=').is_none_or(|(other, _)| other != name));
        env.push(variable.clone());
    }
    Ok(())
}

fn parse_user(text: &str) -> Result<(u32, Option<u32>), Error> {
    let wrong = |_| Error::new(ErrorKind::InvalidArgument, format!("--user {text}: UID[:GID] in numbers is wanted"));
    match text.split_once(':') {
        Some((uid, gid)) => Ok((uid.parse().map_err(wrong)?, Some(gid.parse().map_err(wrong)?))),
        None => Ok((text.parse().map_err(wrong)?, None)),
    }
}

/// To the sets that make a program hold them.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let wrong = |error| Error::new(ErrorKind::InvalidArgument, format!("--cap: {error}"));
    let added: Result<HashSet<Capability>, _> =
        names.iter().map(|name| serde_json::from_value(name.as_str().into())).collect();
    let added = added.map_err(wrong)?;
    let mut sets = match process.capabilities() {
        Some(sets) => sets.clone(),
        // Its Default is a set of capabilities, and not none.
        None => serde_json::from_str::<LinuxCapabilities>("{}").map_err(wrong)?,
    };
    let with = |set: &Option<HashSet<Capability>>| Some(set.iter().flatten().chain(&added).copied().collect());
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    process.set_capabilities(Some(sets));
    Ok(())
}
