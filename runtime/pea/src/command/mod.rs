//! The command line, flag for flag as runc's. One file a verb.

mod argv;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
pub(crate) mod features;
mod foreground;
mod global;
mod kill;
mod list;
mod notify;
mod pause;
mod ps;
mod report;
mod restore;
mod run;
mod size;
mod spec;
mod start;
mod state;
mod terminal;
mod update;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::error::ErrorKind as ClapError;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::Runtime;
use crate::error::{Error, ErrorKind};

pub use global::Global;

/// OCI runtime: one bundle in, one container out
#[derive(Debug, Parser)]
#[command(name = "pea", disable_version_flag = true, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Print the version and the version of the OCI specification
    #[arg(short, long)]
    version: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Checkpoint(checkpoint::Arguments),
    Create(create::Arguments),
    Delete(delete::Arguments),
    Events(events::Arguments),
    Exec(Box<exec::Arguments>),
    Features(features::Arguments),
    Kill(kill::Arguments),
    List(list::Arguments),
    Pause(pause::PauseArguments),
    Ps(ps::Arguments),
    Resume(pause::ResumeArguments),
    Restore(restore::Arguments),
    Run(run::Arguments),
    Spec(spec::Arguments),
    Start(start::Arguments),
    State(state::Arguments),
    Update(Box<update::Arguments>),
}

/// Adds what a verb takes to its description.
type Augment = fn(Command) -> Command;

/// Each verb's name, and what it takes.
const VERBS: [(&str, Augment); 17] = [
    ("checkpoint", checkpoint::Arguments::augment_args),
    ("create", create::Arguments::augment_args),
    ("delete", delete::Arguments::augment_args),
    ("events", events::Arguments::augment_args),
    ("exec", exec::Arguments::augment_args),
    ("features", features::Arguments::augment_args),
    ("kill", kill::Arguments::augment_args),
    ("list", list::Arguments::augment_args),
    ("pause", pause::PauseArguments::augment_args),
    ("ps", ps::Arguments::augment_args),
    ("resume", pause::ResumeArguments::augment_args),
    ("restore", restore::Arguments::augment_args),
    ("run", run::Arguments::augment_args),
    ("spec", spec::Arguments::augment_args),
    ("start", start::Arguments::augment_args),
    ("state", state::Arguments::augment_args),
    ("update", update::Arguments::augment_args),
];

/// The parser for a command line of these words: only verbs that are among them are described, or all if none is, for help
/// and for advice. To describe all would take longer than many a verb does.
fn parser<'a>(words: impl Iterator<Item = &'a OsString> + Clone) -> Command {
    let named = |name: &str| words.clone().any(|word| word == name);
    let any = VERBS.iter().any(|(name, _)| named(name));
    let verbs = VERBS.iter().filter(|(name, _)| !any || named(name));
    Cli::command().subcommands(verbs.map(|(name, augment)| augment(Command::new(*name))))
}

/// Parses the command line, does what it says, and tells how it went. Returns the exit code.
///
/// It is called by the C library, and not by Rust's, whose start of a program prepares for more than happens here.
pub fn main() -> u8 {
    if let Err(error) = crate::sys::process::settle() {
        let _ = writeln!(io::stderr(), "pea: error: {error}");
        return FAILURE;
    }
    let code = interpret();
    // What was printed without the end of a line.
    let _ = io::stdout().flush();
    code
}

const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;

fn interpret() -> u8 {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [only] = words.as_slice()
        && (only == "--version" || only == "-v")
    {
        // Engines ask for it each time; that takes no parser.
        return act(&Global::default(), None);
    }
    let mut command = parser(words.iter());
    let words = match words.iter().map(|word| word.to_str().map(str::to_owned)).collect::<Option<Vec<_>>>() {
        Some(text) => argv::normalise(&command, text).into_iter().map(OsString::from).collect(),
        None => words,
    };
    let parsed = command.try_get_matches_from_mut([OsString::from("pea")].into_iter().chain(words.iter().cloned()));
    let understood = parsed.and_then(|matches| {
        let verb = matches.subcommand_name().map(|_| Verb::from_arg_matches(&matches)).transpose()?;
        Ok((Cli::from_arg_matches(&matches)?.global, verb))
    });
    match understood {
        Ok((global, verb)) => act(&global, verb),
        Err(error) => misused(&error, &words),
    }
}

fn act(global: &Global, verb: Option<Verb>) -> u8 {
    let Some(verb) = verb else {
        return match print(&format!("pea version {}\nspec: {}", env!("CARGO_PKG_VERSION"), crate::OCI_VERSION)) {
            Ok(()) => SUCCESS,
            Err(_) => FAILURE,
        };
    };
    // As runc: a failure of `exec` itself must not look like one of the program it was to execute.
    let failure = if matches!(verb, Verb::Exec(_)) { 255 } else { FAILURE };
    let done = report::check(global).and_then(|()| report::listening(global, || run(global, verb)));
    match done {
        Ok(code) => code,
        Err(error) => {
            report::report(global, &error);
            failure
        }
    }
}

/// Help, or what is wrong with the command line: that too is an error engines look for in the log.
fn misused(error: &clap::Error, words: &[OsString]) -> u8 {
    let text = error.render().to_string();
    match error.kind() {
        ClapError::DisplayHelp => {
            let _ = print(text.trim_end());
            SUCCESS
        }
        ClapError::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = writeln!(io::stderr(), "{}", text.trim_end());
            FAILURE
        }
        _ => {
            // How to pass the word to somebody else is no help where nobody takes it.
            let lines = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim);
            let lines = lines.filter(|line| !line.starts_with("tip: to pass"));
            let message = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
            let message = message.strip_prefix("error: ").unwrap_or(&message);
            let error = Error::new(ErrorKind::InvalidArgument, format!("incorrect usage: {message}"));
            report::report(&Global::for_errors(words), &error);
            FAILURE
        }
    }
}

fn run(global: &Global, verb: Verb) -> Result<u8, Error> {
    if matches!(verb, Verb::Create(_) | Verb::Exec(_) | Verb::Run(_)) {
        crate::protect::ensure()?;
    }
    // Its name alone: what comes behind may be a secret.
    let name = format!("{verb:?}");
    tracing::debug!("{} with containers in {}", name.split('(').next().unwrap_or_default(), global.root().display());
    let runtime = Runtime::new(global.root(), global.driver());
    let done = |result: Result<(), Error>| result.map(|()| 0);
    match verb {
        Verb::Checkpoint(arguments) => done(checkpoint::run(&runtime, global, &arguments)),
        Verb::Create(arguments) => done(create::run(&runtime, global, arguments)),
        Verb::Delete(arguments) => done(delete::run(&runtime, &arguments)),
        Verb::Events(arguments) => done(events::run(&runtime, &arguments)),
        Verb::Exec(arguments) => exec::run(&runtime, *arguments),
        Verb::Features(_) => done(features::run()),
        Verb::Kill(arguments) => done(kill::run(&runtime, &arguments)),
        Verb::List(arguments) => done(list::run(&runtime, &global.root(), &arguments)),
        Verb::Pause(arguments) => done(pause::pause(&runtime, &arguments)),
        Verb::Ps(arguments) => done(ps::run(&runtime, &arguments)),
        Verb::Resume(arguments) => done(pause::resume(&runtime, &arguments)),
        Verb::Restore(arguments) => restore::run(&runtime, global, &arguments),
        Verb::Run(arguments) => run::run(&runtime, global, &arguments),
        Verb::Spec(arguments) => done(spec::run(&arguments)),
        Verb::Start(arguments) => done(start::run(&runtime, &arguments)),
        Verb::State(arguments) => done(state::run(&runtime, &arguments)),
        Verb::Update(arguments) => done(update::run(&runtime, &arguments)),
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

/// On one line, as runc prints lists.
fn compact_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::internal(format!("encode the answer: {error}")))
}
