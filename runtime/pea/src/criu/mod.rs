//! Checkpoint and restore: the program CRIU (criu(8)) does it; here is what it has to be told.
//!
//! By its command line where that is enough, for anybody can repeat that by hand. Only by its library's protocol (`rpc`) can it
//! be asked to say how far it is, and to hand a terminal over.

mod external;
mod options;
mod protobuf;
mod rpc;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

pub use external::{Descriptors, Externals};
pub use options::{CheckpointOptions, CriuOptions, RestoreOptions};
pub use rpc::Notice;

use crate::error::{Error, ErrorKind};
use crate::sys::process;

/// One run of CRIU, in the making.
pub struct Criu {
    verb: &'static str,
    program: PathBuf,
    images: PathBuf,
    work: PathBuf,
    log: &'static str,
    options: Vec<(&'static str, Value)>,
    /// What it is handed over by number.
    files: Vec<File>,
    /// Its standard streams; ours when absent.
    stdio: [Option<OwnedFd>; 3],
    /// Whether it dies with this process.
    tied: bool,
}

/// What an option is given.
enum Value {
    /// It is a switch.
    Nothing,
    /// A word of its own.
    Word(OsString),
    /// A value that is optional to CRIU, and so must be in the same word.
    Joined(String),
    /// A descriptor, and what it stands for in the images.
    Descriptor(i32, String),
    /// A kind of namespace, and the file of one.
    Namespace(String, PathBuf),
}

impl Criu {
    /// `criu VERB` with what all verbs have in common. The directories must exist.
    pub fn new(verb: &'static str, options: &CriuOptions) -> Self {
        let mut criu = Self {
            verb,
            program: options.program.clone(),
            images: options.images.clone(),
            work: options.work.as_ref().unwrap_or(&options.images).clone(),
            log: if verb == "restore" { "restore.log" } else { "dump.log" },
            options: Vec::new(),
            files: Vec::new(),
            stdio: [None, None, None],
            tied: false,
        };
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
    pub fn switch(&mut self, option: &'static str, wanted: bool) {
        if wanted {
            self.options.push((option, Value::Nothing));
        }
    }

    /// An option with its value.
    pub fn arg(&mut self, option: &'static str, value: impl AsRef<OsStr>) {
        self.options.push((option, Value::Word(value.as_ref().to_owned())));
    }

    /// An option whose value is optional to CRIU.
    pub fn arg_in_one(&mut self, option: &'static str, value: &str) {
        self.options.push((option, Value::Joined(value.to_owned())));
    }

    /// Has one of our descriptors, which CRIU has under the same number, take the place of what has that name in the images.
    pub fn inherit(&mut self, descriptor: i32, name: &str) {
        self.options.push(("--inherit-fd", Value::Descriptor(descriptor, name.to_owned())));
    }

    /// The same with a file that is handed over for that.
    pub fn inherit_file(&mut self, file: File, name: &str) -> Result<(), Error> {
        inheritable(&file)?;
        self.inherit(file.as_raw_fd(), name);
        self.files.push(file);
        Ok(())
    }

    /// Has it run with copies of these as its standard streams, which a restored container gets from it.
    pub fn hand_on(&mut self, streams: [&Option<OwnedFd>; 3]) -> Result<(), Error> {
        for (place, stream) in self.stdio.iter_mut().zip(streams) {
            let copy = stream.as_ref().map(OwnedFd::try_clone).transpose();
            *place = copy.map_err(|error| Error::io("duplicate a standard stream", error))?;
        }
        Ok(())
    }

    /// Has it join a namespace instead of making one.
    pub fn join(&mut self, kind: &str, path: &Path) {
        self.options.push(("--join-ns", Value::Namespace(kind.to_owned(), path.to_owned())));
    }

    /// Has it killed when this process dies: nobody would wait for what it makes.
    pub fn tie(&mut self) {
        self.tied = true;
    }

    /// Runs it. `silent`: with no standard streams; otherwise it has ours, or those to be handed on.
    pub fn run(mut self, silent: bool) -> Result<(), Error> {
        let words = self.words();
        let status = self.spawn(words, silent)?.wait();
        self.judge(status.map_err(|error| self.failed_to_run(&error))?)
    }

    fn words(&self) -> Vec<OsString> {
        let log = OsString::from(self.log);
        let (images, work) = (self.images.clone().into_os_string(), self.work.clone().into_os_string());
        let common =
            [self.verb.into(), "--images-dir".into(), images, "--work-dir".into(), work, "--log-file".into(), log];
        let mut words = Vec::from(common);
        words.push("-v4".into());
        for (option, value) in &self.options {
            let word: OsString = match value {
                Value::Nothing => {
                    words.push(option.into());
                    continue;
                }
                Value::Joined(value) => {
                    words.push(format!("{option}={value}").into());
                    continue;
                }
                Value::Word(word) => word.clone(),
                Value::Descriptor(descriptor, name) => format!("fd[{descriptor}]:{name}").into(),
                Value::Namespace(kind, path) => [kind.as_ref(), ":".as_ref(), path.as_os_str()].into_iter().collect(),
            };
            words.extend([option.into(), word]);
        }
        words
    }

    fn spawn(&mut self, words: Vec<OsString>, silent: bool) -> Result<Child, Error> {
        // What is in there tells of an earlier run.
        let _ = fs::remove_file(self.log_path());
        let mut command = Command::new(&self.program);
        command.args(words);
        if silent {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        let [stdin, stdout, stderr] = std::mem::take(&mut self.stdio);
        stdin.map(|stream| command.stdin(stream));
        stdout.map(|stream| command.stdout(stream));
        stderr.map(|stream| command.stderr(stream));
        if self.tied {
            process::die_with_caller(&mut command);
        }
        command.spawn().map_err(|error| self.failed_to_run(&error))
    }

    fn log_path(&self) -> PathBuf {
        self.work.join(self.log)
    }

    fn judge(&self, status: ExitStatus) -> Result<(), Error> {
        if status.success() {
            return Ok(());
        }
        Err(self.failure(&format!("{status}; criu check tells whether it works on this kernel")))
    }

    /// What the log says, or if it says nothing, `otherwise`.
    fn failure(&self, otherwise: &str) -> Error {
        let log = self.log_path();
        let reason = fs::read_to_string(&log).ok().and_then(|log| last_error(&log));
        let reason = reason.as_deref().unwrap_or(otherwise);
        Error::internal(format!("criu {} failed: {reason} (log file: {})", self.verb, log.display()))
    }

    fn failed_to_run(&self, error: &io::Error) -> Error {
        let program = self.program.display();
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
fn inheritable(file: &impl AsFd) -> Result<(), Error> {
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
