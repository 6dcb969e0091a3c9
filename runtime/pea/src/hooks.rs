//! Hooks (runtime-spec, "POSIX-platform Hooks"): programs that are told of a container's life.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::Hook;

use crate::error::Error;
use crate::process::Plan;
use crate::state::State;
use crate::sys::process;

/// Runs hooks one after the other, with the state on their standard input. The first failure ends it.
///
/// A hook without an environment of its own gets that of `program`, or without one, ours.
pub fn run(kind: &str, hooks: &[Hook], state: &State, program: Option<&Plan>) -> Result<(), Error> {
    for hook in hooks {
        let failed = |reason| Error::internal(format!("{kind} hook {reason}: {}", hook.path().display()));
        run_one(hook, state, program).map_err(failed)?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &State, program: Option<&Plan>) -> Result<(), String> {
    let input = input(state).map_err(not_run)?;
    let mut child = command(hook, program).stdin(input).spawn().map_err(not_run)?;
    let seconds = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let status = wait(&mut child, seconds.map(Duration::from_secs))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("failed with exit code {code}")),
        (None, signal) => Err(format!("was killed by signal {}", signal.unwrap_or(0))),
    }
}

fn not_run(error: io::Error) -> String {
    format!("could not be run ({})", crate::error::reason(&error))
}

fn not_waited(error: io::Error) -> String {
    format!("could not be waited for ({})", crate::error::reason(&error))
}

/// The state as a file: a hook need not read it, which on a pipe would stop us, or end us by SIGPIPE.
fn input(state: &State) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file)
}

fn command(hook: &Hook, program: Option<&Plan>) -> Command {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    let inherited = program.map(|plan| plan.env.iter().map(|entry| entry.to_string_lossy().into_owned()).collect());
    let given: Option<Vec<String>> = hook.env().clone().or(inherited);
    if given.is_some() {
        command.env_clear();
    }
    for entry in given.unwrap_or_default() {
        let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
        command.env(name, value);
    }
    command.stdout(Stdio::null());
    command
}

fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<ExitStatus, String> {
    if let Some(timeout) = timeout {
        let pidfd = process::pidfd_open(child.id() as i32).map_err(not_waited)?;
        let limit = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], limit) == Ok(0) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("did not end within {timeout:?}"));
        }
    }
    child.wait().map_err(not_waited)
}
