//! What a pod is doing, as its keeper writes it to `status.json` at each change.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Backoff, Kind, Places, Record};
use crate::error::Result;
use crate::files::{read_json, write_json};

/// Kubernetes' pod phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being made, or its init containers run.
    #[default]
    Pending,
    /// Its containers run, or will again.
    Running,
    /// All ended well, for good.
    Succeeded,
    /// All ended for good, one of them badly.
    Failed,
}

impl Phase {
    /// Whether the pod's life is over.
    pub fn is_final(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// The shim that holds the pod, while there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its socket.
    pub address: String,
    /// The process whose `/proc/<pid>/ns/*` are the pod's.
    pub pid: i32,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code; 128 + n for signal n.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: String,
    /// More about it, for a failed start.
    pub message: Option<String>,
    /// When it was started, if it was.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not yet, or not again.
    Waiting {
        /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`.
        reason: String,
    },
    /// Running.
    Running {
        /// Since when.
        started: Timestamp,
    },
    /// Ended.
    Terminated(Ended),
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Its image as the manifest names it.
    pub image: String,
    /// What it is doing.
    pub state: State,
    /// How its previous run ended.
    pub last: Option<Ended>,
    /// How often it was started again.
    pub restarts: u32,
    /// The number of the current run, from 0; `None` before the first.
    pub attempt: Option<u32>,
    /// Of its pauses between restarts.
    pub backoff: Backoff,
    /// When a restart is due.
    pub due: Option<Timestamp>,
    /// It has ended and is not started again.
    pub done: bool,
}

/// The whole pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The phase.
    pub phase: Phase,
    /// Why the pod is not as it should be, in a word.
    pub reason: Option<String>,
    /// And in a sentence.
    pub message: Option<String>,
    /// When the pod's set-up was complete.
    pub started: Option<Timestamp>,
    /// The shim.
    pub sandbox: Option<Sandbox>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The init containers, in order.
    pub init: Vec<ContainerStatus>,
    /// The containers, in order.
    pub containers: Vec<ContainerStatus>,
}

impl ContainerStatus {
    fn new(container: &crate::manifest::Container, reason: &str) -> ContainerStatus {
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone(),
            state: State::Waiting { reason: reason.to_owned() },
            last: None,
            restarts: 0,
            attempt: None,
            backoff: Backoff::default(),
            due: None,
            done: false,
        }
    }

    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// How it ended last.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Terminated(ended) => Some(ended),
            _ => self.last.as_ref(),
        }
    }

    /// Whether it ended for good, and well.
    pub fn succeeded(&self) -> bool {
        self.done && self.ended().is_some_and(|ended| ended.exit_code == 0)
    }

    /// Notes that a run has begun.
    pub fn begin(&mut self, attempt: u32, started: Timestamp) {
        if let State::Terminated(ended) = &self.state {
            self.last = Some(ended.clone());
        }
        self.restarts = attempt;
        self.attempt = Some(attempt);
        self.due = None;
        self.done = false;
        self.state = State::Running { started };
    }

    /// Notes that a run has ended.
    pub fn end(&mut self, ended: Ended) {
        self.state = State::Terminated(ended);
    }

    /// Notes that the next run is due at `due`. A pause is what `CrashLoopBackOff` means.
    pub fn wait_until(&mut self, due: Timestamp, paused: bool) {
        self.due = Some(due);
        if let (State::Terminated(ended), true) = (&self.state, paused) {
            self.last = Some(ended.clone());
            self.state = State::Waiting { reason: "CrashLoopBackOff".to_owned() };
        }
    }

    /// The number of the next run.
    pub fn next_attempt(&self) -> u32 {
        self.attempt.map_or(0, |attempt| attempt + 1)
    }
}

impl Status {
    /// The status of a pod nothing has been done for yet.
    pub fn new(record: &Record) -> Status {
        let pod = &record.pod;
        let waiting = if pod.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        Status {
            init: pod.init_containers.iter().map(|c| ContainerStatus::new(c, waiting)).collect(),
            containers: pod.containers.iter().map(|c| ContainerStatus::new(c, waiting)).collect(),
            ..Status::default()
        }
    }

    /// Reads a pod's status; that of an untouched pod when there is none yet.
    pub fn load(places: &Places, record: &Record) -> Result<Status> {
        Ok(read_json(&places.status())?.unwrap_or_else(|| Status::new(record)))
    }

    /// Writes it, whole.
    pub fn store(&self, places: &Places) -> Result<()> {
        write_json(&places.status(), self)
    }

    /// All containers with their list, in the order they start in.
    pub fn all(&self) -> impl Iterator<Item = (Kind, &ContainerStatus)> {
        let init = self.init.iter().map(|c| (Kind::Init, c));
        init.chain(self.containers.iter().map(|c| (Kind::Main, c)))
    }

    /// All containers, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut ContainerStatus> {
        self.init.iter_mut().chain(&mut self.containers)
    }

    /// One container by name: names are unique across both lists.
    pub fn container_mut(&mut self, name: &str) -> Option<&mut ContainerStatus> {
        self.all_mut().find(|container| container.name == name)
    }

    /// Whether every init container has ended well.
    pub fn initialized(&self) -> bool {
        self.init.iter().all(ContainerStatus::succeeded)
    }

    /// Whether the pod's life is over, and how: an init container failed for good, or every container has ended.
    pub fn verdict(&self) -> Option<Phase> {
        if self.init.iter().any(|c| c.done && !c.succeeded()) {
            return Some(Phase::Failed);
        }
        let over = self.initialized() && self.containers.iter().all(|c| c.done);
        let well = self.containers.iter().all(ContainerStatus::succeeded);
        over.then_some(if well { Phase::Succeeded } else { Phase::Failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_code: i32) -> Ended {
        Ended { exit_code, reason: String::new(), message: None, started: None, finished: Timestamp::UNIX_EPOCH }
    }

    fn container(name: &str, done: Option<i32>) -> ContainerStatus {
        let mut status =
            ContainerStatus::new(&crate::manifest::Container { name: name.into(), ..Default::default() }, "x");
        if let Some(code) = done {
            status.begin(0, Timestamp::UNIX_EPOCH);
            status.end(ended(code));
            status.done = true;
        }
        status
    }

    fn pod(init: Vec<ContainerStatus>, containers: Vec<ContainerStatus>) -> Status {
        Status { init, containers, ..Status::default() }
    }

    #[test]
    fn a_pod_is_over_when_all_ended_for_good_or_an_init_container_failed() {
        assert_eq!(pod(vec![], vec![container("a", None)]).verdict(), None);
        assert_eq!(pod(vec![], vec![container("a", Some(0)), container("b", None)]).verdict(), None);
        assert_eq!(pod(vec![], vec![container("a", Some(0))]).verdict(), Some(Phase::Succeeded));
        assert_eq!(pod(vec![], vec![container("a", Some(0)), container("b", Some(3))]).verdict(), Some(Phase::Failed));
        assert_eq!(pod(vec![container("i", Some(1))], vec![container("a", None)]).verdict(), Some(Phase::Failed));
        assert_eq!(pod(vec![container("i", Some(0))], vec![container("a", None)]).verdict(), None);
    }

    #[test]
    fn a_restart_keeps_how_the_run_before_ended() {
        let mut status = container("a", None);
        status.begin(0, Timestamp::UNIX_EPOCH);
        status.end(ended(137));
        status.wait_until(Timestamp::UNIX_EPOCH, false);
        status.begin(status.next_attempt(), Timestamp::UNIX_EPOCH);
        assert_eq!((status.restarts, status.last.as_ref().map(|l| l.exit_code)), (1, Some(137)));
        status.end(ended(1));
        status.wait_until(Timestamp::UNIX_EPOCH, true);
        assert_eq!(status.state, State::Waiting { reason: "CrashLoopBackOff".into() });
        assert_eq!(status.last.as_ref().map(|l| l.exit_code), Some(1));
        assert!(!status.is_running() && !status.succeeded());
    }
}
