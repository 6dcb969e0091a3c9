//! The reader of an output FIFO, when it is late.
//!
//! containerd opens its FIFOs beside all else, and a short command may have ended before it gets to it. If we had closed
//! by then, its open(2) would wait for a writer that never comes, the call that waits for the output with it, and the
//! output would be gone (fifo(7)).

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;

use crate::sys;

/// Waits until the FIFO at `path`, of which `writer` is an end, has a reader. At once where it is not there any more: then
/// nobody will come.
pub(super) async fn come(writer: &impl AsFd, path: &Path) -> io::Result<()> {
    let opened = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    match opened.add_watch(path, AddWatchFlags::IN_OPEN) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        watched => watched?,
    };
    let opened = sys::watch(opened.into(), Interest::READABLE)?;
    while !is_there(writer)? {
        let mut ready = opened.readable().await?;
        // What it says is known; it is read for the next one to be told.
        let _ = ready.try_io(|opened| Ok(nix::unistd::read(opened, &mut [0; 4096])?));
    }
    Ok(())
}

/// A writer's descriptor is in error when nobody reads (poll(2)).
fn is_there(writer: &impl AsFd) -> io::Result<bool> {
    let mut writer = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    poll(&mut writer, PollTimeout::ZERO)?;
    Ok(!writer[0].revents().is_some_and(|found| found.contains(PollFlags::POLLERR)))
}
