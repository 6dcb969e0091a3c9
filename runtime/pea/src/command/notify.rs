//! Readiness: the container's sd_notify(3) message, passed on to the service manager that started us.

use std::env;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, IoSlice, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::Runtime;
use crate::error::Error;
use crate::{socket, sys};

/// How long the service manager may take to read what it was sent, in milliseconds.
const BARRIER_DEADLINE: u16 = 30_000;

/// Whether whoever started us wants to know when the container is ready.
pub fn wanted() -> bool {
    manager().is_some()
}

fn manager() -> Option<OsString> {
    env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Between the container and the service manager.
pub struct Notify {
    container: UnixDatagram,
    manager: UnixDatagram,
    init: i32,
}

impl Notify {
    /// To be called between create and start; `None` when nobody wants to know, or nobody is there.
    pub fn listen(runtime: &Runtime, id: &str) -> Result<Option<Self>, Error> {
        let (Some(address), Some(path)) = (manager(), runtime.notify_socket(id)?) else { return Ok(None) };
        let manager = match connect(&address) {
            Ok(manager) => manager,
            // Nobody to be told is no reason not to start a container (sd_notify(3) says the same to programs).
            Err(error) => {
                let reason = crate::error::reason(&error);
                tracing::warn!(
                    "connect to $NOTIFY_SOCKET {}: {reason}; nobody is told of readiness",
                    address.display()
                );
                return Ok(None);
            }
        };
        let doing = |error| Error::io(format!("make socket {}", path.display()), error);
        let container = socket::bind_datagrams(&path).map_err(doing)?;
        // Its user need not be ours.
        fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(doing)?;
        Ok(Some(Self { container, manager, init: runtime.state(id)?.pid }))
    }

    /// Until the container is ready and the manager knows, or until the container has ended.
    pub fn forward(&self) -> Result<(), Error> {
        let failed = |error: io::Error| Error::io("tell the service manager", error);
        let Ok(init) = sys::process::pidfd_open(self.init) else { return Ok(()) };
        let mut buffer = [0; 4096];
        loop {
            let readable = PollFlags::POLLIN;
            let mut fds = [PollFd::new(self.container.as_fd(), readable), PollFd::new(init.as_fd(), readable)];
            super::foreground::interrupted(poll(&mut fds, PollTimeout::NONE))?;
            if fds[0].any() != Some(true) {
                match fds[1].any() {
                    Some(true) => return Ok(()),
                    _ => continue,
                }
            }
            let count = self.container.recv(&mut buffer).map_err(failed)?;
            let message = String::from_utf8_lossy(&buffer[..count]);
            if let Some(ready) = message.lines().find(|line| line.starts_with("READY=")) {
                let text = format!("{ready}\nMAINPID={}\n", self.init);
                self.manager.send(text.as_bytes()).map_err(failed)?;
                return self.barrier();
            }
        }
    }

    /// The manager looks up who sent a message; should we have ended by then, it would not believe it.
    fn barrier(&self) -> Result<(), Error> {
        let failed = |error: io::Error| Error::io("wait for the service manager", error);
        let (mut done, held) = io::pipe().map_err(failed)?;
        self.send_barrier(&held).map_err(failed)?;
        drop(held);
        if poll(&mut [PollFd::new(done.as_fd(), PollFlags::POLLIN)], BARRIER_DEADLINE) != Ok(0) {
            let _ = done.read(&mut [0]);
        }
        Ok(())
    }

    fn send_barrier(&self, held: &PipeWriter) -> io::Result<()> {
        let fds = [held.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        let text = [IoSlice::new(b"BARRIER=1")];
        sendmsg::<UnixAddr>(self.manager.as_raw_fd(), &text, &message, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

/// A path, or with an @ in front a name in the abstract namespace.
fn connect(address: &OsString) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
