//! Where output ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::address::Address;
use super::cri::CriLog;
use super::open_nonblocking;
use super::reader::{Late, Readers};
use crate::error::Error;

/// How long a client that has not come yet is waited for after the end. Who asked for the process may have been killed before
/// he opened its FIFOs, and nobody will delete it then.
const ABSENT: Duration = Duration::from_secs(10);

/// An open end of output.
pub(super) enum Sink {
    Null,
    /// A logger's pipe.
    Pipe(pipe::Sender),
    Fifo {
        writer: pipe::Sender,
        /// Our own reader. With it the FIFO can be opened before the client has, a client that goes
        /// away and comes back (a restarting containerd) costs no `EPIPE`, and what is in the FIFO meanwhile is kept.
        hold: Option<OwnedFd>,
        /// The client, as long as it has not been seen.
        late: Option<Late>,
    },
    File(File),
    CriLog(CriLog),
}

impl Sink {
    /// Opens an address; `stream` is the name it has in a CRI log.
    pub(super) fn open(address: &Address, stream: &'static str, readers: &Readers) -> Result<Self, Error> {
        match address {
            Address::Null => Ok(Self::Null),
            Address::Path(path) if is_fifo(path)? => Self::fifo(path, readers),
            Address::Path(path) | Address::File(path) => Ok(Self::File(append(path)?)),
            Address::CriLog(path) => Ok(Self::CriLog(CriLog::new(append(path)?, stream))),
            // Of the process, the logger's pipe is standard output itself; for a terminal see `Self::pipe`.
            Address::Binary(binary) => Err(Error::internal(format!("{} is no sink", binary.path.display()))),
        }
    }

    /// The writing end of a pipe.
    pub(super) fn pipe(end: OwnedFd) -> Result<Self, Error> {
        let writer = pipe::Sender::from_owned_fd(end);
        writer.map(Self::Pipe).map_err(|source| Error::io("watch a logger's pipe", source))
    }

    fn fifo(path: &Path, readers: &Readers) -> Result<Self, Error> {
        let failed = |source| Error::io(format!("open output FIFO {}", path.display()), source);
        let open = |write| open_nonblocking(path, write).map_err(failed);
        let (writer, late) = match open_nonblocking(path, true) {
            // Nobody reads yet (fifo(7)). With a reader it can be opened, and is without one again.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                let passing = open(false)?;
                let writer = open(true)?;
                drop(passing);
                (writer, readers.expect(path))
            }
            opened => (opened.map_err(failed)?, None),
        };
        // Where somebody is expected, not before he has come: as long as there is a reader, no other is seen to come.
        let hold = if late.is_some() { None } else { Some(open(false)?.into()) };
        let writer = pipe::Sender::from_owned_fd(writer.into()).map_err(failed)?;
        Ok(Self::Fifo { writer, hold, late })
    }

    /// Waits for a client that has not come yet, until the deadline. Before anything is written.
    pub(super) async fn meet(&mut self, deadline: Instant) -> Result<(), Error> {
        let Self::Fifo { writer, hold, late } = self else { return Ok(()) };
        let Some(reader) = late else { return Ok(()) };
        let failed = |source| Error::io(format!("open output FIFO {}", reader.fifo.display()), source);
        let met = tokio::time::timeout_at(deadline, reader.come(writer)).await;
        *hold = Some(open_nonblocking(&reader.fifo, false).map_err(failed)?.into());
        if let Ok(come) = met {
            come.map_err(failed)?;
            *late = None;
        }
        Ok(())
    }

    /// Hands bytes on; waits while the reader of a FIFO is behind.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::Pipe(writer) | Self::Fifo { writer, .. } => writer.write_all(bytes).await,
            Self::File(file) => file.write_all(bytes),
            Self::CriLog(log) => log.feed(bytes),
        }
    }

    /// The stream has ended. Waits a while for a client that has not come yet.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::CriLog(log) => log.finish(),
            Self::Fifo { writer, hold, late: Some(reader), .. } if !reader.has_left() => {
                *hold = None;
                reader.begin_anew();
                tokio::time::timeout(ABSENT, reader.come(writer)).await.unwrap_or(Ok(()))
            }
            _ => Ok(()),
        }
    }
}

fn is_fifo(path: &Path) -> Result<bool, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.file_type().is_fifo()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::not_found(format!("output FIFO {} does not exist", path.display())))
        }
        Err(error) => Err(Error::io(format!("look at output FIFO {}", path.display()), error)),
    }
}

/// Opens a file to append to. Only a regular file never keeps its writer waiting, so nothing else
/// will do; and the opening of anything else must not wait either.
fn append(path: &Path) -> Result<File, Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| Error::io(format!("open output file {}", path.display()), source);
    let unsuitable = || Error::invalid(format!("output file {} is not a regular file", path.display()));
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let opened = File::options().append(true).create(true).mode(0o640).custom_flags(flags.bits()).open(path);
    let file = match opened {
        // A FIFO without a reader, or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(unsuitable()),
        opened => opened.map_err(failed)?,
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(unsuitable());
    }
    Ok(file)
}
