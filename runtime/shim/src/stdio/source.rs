//! Where output begins and input goes: copying between the process and the world.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::console::Console;
use super::open_nonblocking;
use super::sink::Sink;
use crate::error::Error;
use crate::log;

/// How much is copied at once. The buffer exists only while there is something to copy.
const CHUNK: usize = 16 * 1024;

/// An output of the process.
pub(super) enum Source {
    Pipe(pipe::Receiver),
    Console(Arc<Console>),
}

impl Source {
    pub(super) fn pipe(end: OwnedFd) -> Result<Self, Error> {
        let receiver = pipe::Receiver::from_owned_fd(end);
        receiver.map(Self::Pipe).map_err(|source| Error::io("watch an output pipe", source))
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.readable().await,
            Self::Console(console) => console.readable().await,
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.try_read(buffer),
            Self::Console(console) => console.try_read(buffer),
        }
    }
}

/// Copies until the last writer has closed. When the sink fails (a full disk) the rest is thrown
/// away rather than left in the pipe: the process must not stand still, nor die of SIGPIPE, for its log.
/// Each piece that is through counts in `progress`.
pub(super) async fn copy(source: Source, mut sink: Sink, progress: Arc<AtomicU64>) {
    let mut healthy = true;
    loop {
        let bytes = match next(&source).await {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => bytes,
            Err(error) => return log::error(format!("read a process's output: {error}")),
        };
        if healthy && let Err(error) = sink.write(&bytes).await {
            log::error(format!("write a process's output: {error}; the rest of it is dropped"));
            healthy = false;
        }
        progress.fetch_add(1, Ordering::Relaxed);
        // A process that writes faster than this copies is always ready: without a pause for the
        // others, the whole pod would wait for its end.
        tokio::task::yield_now().await;
    }
    if healthy && let Err(error) = sink.finish().await {
        log::error(format!("write the end of a process's output: {error}"));
    }
}

/// The next bytes; none at the end.
async fn next(source: &Source) -> io::Result<Vec<u8>> {
    loop {
        source.readable().await?;
        let mut buffer = vec![0; CHUNK];
        match source.try_read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The client's FIFO for standard input.
pub(super) struct Input {
    reader: pipe::Receiver,
    /// Our own writer: without it, reading would end before the client has even opened the FIFO.
    hold: Option<OwnedFd>,
}

/// Where input goes.
pub(super) enum Target {
    Pipe(pipe::Sender),
    Console(Arc<Console>),
}

impl Input {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::io(format!("open input FIFO {}", path.display()), source);
        let reader = open_nonblocking(path, false).map_err(failed)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        let hold = open_nonblocking(path, true).map_err(failed)?;
        Ok(Self { reader, hold: Some(hold.into()) })
    }

    pub(super) fn take_hold(&mut self) -> Option<OwnedFd> {
        self.hold.take()
    }

    /// Copies until the client has closed, or the process reads no more.
    pub(super) async fn copy(self, mut target: Target) {
        let source = Source::Pipe(self.reader);
        while let Ok(bytes) = next(&source).await {
            if bytes.is_empty() {
                return;
            }
            let written = match &mut target {
                Target::Pipe(pipe) => pipe.write_all(&bytes).await,
                Target::Console(console) => console.write_all(&bytes).await,
            };
            if written.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
