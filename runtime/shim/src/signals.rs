//! Signals as something to read: a descriptor in the event loop (signalfd(2)).
//!
//! The event loop has signals of its own making (`tokio::signal`), but keeps 23 KiB for all there could be, in every pod.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{log, sys};

/// One of the kernel's `struct signalfd_siginfo`, of which nothing is looked at.
const RECORD: usize = 128;

/// A signal that this process does not die of any more, but hears of.
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Blocks the signal, which whatever is forked from now on has to undo (pea and [`aside`](crate::aside) do).
    pub fn watch(signal: Signal) -> io::Result<Self> {
        // What a caller had ignored is inherited, and the ends of ignored children are never told (sigaction(2)).
        sys::default_action(signal)?;
        let set: SigSet = [signal].into_iter().collect();
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        sys::watch(fd.into(), Interest::READABLE).map(Self)
    }

    /// Waits until it has come, once or more often.
    pub async fn received(&self) {
        let mut record = [0; RECORD];
        let read = self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, &mut record)?)).await;
        if let Err(error) = read {
            log::error(format!("wait for a signal: {error}"));
            // Not to be asked again and again.
            std::future::pending().await
        }
    }
}
