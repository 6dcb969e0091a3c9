//! `run`: from a manifest to running pods.

use std::path::PathBuf;

use super::output::print;
use super::{Code, Context};
use crate::error::{Error, Result};
use crate::manifest::{self, Pod};
use crate::pod::{self, Key, Phase, Places, Record, Registry, Report};

/// Start the pods of a manifest and wait until they run.
#[derive(clap::Args, Debug)]
pub struct Run {
    /// The manifest, YAML or JSON, of one or several pods; - is standard input
    file: PathBuf,
}

impl Run {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let mut pods = manifest::load(&self.file)?;
        for pod in &mut pods {
            if pod.manifest.metadata.namespace.is_none() {
                pod.namespace.clone_from(&context.namespace);
            }
        }
        let mut plans = Vec::new();
        for pod in pods {
            plans.push(self.plan(context, pod, &plans)?);
        }
        plans.iter().try_for_each(|record| start(context, record))?;
        Ok(None)
    }

    /// Everything that can be refused is refused here, for all pods of the file, before the first is made.
    fn plan(&self, context: &Context, pod: Pod, before: &[Record]) -> Result<Record> {
        let file = self.file.display().to_string();
        let key = Key::new(&pod.namespace, &pod.name);
        if Places::new(&context.settings, key.clone())?.record().exists() {
            return Err(Error::NameTaken(key));
        }
        if before.iter().any(|record| record.key() == key) {
            let reason = format!("two documents describe pod {key}");
            return Err(Error::Field { file, path: "metadata.name".to_owned(), reason });
        }
        let images = pod::check(&context.settings, &pod, before, &file)?;
        Record::new(pod, images)
    }
}

fn start(context: &Context, record: &Record) -> Result<()> {
    let (places, lock) = record.create(&context.settings, &Registry::open(&context.settings)?)?;
    let reports = pod::start(&places, lock)?;
    let key = record.key();
    // From here on the keeper does everything; killing us changes nothing.
    match reports.wait() {
        Some(Report::Ready { addresses }) if addresses.is_empty() => print(format!("pod {key} runs\n")),
        Some(Report::Ready { addresses }) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            print(format!("pod {key} runs at {}\n", addresses.join(", ")))
        }
        Some(Report::Retrying { message }) => print(format!("pod {key} is not ready: {message}\n")),
        Some(Report::Over { phase: Phase::Succeeded, .. }) => print(format!("pod {key} has succeeded\n")),
        Some(Report::Over { message, .. }) => {
            Err(Error::pod(&key, format!("{message}; peapod logs {key} shows what it printed")))
        }
        Some(Report::Failed { message }) => Err(Error::Undone { key, message }),
        None if !places.record().exists() => Err(Error::pod(&key, "it was removed before it was up")),
        None => {
            let log = places.keeper_log();
            Err(Error::pod(&key, format!("its keeper ended before the pod was up; see {}", log.display())))
        }
    }
}
