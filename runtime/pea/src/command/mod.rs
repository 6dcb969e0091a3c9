//! The command line, flag for flag as runc's. One file a verb.

mod create;
mod delete;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod ps;
mod report;
mod run;
mod spec;
mod start;
mod state;
mod terminal;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::Error;
use crate::{CgroupDriver, Runtime};

/// OCI runtime: one bundle in, one container out
#[derive(Debug, Parser)]
#[command(name = "pea", disable_version_flag = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Print the version and the version of the OCI specification
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// What stands before the verb.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where containers are kept; of this boot only, so on a tmpfs
    #[arg(long, default_value = "/run/pea")]
    root: PathBuf,
    /// Append errors to this file instead of printing them alone
    #[arg(long)]
    log: Option<PathBuf>,
    /// The form of the log
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// cgroupsPath is slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted for compatibility: cgroups are wanted in any case
    #[arg(long, value_parser = ["auto", "false"], default_value = "auto", hide_default_value = true)]
    rootless: String,
    /// Accepted for compatibility: there is nothing more to say
    #[arg(long)]
    debug: bool,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// key="value" pairs
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Arguments),
    Delete(delete::Arguments),
    Exec(Box<exec::Arguments>),
    Features(features::Arguments),
    Kill(kill::Arguments),
    List(list::Arguments),
    Ps(ps::Arguments),
    Run(run::Arguments),
    Spec(spec::Arguments),
    Start(start::Arguments),
    State(state::Arguments),
}

/// Parses the command line, does what it says, and tells how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(verb) = cli.verb else {
        return match print(&format!("pea version {}\nspec: {}", env!("CARGO_PKG_VERSION"), crate::OCI_VERSION)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    };
    // As runc: a failure of `exec` itself must not look like one of the program it was to execute.
    let failure = if matches!(verb, Verb::Exec(_)) { 255 } else { 1 };
    match run(&cli.global, verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::report(&cli.global, &error);
            ExitCode::from(failure)
        }
    }
}

fn run(global: &Global, verb: Verb) -> Result<u8, Error> {
    let driver = if global.systemd_cgroup { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
    let runtime = Runtime::new(&global.root, driver);
    let done = |result: Result<(), Error>| result.map(|()| 0);
    match verb {
        Verb::Create(arguments) => done(create::run(&runtime, arguments)),
        Verb::Delete(arguments) => done(report::with_warnings(global, || delete::run(&runtime, &arguments))),
        Verb::Exec(arguments) => exec::run(&runtime, *arguments),
        Verb::Features(_) => done(features::run()),
        Verb::Kill(arguments) => done(kill::run(&runtime, &arguments)),
        Verb::List(arguments) => done(report::with_warnings(global, || list::run(&runtime, &arguments))),
        Verb::Ps(arguments) => done(ps::run(&runtime, &arguments)),
        Verb::Run(arguments) => run::run(&runtime, global, &arguments),
        Verb::Spec(arguments) => done(spec::run(&arguments)),
        Verb::Start(arguments) => done(start::run(&runtime, &arguments)),
        Verb::State(arguments) => done(state::run(&runtime, &arguments)),
    }
}

/// Table or JSON.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Prints a line. A reader who has had enough is no failure.
fn print(text: &str) -> Result<(), Error> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to the standard output", error))
        }
        _ => Ok(()),
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|error| Error::internal(format!("encode the answer: {error}")))
}
