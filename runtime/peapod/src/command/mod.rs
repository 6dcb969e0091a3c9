//! The command line: one file a verb.

mod exec;
mod image;
mod inspect;
mod keep;
mod logs;
mod output;
mod ps;
mod rm;
mod run;
mod stop;
mod terminal;

use clap::{Parser, Subcommand};

use crate::error::{Error, IoContext, Result};
use crate::manifest;
use crate::pod::{Key, Places, Record};
use crate::settings::Settings;

/// Run Kubernetes Pod manifests on this machine, with no daemon.
#[derive(Parser, Debug)]
#[command(name = "peapod", version, max_term_width = 100)]
pub struct Cli {
    /// The namespace of the pods named; for `run`, of manifests that name none
    #[arg(short, long, global = true, default_value = "default")]
    namespace: String,
    #[command(flatten, next_help_heading = "Places")]
    settings: Settings,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start the pods of a manifest and wait until they run
    Run(run::Run),
    /// List the pods
    Ps(ps::Ps),
    /// Show a pod with its status, as JSON
    Inspect(inspect::Inspect),
    /// Show what a container printed
    Logs(logs::Logs),
    /// Run a command inside a container
    Exec(exec::Exec),
    /// Stop a pod; its record, logs and volumes stay
    Stop(stop::Stop),
    /// Remove pods with everything of them
    Rm(rm::Rm),
    /// Load and list images
    #[command(subcommand)]
    Image(image::Image),
    /// Keep a pod running (started by the other commands)
    #[command(hide = true)]
    Keep(keep::Keep),
}

/// What every verb is given.
struct Context {
    settings: Settings,
    namespace: String,
}

impl Context {
    /// The pod of that name: `web`, or `shop/web` whatever the namespace. Names become paths, so they are checked.
    fn places(&self, pod: &str) -> Result<Places> {
        let (namespace, name) = pod.split_once('/').unwrap_or((&self.namespace, pod));
        manifest::check_namespace(namespace).map_err(|reason| Error::Name { what: "namespace", reason })?;
        manifest::check_name(name).map_err(|reason| Error::Name { what: "pod", reason })?;
        Places::new(&self.settings, Key::new(namespace, name))
    }

    /// The pod of that name with its record, and a keeper if it should have one: what every command that looks at a
    /// pod does first.
    fn open(&self, pod: &str) -> Result<(Places, Record)> {
        let places = self.places(pod)?;
        let record = Record::load(&places)?;
        // The pod may be removed at this very moment; what is asked of it next will say so.
        let _ = crate::pod::ensure_keeper(&places);
        Ok((places, record))
    }
}

impl Cli {
    /// Does what was asked and returns the exit code.
    pub fn run(self) -> Result<u8> {
        manifest::check_namespace(&self.namespace).map_err(|reason| Error::Name { what: "namespace", reason })?;
        let context = Context { settings: self.settings.resolve()?, namespace: self.namespace };
        match self.verb {
            Verb::Run(verb) => verb.run(&context),
            Verb::Ps(verb) => verb.run(&context),
            Verb::Inspect(verb) => verb.run(&context),
            Verb::Logs(verb) => verb.run(&context),
            Verb::Exec(verb) => verb.run(&context),
            Verb::Stop(verb) => verb.run(&context),
            Verb::Rm(verb) => verb.run(&context),
            Verb::Image(verb) => verb.run(&context),
            Verb::Keep(verb) => verb.run(&context),
        }
        .map(|code| code.unwrap_or(0))
    }
}

/// A verb's own exit code, for the one that has one.
type Code = Option<u8>;

/// Runs `work`, which speaks to a shim, on this thread.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop of", std::path::Path::new("peapod"))?;
    let done = runtime.block_on(work);
    // A thread that still reads the terminal must not keep us.
    runtime.shutdown_background();
    done
}

/// The container a person means: the one named, or the pod's first.
fn container<'a>(record: &'a Record, named: Option<&'a str>) -> Result<&'a str> {
    let Some(name) = named else {
        return Ok(record.pod.containers.first().map_or("", |container| &container.name));
    };
    let all: Vec<&str> = record.pod.all_containers().map(|container| container.name.as_str()).collect();
    if all.contains(&name) {
        return Ok(name);
    }
    Err(Error::pod(&record.key(), format!("no container {name}; there are {}", all.join(", "))))
}
