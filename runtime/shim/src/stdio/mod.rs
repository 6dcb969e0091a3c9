//! A process's standard streams: between it and their addresses the shim copies, without a thread.
//!
//! ```text
//! client ──FIFO──▶ stdin  copy ──pipe──▶ process ──pipe──▶ output copy ──▶ FIFO | file | CRI log
//!                                 └────── or one pty for all three ──────┘
//! ```

mod address;
mod console;
mod cri;
mod sink;
mod source;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::Error;
use crate::log;
use address::Address;
use console::Console;
pub use console::ConsoleSocket;
use sink::Sink;
use source::{Input, Source};

/// The addresses of a process's streams, as the request gave them.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output, and with a terminal the only output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// One pty instead of three pipes.
    pub terminal: bool,
}

/// What the process itself is given; the copies hang at the other ends.
#[derive(Default)]
pub struct ProcessEnds {
    /// Its standard input.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: Option<OwnedFd>,
    /// Its standard error.
    pub stderr: Option<OwnedFd>,
}

/// Streams that are open but not flowing yet.
pub struct Prepared {
    /// For the process.
    pub ends: ProcessEnds,
    outputs: Vec<(Source, Sink)>,
    input: Option<(Input, Option<tokio::net::unix::pipe::Sender>)>,
    terminal_output: Option<Sink>,
}

/// Flowing streams.
#[derive(Default)]
pub struct Streams {
    outputs: JoinSet<()>,
    input: Option<JoinHandle<()>>,
    input_hold: Option<OwnedFd>,
    console: Option<Arc<Console>>,
}

impl Prepared {
    /// Opens everything. Nothing here waits for a reader or writer at the other end of a FIFO.
    ///
    /// `owner` owns the pipes, so that a user other than root may reopen them as `/dev/stdout`.
    pub fn open(stdio: &Stdio, owner: (u32, u32)) -> Result<Self, Error> {
        let mut prepared =
            Self { ends: ProcessEnds::default(), outputs: Vec::new(), input: None, terminal_output: None };
        let input = match Address::parse(&stdio.stdin)? {
            Address::Null => None,
            Address::Path(path) => Some(Input::open(&path)?),
            Address::File(path) | Address::CriLog(path) => {
                return Err(Error::invalid(format!("standard input cannot come from file://{}", path.display())));
            }
        };
        if stdio.terminal {
            prepared.input = input.map(|input| (input, None));
            prepared.terminal_output = Some(Sink::open(&Address::parse(&stdio.stdout)?, "stdout")?);
            return Ok(prepared);
        }
        prepared.ends.stdin = Some(match input {
            None => null()?,
            Some(input) => {
                let (theirs, ours) = pipe(owner)?;
                let ours = tokio::net::unix::pipe::Sender::from_owned_fd(ours)
                    .map_err(|source| Error::io("watch the pipe of standard input", source))?;
                prepared.input = Some((input, Some(ours)));
                theirs
            }
        });
        prepared.ends.stdout = Some(prepared.output(&stdio.stdout, "stdout", owner)?);
        prepared.ends.stderr = Some(prepared.output(&stdio.stderr, "stderr", owner)?);
        Ok(prepared)
    }

    /// The process's end of one output.
    fn output(&mut self, address: &str, name: &'static str, owner: (u32, u32)) -> Result<OwnedFd, Error> {
        let address = Address::parse(address)?;
        if matches!(address, Address::Null) {
            return null();
        }
        let sink = Sink::open(&address, name)?;
        let (ours, theirs) = pipe(owner)?;
        self.outputs.push((Source::pipe(ours)?, sink));
        Ok(theirs)
    }

    /// Lets the streams flow. `console` is the pty's master when a terminal was asked for.
    pub fn flow(self, console: Option<OwnedFd>) -> Result<Streams, Error> {
        let mut streams = Streams::default();
        let mut outputs = self.outputs;
        if let Some(master) = console {
            let console = Arc::new(Console::new(master)?);
            if let Some(sink) = self.terminal_output {
                outputs.push((Source::Console(console.clone()), sink));
            }
            streams.console = Some(console);
        }
        for (source, sink) in outputs {
            streams.outputs.spawn(source::copy(source, sink));
        }
        if let Some((mut input, pipe)) = self.input {
            streams.input_hold = input.take_hold();
            let target = match (pipe, &streams.console) {
                (Some(pipe), _) => Some(source::Target::Pipe(pipe)),
                (None, Some(console)) => Some(source::Target::Console(console.clone())),
                (None, None) => None,
            };
            streams.input = target.map(|target| tokio::spawn(input.copy(target)));
        }
        Ok(streams)
    }
}

impl Streams {
    /// Ends standard input: once the last writer has closed the FIFO and it is empty, the process reads the end.
    pub fn close_input(&mut self) {
        self.input_hold = None;
    }

    /// Nobody reads standard input any more.
    pub fn abandon_input(&mut self) {
        self.input_hold = None;
        if let Some(input) = self.input.take() {
            input.abort();
        }
    }

    /// Sets the terminal's size.
    pub fn resize(&self, width: u32, height: u32) -> Result<(), Error> {
        let console = self.console.as_ref().ok_or_else(|| Error::precondition("the process has no terminal"))?;
        console.resize(width, height)
    }

    /// Waits until all output has been handed on. Output still held open at the deadline (by a
    /// process that outlived its parent, or by a client that does not read) is cut off.
    pub async fn drain(mut self, deadline: Duration, whose: &str) {
        self.abandon_input();
        let all = async { while self.outputs.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, all).await.is_err() {
            log::error(format!("{whose}: output was still open {}s after the end and is cut off", deadline.as_secs()));
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.abandon_input();
    }
}

/// A pipe: the end to read, the end to write.
fn pipe((uid, gid): (u32, u32)) -> Result<(OwnedFd, OwnedFd), Error> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|source| Error::io("make a pipe", source))?;
    if (uid, gid) != (0, 0) {
        for end in [&read, &write] {
            fchown(end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|source| Error::io(format!("give a pipe to {uid}:{gid}"), source))?;
        }
    }
    Ok((read, write))
}

fn null() -> Result<OwnedFd, Error> {
    let file = File::options().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from).map_err(|source| Error::io("open /dev/null", source))
}

/// Opens one side of a FIFO without ever waiting for the other.
fn open_nonblocking(path: &Path, write: bool) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    File::options().read(!write).write(write).custom_flags(flags.bits()).open(path)
}
