//! `pea events`

mod data;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::size;
use crate::cgroup::OomWatch;
use crate::error::{Error, ErrorKind};
use crate::sys::process;
use crate::{Runtime, Status};

/// Tell what a container uses, and when its memory runs out
#[derive(Debug, Args)]
pub struct Arguments {
    /// Time between two statistics, such as 5s or 100ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = size::parse_duration)]
    interval: Duration,
    /// Print the statistics of now and end
    #[arg(long)]
    stats: bool,
    /// The container's id
    id: String,
}

/// Prints an event a line, until the container ends.
pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    let state = runtime.state(&arguments.id)?;
    let pidfd = process::pidfd_open(state.pid);
    if matches!(state.status, Status::Stopped | Status::Creating) || pidfd.is_err() {
        return Err(Error::not_running(&arguments.id));
    }
    if arguments.stats {
        return print_stats(runtime, &arguments.id).map(drop);
    }
    let pidfd = pidfd.map_err(|error| Error::io("open the init's pidfd", error))?;
    // Without a memory controller there is no such event.
    let mut oom = match runtime.oom_watch(&arguments.id) {
        Err(error) if error.kind() == ErrorKind::Unsupported => None,
        oom => Some(oom?),
    };
    let mut next = Instant::now() + arguments.interval;
    loop {
        let ended = wait(&pidfd, oom.as_ref(), next)?;
        if !print_ooms(oom.as_mut(), &arguments.id)? || ended {
            return Ok(());
        }
        if Instant::now() >= next {
            next += arguments.interval;
            if !print_stats(runtime, &arguments.id)? {
                return Ok(());
            }
        }
    }
}

/// Waits for news until `next`; true when the container's init has ended.
fn wait(init: &impl AsFd, oom: Option<&OomWatch>, next: Instant) -> Result<bool, Error> {
    let mut fds = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
    fds.extend(oom.map(|oom| {
        let news = if oom.tells_by_priority() { PollFlags::POLLPRI } else { PollFlags::POLLIN };
        PollFd::new(oom.as_fd(), news)
    }));
    // Rounded up, or the last millisecond would be spent awake.
    let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(fds[0].any().unwrap_or(false)),
        Err(error) => Err(Error::io("wait for events", error)),
    }
}

/// False when nothing more will come, or nobody reads it.
fn print_ooms(oom: Option<&mut OomWatch>, id: &str) -> Result<bool, Error> {
    let Some(oom) = oom else { return Ok(true) };
    let events = oom.read()?;
    for _ in 0..events.count {
        if !print(&Event { kind: "oom", id, data: None })? {
            return Ok(false);
        }
    }
    Ok(!events.ended)
}

fn print_stats(runtime: &Runtime, id: &str) -> Result<bool, Error> {
    let stats = match runtime.stats(id) {
        // Deleted meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        stats => stats?,
    };
    print(&Event { kind: "stats", id, data: Some(data::of(&stats)) })
}

/// In the order of runc's, which scripts may rely on.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<serde_json::Value>,
}

/// False when nobody reads any more.
fn print(event: &Event<'_>) -> Result<bool, Error> {
    let line = super::compact_json(event)?;
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write to the standard output", error)),
        Ok(()) => Ok(true),
    }
}
