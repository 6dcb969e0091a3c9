//! Checkpoint and restore: the program CRIU (criu(8)) does it; here is what it has to be told.

mod external;
mod options;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

pub use external::{Descriptors, Externals};
pub use options::{CheckpointOptions, CriuOptions, RestoreOptions};

use crate::error::{Error, ErrorKind};
use crate::sys::process;

/// One run of CRIU.
pub struct Criu {
    verb: &'static str,
    command: Command,
    log: PathBuf,
}

impl Criu {
    /// `criu VERB` with what all verbs have in common. The directories must exist.
    pub fn new(verb: &'static str, options: &CriuOptions) -> Self {
        let work = options.work.as_ref().unwrap_or(&options.images);
        let name = if verb == "restore" { "restore.log" } else { "dump.log" };
        let mut command = Command::new(&options.program);
        command.arg(verb).arg("--images-dir").arg(&options.images).arg("--work-dir").arg(work);
        command.args(["--log-file", name, "-v4"]);
        let mut criu = Self { verb, command, log: work.join(name) };
        for (wanted, option) in [
            (options.tcp_established, "--tcp-established"),
            (options.ext_unix_sk, "--ext-unix-sk"),
            (options.shell_job, "--shell-job"),
            (options.file_locks, "--file-locks"),
            (options.link_remap, "--link-remap"),
            (options.auto_dedup, "--auto-dedup"),
            (options.lazy_pages, "--lazy-pages"),
        ] {
            criu.switch(option, wanted);
        }
        if let Some(namespace) = &options.empty_namespace {
            criu.arg("--empty-ns", namespace);
        }
        criu
    }

    /// A switch, if it is wanted.
    pub fn switch(&mut self, option: &str, wanted: bool) {
        if wanted {
            self.command.arg(option);
        }
    }

    /// An option with its value.
    pub fn arg(&mut self, option: &str, value: impl AsRef<std::ffi::OsStr>) {
        self.command.arg(option).arg(value);
    }

    /// An option whose value is optional to CRIU, and so must be in the same word.
    pub fn arg_in_one(&mut self, option: &str, value: &str) {
        self.command.arg(format!("{option}={value}"));
    }

    /// Has it killed when this process dies: nobody would wait for what it makes.
    pub fn tie(&mut self) {
        process::die_with_caller(&mut self.command);
    }

    /// Runs it. `silent`: with no standard streams; otherwise it has ours, to hand them on.
    pub fn run(mut self, silent: bool) -> Result<(), Error> {
        // What is in there tells of an earlier run.
        let _ = fs::remove_file(&self.log);
        if silent {
            self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        let status = self.command.status().map_err(|error| self.missing(&error))?;
        if status.success() {
            return Ok(());
        }
        let reason = fs::read_to_string(&self.log).ok().and_then(|log| last_error(&log));
        let reason = reason.unwrap_or_else(|| format!("{status}; criu check tells whether it works on this kernel"));
        Err(Error::internal(format!("criu {} failed: {reason} (log file: {})", self.verb, self.log.display())))
    }

    fn missing(&self, error: &io::Error) -> Error {
        let program = self.command.get_program().display();
        let text = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "exec: \"{program}\": executable file not found in $PATH: checkpoint and restore need CRIU (Debian \
                 package criu)"
            ),
            _ => format!("exec: \"{program}\": {}", crate::error::reason(error)),
        };
        Error::new(ErrorKind::Unsupported, text)
    }
}

/// Complaints that only say that something went wrong, or that does no harm.
const EMPTY_WORDS: [&str; 6] =
    ["cgroupd: recv req", "Restoring FAILED", "Dumping FAILED", "exited, status=", "failed with -1", "RLIMIT_NOFILE"];

/// CRIU's last complaint that says something, without its clock.
fn last_error(log: &str) -> Option<String> {
    let mut complaints = log.lines().rev().filter_map(|line| line.find("Error (").map(|start| line[start..].trim()));
    let last = complaints.clone().next()?;
    let telling = complaints.find(|line| !EMPTY_WORDS.iter().any(|words| line.contains(words)));
    Some(telling.unwrap_or(last).to_owned())
}

/// Makes a directory for images or logs; it may be there.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|error| Error::io(format!("make directory {}", path.display()), error))
}

/// Lets a descriptor through to the program.
fn inheritable(file: &fs::File) -> Result<(), Error> {
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
        .map(drop)
        .map_err(|error| Error::io("hand a descriptor to criu", error))
}

#[cfg(test)]
mod tests {
    use super::last_error;

    #[test]
    fn the_last_complaint_is_the_reason() {
        let log = "(00.01) Error (criu/a.c:1): first\n(00.02) pie: fine\n(00.03) Error (criu/b.c:2): last \n(00.04) Error (criu/c.c:3): Restoring FAILED.\n(00.05) bye\n";
        assert_eq!(last_error(log).as_deref(), Some("Error (criu/b.c:2): last"));
        assert_eq!(last_error("nothing"), None);
    }
}
