//! `ps`: the pods, as `kubectl get pods` shows them.

use jiff::Timestamp;
use serde::Serialize;

use super::output::{age, print, table};
use super::{Code, Context};
use crate::error::{Error, Result};
use crate::pod::{self, ContainerStatus, Phase, Places, Record, State, Status};

/// List the pods.
#[derive(clap::Args, Debug)]
pub struct Ps {
    /// Those of every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// One pod of the list.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Row {
    namespace: String,
    name: String,
    uid: String,
    ready: String,
    status: String,
    restarts: u32,
    ip: Option<String>,
    created: Timestamp,
}

impl Ps {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let mut rows = Vec::new();
        for places in pod::list(&context.settings)? {
            if self.all_namespaces || places.key.namespace() == context.namespace {
                rows.extend(row(&places)?);
            }
        }
        match self.output {
            Format::Table => print(show(&rows, self.all_namespaces, Timestamp::now()))?,
            Format::Json => {
                let text = serde_json::to_string_pretty(&rows)
                    .map_err(|source| Error::Damaged { path: "the list of pods".into(), source })?;
                print(format!("{text}\n"))?;
            }
        }
        Ok(None)
    }
}

/// The row of one pod; none when it is removed this very moment.
fn row(places: &Places) -> Result<Option<Row>> {
    let record = match Record::load(places) {
        Err(Error::NoSuchPod(_)) => return Ok(None),
        record => record?,
    };
    let _ = pod::ensure_keeper(places);
    let status = Status::load(places, &record)?;
    Ok(Some(Row {
        namespace: places.key.namespace().to_owned(),
        name: places.key.name().to_owned(),
        uid: record.uid.clone(),
        ready: ready(&status),
        status: word(&status),
        restarts: status.all().map(|(_, container)| container.restarts).sum(),
        ip: status.addresses.first().map(ToString::to_string),
        created: record.created,
    }))
}

fn show(rows: &[Row], namespaces: bool, now: Timestamp) -> String {
    let head = ["NAME", "READY", "STATUS", "RESTARTS", "IP", "AGE"].map(str::to_owned).to_vec();
    let first = |cell: &str| if namespaces { vec![cell.to_owned()] } else { Vec::new() };
    let mut lines = vec![[first("NAMESPACE"), head].concat()];
    for row in rows {
        let cells = [
            row.name.clone(),
            row.ready.clone(),
            row.status.clone(),
            row.restarts.to_string(),
            row.ip.clone().unwrap_or_else(|| "<none>".to_owned()),
            age(now.duration_since(row.created).as_secs()),
        ];
        lines.push([first(&row.namespace), cells.to_vec()].concat());
    }
    table(&lines)
}

fn ready(status: &Status) -> String {
    let running = status.containers.iter().filter(|container| container.is_running()).count();
    format!("{running}/{}", status.containers.len())
}

/// The one word kubectl has for a pod: its own reason, else what its containers are held up by, else its phase.
fn word(status: &Status) -> String {
    if let Some(reason) = &status.reason {
        return reason.clone();
    }
    if !status.initialized() {
        return init_word(status);
    }
    let held_up = status.containers.iter().filter(|c| !c.is_running()).find_map(reason_of);
    match (status.phase, held_up) {
        (Phase::Succeeded, _) => "Completed".to_owned(),
        (Phase::Pending | Phase::Running | Phase::Failed, Some(reason)) => reason,
        (phase, None) => format!("{phase:?}"),
    }
}

/// `Init:1/2` while the second of two runs, `Init:Error` and the like when it does not.
fn init_word(status: &Status) -> String {
    let done = status.init.iter().filter(|c| c.succeeded()).count();
    let current = status.init.iter().find(|c| !c.succeeded());
    match current.filter(|c| !c.is_running() && c.attempt.is_some()).and_then(reason_of) {
        Some(reason) => format!("Init:{reason}"),
        None => format!("Init:{done}/{}", status.init.len()),
    }
}

fn reason_of(container: &ContainerStatus) -> Option<String> {
    match &container.state {
        State::Waiting { reason } => Some(reason.clone()),
        State::Running { .. } => None,
        State::Terminated(ended) => Some(ended.reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{Backoff, Ended};

    fn container(state: State, attempt: Option<u32>, done: bool) -> ContainerStatus {
        ContainerStatus {
            name: "c".into(),
            image: "i".into(),
            state,
            last: None,
            restarts: 0,
            attempt,
            backoff: Backoff::default(),
            due: None,
            done,
        }
    }

    fn running() -> ContainerStatus {
        container(State::Running { started: Timestamp::UNIX_EPOCH }, Some(0), false)
    }

    fn ended(exit_code: i32, reason: &str, done: bool) -> ContainerStatus {
        let ended =
            Ended { exit_code, reason: reason.into(), message: None, started: None, finished: Timestamp::UNIX_EPOCH };
        container(State::Terminated(ended), Some(0), done)
    }

    fn waiting(reason: &str, attempt: Option<u32>) -> ContainerStatus {
        container(State::Waiting { reason: reason.into() }, attempt, false)
    }

    fn status(phase: Phase, init: Vec<ContainerStatus>, containers: Vec<ContainerStatus>) -> Status {
        Status { phase, init, containers, ..Status::default() }
    }

    #[test]
    fn the_word_for_a_pod_is_kubectls() {
        let table = [
            (status(Phase::Running, vec![], vec![running(), running()]), "2/2", "Running"),
            (status(Phase::Pending, vec![], vec![waiting("ContainerCreating", None)]), "0/1", "ContainerCreating"),
            (
                status(Phase::Running, vec![], vec![running(), waiting("CrashLoopBackOff", Some(3))]),
                "1/2",
                "CrashLoopBackOff",
            ),
            (status(Phase::Running, vec![], vec![running(), ended(0, "Completed", true)]), "1/2", "Completed"),
            (status(Phase::Failed, vec![], vec![ended(1, "Error", true)]), "0/1", "Error"),
            (status(Phase::Succeeded, vec![], vec![ended(0, "Completed", true)]), "0/1", "Completed"),
            (
                status(
                    Phase::Pending,
                    vec![ended(0, "Completed", true), running()],
                    vec![waiting("PodInitializing", None)],
                ),
                "0/1",
                "Init:1/2",
            ),
            (
                status(Phase::Failed, vec![ended(1, "Error", true)], vec![waiting("PodInitializing", None)]),
                "0/1",
                "Init:Error",
            ),
        ];
        for (status, expected_ready, expected) in table {
            assert_eq!((ready(&status).as_str(), word(&status).as_str()), (expected_ready, expected), "{status:?}");
        }
    }
}
