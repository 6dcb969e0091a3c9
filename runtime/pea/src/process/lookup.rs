//! Finding the program, as the user who will run it.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use super::Plan;
use crate::error::{Error, ErrorKind, reason};

/// The path of the program: the first argument itself when it has a slash in it, else the first match in PATH.
pub fn program(plan: &Plan) -> Result<CString, Error> {
    let Some(name) = plan.args.first() else { return Err(Error::spec("process.args: must not be empty")) };
    if name.as_bytes().contains(&b'/') {
        return match executable(Path::new(OsStr::from_bytes(name.as_bytes()))) {
            Ok(()) => Ok(name.clone()),
            Err(error) => Err(refusal(name, error)),
        };
    }
    let mut found = Errno::ENOENT;
    for dir in plan.variable("PATH").unwrap_or_default().split(|byte| *byte == b':') {
        // An empty entry is the working directory (execvp(3)).
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        let path = dir.join(OsStr::from_bytes(name.as_bytes()));
        match executable(&path) {
            Ok(()) => return CString::new(path.as_os_str().as_bytes()).map_err(|_| refusal(name, Errno::EINVAL)),
            Err(Errno::EACCES) => found = Errno::EACCES,
            Err(_) => {}
        }
    }
    match found {
        Errno::EACCES => Err(refusal(name, Errno::EACCES)),
        _ => {
            let text = format!("exec: {:?}: executable file not found in $PATH", name.to_string_lossy());
            Err(Error::new(ErrorKind::CommandNotFound, text))
        }
    }
}

fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = path.metadata().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

fn refusal(name: &CString, error: Errno) -> Error {
    let kind = match error {
        Errno::ENOENT | Errno::ENOTDIR => ErrorKind::CommandNotFound,
        _ => ErrorKind::CommandNotExecutable,
    };
    let name = name.to_string_lossy();
    // "permission denied" is what engines search for, also where a directory was named.
    let text = match error {
        Errno::EISDIR => "permission denied (it is a directory)".to_owned(),
        _ => reason(&error.into()),
    };
    Error::new(kind, format!("exec: {name:?}: stat {name}: {text}"))
}
