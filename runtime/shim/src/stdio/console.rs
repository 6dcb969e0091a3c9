//! A terminal: the socket its master arrives by, and the master.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

use crate::error::Error;
use crate::sys;

/// How long the container may take to send its terminal after it has been built.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Several may be under way in one bundle.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A listening socket that receives a pty's master from the container being built
/// (runtime-spec: `--console-socket`).
pub struct ConsoleSocket {
    listener: UnixListener,
    bundle: std::fs::File,
    file: PathBuf,
}

impl ConsoleSocket {
    /// Listens in the bundle. A bundle's path may be longer than a socket's address can be, so both
    /// sides reach the socket through the shim's descriptor of the directory.
    pub fn listen(bundle: &Path) -> Result<Self, Error> {
        let name = format!("pty-{}.sock", NEXT.fetch_add(1, Ordering::Relaxed));
        let failed = |source| Error::io(format!("listen for the terminal in {}", bundle.display()), source);
        let directory = std::fs::File::open(bundle).map_err(failed)?;
        let file = bundle.join(&name);
        let _ = std::fs::remove_file(&file);
        let listener = UnixListener::bind(through(&directory, &name)).map_err(failed)?;
        Ok(Self { listener, bundle: directory, file })
    }

    /// The path by which another process of this pid namespace reaches the socket.
    pub fn path(&self) -> PathBuf {
        let name = self.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        through(&self.bundle, name)
    }

    /// The master.
    pub async fn receive(&self) -> Result<OwnedFd, Error> {
        let failed = |reason: String| Error::internal(format!("receive the container's terminal: {reason}"));
        let arrival = async {
            let (stream, _) = self.listener.accept().await?;
            stream.async_io(Interest::READABLE, || receive_fd(&stream)).await
        };
        match tokio::time::timeout(ARRIVAL, arrival).await {
            Ok(Ok(master)) => Ok(master),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("nothing came within {}s", ARRIVAL.as_secs()))),
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn through(directory: &std::fs::File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), directory.as_raw_fd()))
}

fn receive_fd(stream: &impl AsFd) -> io::Result<OwnedFd> {
    // The text beside the descriptor is the pty's name, of no use here.
    let mut text = [0u8; 4096];
    let mut slices = [IoSliceMut::new(&mut text)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 2]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_fd().as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(sys::adopt(received));
        }
    }
    fds.into_iter().next().ok_or_else(|| io::Error::other("the message carried no descriptor"))
}

/// The master of a process's pty.
pub(super) struct Console(AsyncFd<OwnedFd>);

impl Console {
    pub(super) fn new(master: OwnedFd) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::io("watch the container's terminal", source);
        let flags = fcntl(&master, FcntlArg::F_GETFL).map_err(|error| failed(error.into()))?;
        let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags)).map_err(|error| failed(error.into()))?;
        sys::watch(master, Interest::READABLE | Interest::WRITABLE).map(Self).map_err(failed)
    }

    pub(super) fn resize(&self, width: u32, height: u32) -> Result<(), Error> {
        let side = |value: u32| {
            u16::try_from(value).map_err(|_| Error::invalid(format!("a terminal cannot be {width} by {height}")))
        };
        sys::set_window_size(self.0.as_fd(), side(width)?, side(height)?)
            .map_err(|source| Error::io("resize the terminal", source))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        // The readiness stays set; `try_read` clears it when it finds nothing.
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads; the end is when the last process has closed the terminal, which a pty reports as `EIO`.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?));
        match read {
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
            other => other,
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(length)) => bytes = &bytes[length..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_not_ready) => {}
            }
        }
        Ok(())
    }
}
