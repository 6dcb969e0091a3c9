//! The gate between `create` and `start`: a socket in the container's directory. Its init accepts one connection,
//! which closes when the program runs, or carries what went wrong.

use std::fs;
use std::io::{ErrorKind as Io, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::socket;

/// In the container's directory.
pub const SOCKET: &str = "start.sock";

/// How long `start` waits to hear how it went: startContainer hooks may take their time.
const DEADLINE: Duration = Duration::from_secs(30);

/// The init's side, closed until somebody starts the container.
#[derive(Debug)]
pub struct Gate(UnixListener);

impl Gate {
    /// Makes the gate; done outside of the container.
    pub fn new(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(SOCKET);
        socket::listen(&path).map(Self).map_err(|error| Error::io(format!("listen at {}", path.display()), error))
    }

    /// Waits until the container is started.
    pub fn wait(self) -> Result<Starter, Error> {
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return Ok(Starter(stream)),
                Err(error) if error.kind() == Io::Interrupted => {}
                Err(error) => return Err(Error::io("wait to be started", error)),
            }
        }
    }

    /// Its descriptor's number.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Whoever has started the container and waits to hear how it went.
pub struct Starter(UnixStream);

impl Starter {
    /// Says why the program could not be executed.
    pub fn tell(mut self, error: &Error) {
        // Nobody may be left to read it.
        let _ = self.0.write_all(&serde_json::to_vec(error).unwrap_or_default());
    }
}

/// Whether nobody has started the container that lives in `dir`: who does takes the socket away.
pub fn is_closed(dir: &Path) -> bool {
    dir.join(SOCKET).exists()
}

/// Lets the program of the container that lives in `dir` begin, and waits until it has, or has failed to.
pub fn open(dir: &Path, id: &str) -> Result<(), Error> {
    let path = dir.join(SOCKET);
    let mut stream = socket::connect(&path).map_err(|error| match error.kind() {
        // The init listens until it is started, or has ended.
        Io::ConnectionRefused | Io::NotFound => {
            Error::new(ErrorKind::InvalidState, format!("container \"{id}\" does not wait to be started"))
        }
        _ => Error::io("connect to the container's init", error),
    })?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(|error| Error::io("set a timeout", error))?;
    let mut text = Vec::new();
    // End of file: the program runs. Time out: a startContainer hook takes its time. Reset: killed meanwhile.
    let _ = stream.read_to_end(&mut text);
    let _ = fs::remove_file(&path);
    if text.is_empty() {
        return Ok(());
    }
    // Whatever else it may say.
    serde_json::from_slice::<Error>(&text).map_or(Ok(()), Err)
}
