//! The terminal of a process in the foreground: its pty's master on one side, our own standard streams on the other.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::mkdtemp;

use super::foreground::interrupted;
use crate::error::Error;
use crate::sys::tty;

/// A console socket of our own.
pub struct Console {
    listener: UnixListener,
    dir: PathBuf,
}

impl Console {
    /// Listens in a fresh directory only we may enter.
    pub fn listen() -> Result<Self, Error> {
        let dir = mkdtemp(&std::env::temp_dir().join("pea-console-XXXXXX"))
            .map_err(|error| Error::io("make a temporary directory", error))?;
        let listener = UnixListener::bind(dir.join("socket"));
        let listener = listener.map_err(|error| Error::io(format!("make a socket in {}", dir.display()), error))?;
        Ok(Self { listener, dir })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// Takes the master that the container has sent by now.
    pub fn accept(self) -> Result<Terminal, Error> {
        let (stream, _) = self.listener.accept().map_err(|error| Error::io("accept the terminal", error))?;
        let master = tty::receive(&stream).map_err(|error| Error::io("receive the terminal", error))?;
        Terminal::new(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A pty that is served here.
pub struct Terminal {
    master: File,
    /// How our own terminal was before; none when our input is not one.
    before: Option<Termios>,
    /// Typed, and not yet taken by the pty.
    typed: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Terminal {
    fn new(master: OwnedFd) -> Result<Self, Error> {
        // Its buffer may be full, and we must not stop reading its output meanwhile.
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|error| Error::io("make the terminal non-blocking", error))?;
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).map_err(|error| Error::io("set the terminal raw", error))?;
        }
        let master = File::from(master);
        let terminal = Self { master, before, typed: Vec::new(), input_open: true, output_open: true };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the pty the size of our own terminal, if we have one.
    pub fn resize(&self) {
        if let Ok(size) = tty::size(io::stdin()) {
            let _ = tty::set_size(&self.master, size);
        }
    }

    /// Waits for input, output or a signal, and moves what there is.
    pub fn pump(&mut self, signals: &SignalFd) -> Result<(), Error> {
        let stdin = io::stdin();
        let mut wanted = if self.output_open { PollFlags::POLLIN } else { PollFlags::empty() };
        if !self.typed.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let output = self.output_open.then(|| {
            fds.push(PollFd::new(self.master.as_fd(), wanted));
            fds.len() - 1
        });
        let input = (self.input_open && self.typed.is_empty()).then(|| {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        interrupted(poll(&mut fds, PollTimeout::NONE))?;
        let ready = |index: Option<usize>| index.is_some_and(|index| fds[index].any().unwrap_or(false));
        let (output, input) = (ready(output), ready(input));
        if output {
            self.show();
            self.send();
        }
        if input {
            self.read_input();
            self.send();
        }
        Ok(())
    }

    /// Shows what is left when the process has ended.
    pub fn drain(&mut self) {
        while self.output_open && self.show() {}
    }

    /// One read from the pty; whether there was something.
    fn show(&mut self) -> bool {
        let mut buffer = [0; 8192];
        match self.master.read(&mut buffer) {
            Ok(count) if count > 0 => {
                let _ = io::stdout().write_all(&buffer[..count]).and_then(|()| io::stdout().flush());
                true
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => false,
            // EIO: nobody has the other side open any more.
            _ => {
                self.output_open = false;
                false
            }
        }
    }

    fn read_input(&mut self) {
        // Larger than the standard library's own buffer, which it then leaves out: nothing may wait in there unseen.
        let mut buffer = [0; 16 * 1024];
        match io::stdin().read(&mut buffer) {
            Ok(0) => self.input_open = false,
            Ok(count) => self.typed.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.input_open = false,
        }
    }

    fn send(&mut self) {
        if self.typed.is_empty() {
            return;
        }
        match self.master.write(&self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.typed.clear(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
