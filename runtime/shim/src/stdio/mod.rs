//! A process's standard streams: between it and their addresses the shim copies, without a thread.
//!
//! ```text
//! client ──FIFO──▶ stdin  copy ──pipe──▶ process ──pipe──▶ output copy ──▶ FIFO | file | CRI log
//!                                 └────── or one pty for all three ──────┘
//!                                           process ──pipe──▶ logger, a program
//! ```

mod address;
mod console;
mod cri;
mod logger;
mod reader;
mod sink;
mod source;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::error::Error;
use crate::log;
use address::{Address, Binary};
use console::Console;
pub use console::ConsoleSocket;
use logger::Logger;
pub use logger::Whose;
pub use reader::Readers;
use sink::Sink;
use source::{Input, Source};

/// How long output may be held open after the end without anything moving (as long as containerd's own shim waits in
/// all), and how long when it does move: less than the ten seconds that CRI has for the end of a container.
const STALLED: Duration = Duration::from_secs(2);
const SLOW: Duration = Duration::from_secs(7);

/// How long a client may be late with opening its FIFOs to read. The process is not begun meanwhile: if it were quick, its
/// client could be done with it, and have given the output up, before it was there.
const PATIENCE: Duration = Duration::from_secs(1);

/// The names of the outputs in a CRI log.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Where a process's standard streams go. An empty address is `/dev/null`.
///
/// An address is the path of a FIFO, `file:///path` (appended raw), `file:///path?format=cri` (appended as lines of the CRI
/// log format; both outputs may share one file), or a program: `binary:///path`, `binary-v2:///path`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stdio {
    /// Standard input: a FIFO's path.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error; unused with a terminal.
    pub stderr: String,
    /// Give the process a pty; its output goes to `stdout`.
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
    loggers: Vec<Logger>,
}

/// Flowing streams.
#[derive(Default)]
pub struct Streams {
    outputs: JoinSet<()>,
    input: Option<JoinHandle<()>>,
    input_hold: Option<OwnedFd>,
    console: Option<Arc<Console>>,
    loggers: Vec<Logger>,
    /// How many pieces of output have been handed on.
    progress: Arc<AtomicU64>,
}

/// Who owns pipes: user and group.
pub type Owner = (u32, u32);

impl Prepared {
    /// Opens everything. A logger is waited for, and a little while the readers of FIFOs.
    ///
    /// `owner` owns the pipes, so that a user other than root may reopen them as `/dev/stdout`.
    pub async fn open(stdio: &Stdio, whose: Whose<'_>, owner: Owner, readers: &Readers) -> Result<Self, Error> {
        let mut prepared = Self::opened(stdio, whose, owner, readers).await?;
        // One deadline for all: they are the same client's.
        let deadline = Instant::now() + PATIENCE;
        let sinks = prepared.outputs.iter_mut().map(|(_, sink)| sink).chain(&mut prepared.terminal_output);
        for sink in sinks {
            sink.meet(deadline).await?;
        }
        Ok(prepared)
    }

    async fn opened(stdio: &Stdio, whose: Whose<'_>, owner: Owner, readers: &Readers) -> Result<Self, Error> {
        let mut prepared = Self {
            ends: ProcessEnds::default(),
            outputs: Vec::new(),
            input: None,
            terminal_output: None,
            loggers: Vec::new(),
        };
        let input = match Address::parse(&stdio.stdin)? {
            Address::Null => None,
            Address::Path(path) => Some(Input::open(&path)?),
            Address::File(_) | Address::CriLog(_) | Address::Binary(_) => {
                return Err(Error::invalid(format!("standard input cannot come from {}", stdio.stdin)));
            }
        };
        if stdio.terminal {
            prepared.input = input.map(|input| (input, None));
            prepared.terminal_output = Some(match Address::parse(&stdio.stdout)? {
                Address::Binary(binary) => Sink::pipe(prepared.logger_pipe(&binary, 0, &whose, owner).await?)?,
                address => Sink::open(&address, STREAMS[0], readers)?,
            });
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
        prepared.ends.stdout = Some(prepared.output(&stdio.stdout, 0, &whose, owner, readers).await?);
        prepared.ends.stderr = Some(prepared.output(&stdio.stderr, 1, &whose, owner, readers).await?);
        Ok(prepared)
    }

    /// The process's end of one output.
    async fn output(
        &mut self,
        address: &str,
        stream: usize,
        whose: &Whose<'_>,
        owner: Owner,
        readers: &Readers,
    ) -> Result<OwnedFd, Error> {
        let address = match Address::parse(address)? {
            Address::Null => return null(),
            Address::Binary(binary) => return self.logger_pipe(&binary, stream, whose, owner).await,
            address => address,
        };
        let sink = Sink::open(&address, STREAMS[stream], readers)?;
        let (ours, theirs) = pipe(owner)?;
        self.outputs.push((Source::pipe(ours)?, sink));
        Ok(theirs)
    }

    /// The pipe into a logger, which takes both outputs when they have the same address.
    async fn logger_pipe(
        &mut self,
        address: &Binary,
        stream: usize,
        whose: &Whose<'_>,
        owner: Owner,
    ) -> Result<OwnedFd, Error> {
        let taken = self.loggers.iter_mut().find(|logger| logger.is_at(address)).and_then(|logger| logger.take(stream));
        if let Some(pipe) = taken {
            return Ok(pipe);
        }
        let mut logger = Logger::start(address, whose, owner).await?;
        let pipe = logger.take(stream).ok_or_else(|| Error::internal("a logger has two pipes"));
        self.loggers.push(logger);
        pipe
    }

    /// Lets the streams flow. `console` is the pty's master when a terminal was asked for.
    pub fn flow(self, console: Option<OwnedFd>) -> Result<Streams, Error> {
        let mut streams = Streams::default();
        streams.loggers = self.loggers;
        let mut outputs = self.outputs;
        if let Some(master) = console {
            let console = Arc::new(Console::new(master)?);
            if let Some(sink) = self.terminal_output {
                outputs.push((Source::Console(console.clone()), sink));
            }
            streams.console = Some(console);
        }
        for (source, sink) in outputs {
            streams.outputs.spawn(source::copy(source, sink, streams.progress.clone()));
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

    /// Waits until all output has been handed on. Output still held open after a while (by a process that outlived
    /// its parent, or by a client that does not read) is cut off: soon when nothing moves, later when it goes on.
    pub async fn drain(mut self, whose: &str) {
        self.abandon_input();
        let end = Instant::now() + SLOW;
        let mut before = self.progress.load(Ordering::Relaxed);
        loop {
            let all = async { while self.outputs.join_next().await.is_some() {} };
            if tokio::time::timeout(STALLED, all).await.is_ok() {
                break;
            }
            let now = self.progress.load(Ordering::Relaxed);
            if now == before || Instant::now() >= end {
                log::error(format!("{whose}: output was still open long after the end and is cut off"));
                self.outputs.abort_all();
                break;
            }
            before = now;
        }
        let loggers = std::mem::take(&mut self.loggers).into_iter().map(|logger| tokio::spawn(logger.end()));
        // Waited for a little, so that what they write is there when the process is gone; they end all the same.
        for ending in loggers.collect::<Vec<_>>() {
            let _ = tokio::time::timeout(STALLED, ending).await;
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.abandon_input();
    }
}

/// What an address says, in words; for dry runs.
pub fn describe(address: &str) -> Result<String, Error> {
    Address::parse(address).map(|address| format!("{address:?}"))
}

/// A pipe: the end to read, the end to write.
fn pipe((uid, gid): Owner) -> Result<(OwnedFd, OwnedFd), Error> {
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
