//! Calling another plugin ("Plugin delegation" of the specification): an IPAM, or the one flannel sets up.
//!
//! The plugin called gets this process's environment, the configuration it is given on stdin, and this process's
//! stderr. There is no deadline here: the runtime has one for the whole call, and a plugin stopped earlier by
//! this one would leave half an attachment that nobody asked to stop.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Call;
use crate::spec::{Config, Environment, Error, Success, Verb, Version, code};

/// ADD by the plugin of type `name` with the configuration `stdin`: here, when it is one of ours, or as a process.
/// When it fails, nothing is left of it.
///
/// # Errors
/// Those of the plugin.
pub fn add(name: &str, call: &Call<'_>, stdin: &[u8]) -> Result<Success, Error> {
    match super::of_name(name) {
        Some(of) => (of.add)(&Call { verb: Verb::Add, config: &Config::parse(stdin)?, stdin, ..*call }),
        None => Delegate::find(name, call.environment)?.add(stdin, call.config.version),
    }
}

/// DEL, CHECK, GC or STATUS by the plugin of type `name`, as [`add()`].
///
/// # Errors
/// Those of the plugin.
pub fn run(name: &str, call: &Call<'_>, verb: Verb, stdin: &[u8]) -> Result<(), Error> {
    match super::of_name(name) {
        Some(of) => of.serve(&Call { verb, config: &Config::parse(stdin)?, stdin, ..*call }).map(drop),
        None => Delegate::find(name, call.environment)?.run(verb, stdin),
    }
}

/// What a pipe takes in without a reader, in bytes: a page at least, however many pipes there are (`pipe(7)`).
const PIPE: usize = 4096;

/// How many characters are shown of what a plugin says that is no error object.
const SHOWN: usize = 1000;

/// A plugin of another vendor, found in `CNI_PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegate {
    name: String,
    path: PathBuf,
}

impl Delegate {
    /// Finds the plugin of type `name` in the directories of `CNI_PATH`.
    ///
    /// # Errors
    /// [`code::INVALID_CONFIG`] for a name that is a path, [`code::INTERNAL`] when no directory has it.
    pub fn find(name: &str, environment: &Environment) -> Result<Delegate, Error> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Error::config(format!("invalid plugin name: {name:?}")));
        }
        let found = environment.path.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        found.map(|path| Delegate { name: name.into(), path }).ok_or_else(|| {
            let searched: Vec<_> = environment.path.iter().map(|path| path.display().to_string()).collect();
            Error::new(code::INTERNAL, format!("failed to find plugin {name:?} in path [{}]", searched.join(" ")))
                .with_details("install it there, or correct the type; CNI_PATH is what the runtime searches")
        })
    }

    /// ADD, with a configuration of `version`. When it fails, DEL is called before this returns.
    ///
    /// # Errors
    /// The plugin's own error, with its name before it.
    pub fn add(&self, stdin: &[u8], version: Version) -> Result<Success, Error> {
        let added = self.call(Verb::Add, stdin).and_then(|answer| {
            let unreadable = |error: Error| error.context(format!("the result of {} is unreadable", self.name));
            Success::parse(&answer, version).map_err(unreadable)
        });
        added.map_err(|cause| match self.call(Verb::Del, stdin) {
            Ok(_) => cause,
            Err(failure) => cause.and_failed("its DEL", &failure),
        })
    }

    /// Any verb that has no answer: DEL, CHECK, GC, STATUS.
    ///
    /// # Errors
    /// The plugin's own error, with its name before it.
    pub fn run(&self, verb: Verb, stdin: &[u8]) -> Result<(), Error> {
        self.call(verb, stdin).map(drop)
    }

    fn call(&self, verb: Verb, stdin: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |doing: &str, error: std::io::Error| {
            Error::new(code::IO, format!("cannot {doing} the plugin {}: {error}", self.path.display()))
        };
        let mut command = Command::new(&self.path);
        command.env("CNI_COMMAND", verb.name()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed("start", error))?;
        let pipe = child.stdin.take();
        // One that does not read its configuration (as VERSION need not) says by its exit status what came of it.
        let feed = || pipe.map(|mut pipe| pipe.write_all(stdin));
        let output = if stdin.len() <= PIPE {
            drop(feed());
            child.wait_with_output()
        } else {
            // It may fill the pipe of its answer before it reads: while one is written, the other has to be read.
            std::thread::scope(|scope| {
                scope.spawn(feed);
                child.wait_with_output()
            })
        };
        let output = output.map_err(|error| failed("wait for", error))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(self.explain(&output.stdout, output.status)),
        }
    }

    /// A plugin says on stdout why it failed, in JSON; one that was killed says nothing.
    fn explain(&self, stdout: &[u8], status: std::process::ExitStatus) -> Error {
        match serde_json::from_slice::<Error>(stdout) {
            Ok(error) if !error.msg.is_empty() => error.context(format!("plugin {}", self.name)),
            _ => Error::new(code::INTERNAL, format!("plugin {} ended with {status} and gave no reason", self.name))
                .with_details(String::from_utf8_lossy(stdout).trim().chars().take(SHOWN).collect::<String>()),
        }
    }
}
