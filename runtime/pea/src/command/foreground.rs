//! Waiting for a process while standing in for it: signals go to it, its terminal comes here.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::terminal::{Console, Terminal};
use crate::error::Error;
use crate::sys::process;

/// The process in the foreground of this command.
pub struct Foreground {
    signals: SignalFd,
    child: Option<(i32, OwnedFd)>,
    terminal: Option<Terminal>,
}

impl Foreground {
    /// To be called before the process is made: from here on no signal is lost, however early the process ends.
    pub fn begin() -> Result<Self, Error> {
        let mut all = SigSet::all();
        // Job control stays the terminal's: in its background we stop until we are fetched to the front. Blocked, these
        // two would let us set a terminal raw that somebody else is using, and end our input with an error.
        all.remove(Signal::SIGTTIN);
        all.remove(Signal::SIGTTOU);
        all.thread_block().map_err(|error| Error::io("block signals", error))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&all, flags).map_err(|error| Error::io("make a signalfd", error))?;
        set_child_subreaper(true).map_err(|error| Error::io("become a subreaper", error))?;
        Ok(Self { signals, child: None, terminal: None })
    }

    /// Leaves what the container loses to somebody else from now on.
    pub fn adopt_no_more() -> Result<(), Error> {
        set_child_subreaper(false).map_err(|error| Error::io("stop being a subreaper", error))
    }

    /// Stands in for that process, a child of ours.
    pub fn attach(&mut self, pid: i32, console: Option<Console>) -> Result<(), Error> {
        let handle = process::pidfd_open(pid).map_err(|error| Error::io(format!("open process {pid}"), error))?;
        self.child = Some((pid, handle));
        self.terminal = console.map(Console::accept).transpose()?;
        Ok(())
    }

    /// Until it ends; returns its exit code, 128 and the signal's number if it was killed.
    pub fn wait(&mut self) -> Result<u8, Error> {
        loop {
            self.forward_signals()?;
            if let Some(code) = self.reap()? {
                if let Some(terminal) = &mut self.terminal {
                    terminal.drain();
                }
                return Ok(code);
            }
            self.sleep()?;
        }
    }

    fn forward_signals(&mut self) -> Result<(), Error> {
        while let Some(info) = self.signals.read_signal().map_err(|error| Error::io("read a signal", error))? {
            let signal = info.ssi_signo as i32;
            match (signal, &self.terminal, &self.child) {
                // Ours; and what the kernel sends to us for our own doing.
                (libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE, ..) => {}
                (libc::SIGWINCH, Some(terminal), _) => terminal.resize(),
                // Fails when it has ended, which the next look will find.
                (_, _, Some((_, handle))) => drop(process::pidfd_send_signal(handle.as_fd(), signal)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reaps all that has ended: besides the process, orphans it left to us.
    fn reap(&self) -> Result<Option<u8>, Error> {
        let wanted = self.child.as_ref().map(|(pid, _)| *pid);
        loop {
            match process::wait(-1, false) {
                Ok(Some(exit)) if Some(exit.pid) == wanted => return Ok(Some(exit.code as u8)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(Error::io("wait for the container", error)),
            }
        }
    }

    fn sleep(&mut self) -> Result<(), Error> {
        let Some(terminal) = &mut self.terminal else {
            let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            return interrupted(poll(&mut fds, PollTimeout::NONE));
        };
        terminal.pump(&self.signals)
    }
}

/// A signal that interrupts is one for the signalfd.
pub fn interrupted(result: nix::Result<i32>) -> Result<(), Error> {
    match result {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(Error::io("poll", error)),
    }
}
