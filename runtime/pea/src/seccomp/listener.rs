//! Telling the listener of `SCMP_ACT_NOTIFY` who asks, and giving it the descriptor at which to answer.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;

use crate::error::Error;
use crate::socket;
use crate::state::State;

/// How long a listener may leave the message unread when there is no room for it.
const DEADLINE: Duration = Duration::from_secs(10);

/// The connection to `linux.seccomp.listenerPath`, made outside of the container.
#[derive(Clone, Debug)]
pub struct Listener {
    socket: Rc<UnixStream>,
    metadata: Option<String>,
    /// The container's, as it is when the filter is installed.
    state: State,
}

/// The container process state (runtime-spec, "Container Process State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a State,
}

impl Listener {
    /// Connects to the profile's listener.
    pub fn connect(seccomp: &LinuxSeccomp, state: State) -> Result<Self, Error> {
        let Some(path) = seccomp.listener_path() else {
            return Err(Error::internal("a bug: a profile without a listener asks for one"));
        };
        let connect = || {
            let socket = socket::connect(path)?;
            socket.set_write_timeout(Some(DEADLINE))?;
            Ok(socket)
        };
        let socket = connect().map_err(|error: std::io::Error| {
            Error::io(format!("config.json: linux.seccomp.listenerPath: connect to {}", path.display()), error)
        })?;
        Ok(Self { socket: Rc::new(socket), metadata: seccomp.listener_metadata().clone(), state })
    }

    /// The number of its socket, for who closes all that is not needed.
    pub fn number(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// What there is to say of the process with that number (as the runtime sees it).
    ///
    /// Everything is ready here: once the filter is installed, every further system call could be one to be asked for.
    pub fn notice(&self, pid: i32) -> Result<Notice, Error> {
        let mut state = self.state.clone();
        if state.pid == 0 {
            // The container's first process is this one.
            state.pid = pid;
        }
        let process = ProcessState {
            oci_version: crate::OCI_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: self.metadata.as_deref(),
            state: &state,
        };
        let message = serde_json::to_vec(&process)
            .map_err(|error| Error::internal(format!("encode the container process state: {error}")))?;
        Ok(Notice { socket: self.socket.clone(), message })
    }
}

/// A message to the listener that only lacks the descriptor.
#[derive(Debug)]
pub struct Notice {
    socket: Rc<UnixStream>,
    message: Vec<u8>,
}

impl Notice {
    /// The number of the connection's descriptor, which must stay open until the message is sent.
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Sends it, with the descriptor. The connection ends with the execution of the program: to close it here would be
    /// one more system call that the filter has to allow.
    pub fn send(&self, descriptor: &OwnedFd) -> Result<(), Error> {
        let fds = [descriptor.as_raw_fd()];
        let mut with = &[ControlMessage::ScmRights(&fds)][..];
        let mut rest = &self.message[..];
        while !rest.is_empty() {
            match sendmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(rest)],
                with,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(sent) => (rest, with) = (&rest[sent..], &[]),
                Err(nix::Error::EINTR) => {}
                Err(error) => {
                    return Err(Error::io("linux.seccomp: tell the listener (does the filter allow sendmsg?)", error));
                }
            }
        }
        Ok(())
    }
}
