//! `start`: finds the shim of the group, or brings one up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use sha2::{Digest, Sha256};

use crate::bootstrap::Start;
use crate::daemon::{self, Inheritance, Socket};
use crate::error::Error;
use crate::lock::{self, Lock};
use crate::record;
use crate::sys::{self, Fork};

/// Where containerd's shims listen.
const SOCKET_DIR: &str = "/run/containerd/s";
/// The longest path of a Unix socket (unix(7), with its terminating zero).
const LONGEST: usize = 107;
/// How long another `start` may hold the directory of sockets. It needs microseconds.
const DIRECTORY: Duration = Duration::from_secs(5);

/// The annotations that group containers into one shim, the first one present deciding.
const GROUPS: &[&str] = &["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id", "io.peapod.pod"];

/// Starts the shim of the bundle in the working directory and returns its address; or the address
/// of the one that serves the same group already.
pub fn start(start: &Start) -> Result<String, Error> {
    let bundle = std::env::current_dir().map_err(|source| Error::io("find the bundle (working directory)", source))?;
    let group = group(&bundle)?.unwrap_or_else(|| start.id.clone());
    let socket = socket(start, &group)?;
    let address = format!("unix://{}", socket.display());
    // containerd 1.x reads it from here when it is restarted; later ones keep the answer themselves.
    record::write_text(&bundle.join(record::ADDRESS), address.as_bytes())?;
    let Some(listener) = listen(&socket)? else { return Ok(address) };
    if let Err(error) = fork(start, bundle, &socket, listener) {
        // The error is what is to be told; a dead socket harms nobody.
        let _ = remove_dead(&socket);
        return Err(error);
    }
    Ok(address)
}

fn fork(start: &Start, bundle: PathBuf, socket: &Path, listener: UnixListener) -> Result<(), Error> {
    let path = bundle.join(record::LOCK);
    let lock = Lock::take(&path)?;
    let lock = lock.ok_or_else(|| {
        Error::exists(format!("{} is held: a shim of this bundle still lives and does not listen", path.display()))
    })?;
    let (mut ready, signal) = io::pipe().map_err(|source| Error::io("make a pipe", source))?;
    match sys::fork(0).map_err(|source| Error::io("fork the shim", source))? {
        Fork::Child => daemon::run(Inheritance {
            namespace: start.namespace.clone(),
            events: start.events.clone(),
            cgroup: start.options.shim_cgroup.clone(),
            bundle,
            socket: Some(Socket::new(socket.to_owned())),
            listener,
            lock: Some(lock),
            ready: Some(signal),
        }),
        Fork::Parent(_) => {
            drop(signal);
            let mut answer = String::new();
            ready.read_to_string(&mut answer).map_err(|source| Error::io("hear from the shim", source))?;
            match answer.strip_prefix(daemon::READY) {
                Some("") => Ok(()),
                _ if answer.is_empty() => Err(Error::internal("the shim ended before it was ready")),
                _ => Err(Error::internal(answer)),
            }
        }
    }
}

/// The group that the bundle's container belongs to. A sandbox's bundle has no `config.json`, and is its own group.
fn group(bundle: &Path) -> Result<Option<String>, Error> {
    let config: Option<Config> = record::read(&bundle.join("config.json"))?;
    Ok(config.and_then(Config::group))
}

/// What matters to `start` of a bundle's `config.json`.
#[derive(serde::Deserialize)]
pub(crate) struct Config {
    annotations: Option<BTreeMap<String, String>>,
}

impl Config {
    pub(crate) fn group(self) -> Option<String> {
        let mut annotations = self.annotations?;
        GROUPS.iter().find_map(|name| annotations.remove(*name))
    }
}

/// The socket's path: the same for all that belong to one group, and to nobody else.
fn socket(start: &Start, group: &str) -> Result<PathBuf, Error> {
    let identity = format!("{}/{}/{group}", start.address, start.namespace);
    let hash: String = Sha256::digest(identity).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = match &start.socket_dir {
        // The directory may be long, so the name is short: 64 bits tell the pods of a node apart.
        Some(directory) => directory.join(format!("{}.sock", &hash[..16])),
        None => Path::new(SOCKET_DIR).join(hash),
    };
    let length = path.as_os_str().len();
    if length > LONGEST {
        let path = path.display();
        return Err(Error::invalid(format!(
            "socket path {path} has {length} bytes; {LONGEST} is the most there can be"
        )));
    }
    Ok(path)
}

/// Removes a socket unless somebody listens there. Under the directory's lock, as [`listen`]: between
/// the look and the removal a new shim might otherwise have put its own there.
pub fn remove_dead(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::io(format!("remove {}", path.display()), source);
    let directory = match File::open(path.parent().unwrap_or(Path::new("/"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let _held = lock::wait_for(&directory, DIRECTORY).map_err(failed)?;
    if is_served(path) { Ok(()) } else { record::remove(path) }
}

/// Whether a shim lives that listens there. Of one that was killed the kernel closes the connections first and what it
/// listens on last, many milliseconds later: whoever hears of its end by the one still finds the other, and must not take it
/// for served.
pub fn is_served(path: &Path) -> bool {
    let Ok(connection) = UnixStream::connect(path) else { return false };
    match getsockopt(&connection, PeerCredentials).map(|listener| listener.pid()) {
        // Of another PID namespace (unix(7)).
        Ok(0) | Err(_) => true,
        // A process at its end has no descriptors any more.
        Ok(pid) => fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut open| open.next().is_some()),
    }
}

/// Listens; or `None` when somebody does already. A socket that nobody listens on any more is replaced.
///
/// The directory is locked meanwhile: two `start`s of one group must not both find the socket dead.
fn listen(path: &Path) -> Result<Option<UnixListener>, Error> {
    let failed = |source| Error::io(format!("listen on {}", path.display()), source);
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed)?;
    let directory = File::open(directory).map_err(failed)?;
    let _held = lock::wait_for(&directory, DIRECTORY).map_err(failed)?;
    if is_served(path) {
        return Ok(None);
    }
    record::remove(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Some(listener))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, listen};
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_socket_is_removed_that_is_open_still_but_whose_listener_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixListener::bind(&path).unwrap();
        remove_dead(&path).unwrap();
        assert!(path.exists() && super::listen(&path).unwrap().is_none(), "this process listens");
        // Another one does, and ends; the socket lives on in this one.
        match sys::fork(0).unwrap() {
            Fork::Child => sys::exit_now(i32::from(listen(&socket, Backlog::MAXCONN).is_err())),
            Fork::Parent(pid) => drop(waitpid(Pid::from_raw(pid), None).unwrap()),
        }
        assert!(UnixStream::connect(&path).is_ok());
        remove_dead(&path).unwrap();
        assert!(!path.exists());
    }
}
