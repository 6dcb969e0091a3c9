//! Driving a pod that is up: starting what is due, watching what runs, restarting by policy.

use std::time::Duration;

use jiff::Timestamp;
use pea_shim::client::{Error as ShimError, Exit, Shim, TaskStatus};
use tokio::task::JoinSet;

use super::launch::Launcher;
use super::report::{Report, Reporter};
use super::{Ended, Kind, Phase, Places, Record, Sandbox, State, Status, restarts, task_id};
use crate::error::{Error, Result};
use crate::manifest::Container;

/// Why the driving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every container has ended for good.
    Over(Phase),
    /// The shim, or the process that holds the pod's process namespace, has died.
    Lost,
}

/// What happens in a pod.
enum Event {
    /// Run `attempt` of a container has ended.
    Ended { container: String, attempt: u32, exit: std::result::Result<Exit, ShimError> },
    /// The sandbox has.
    SandboxEnded,
}

/// The exit code of a container that could not be started, as containerd has it.
const START_FAILED: i32 = 128;
/// That of one whose end nobody saw, as kubelet has it.
const UNSEEN: i32 = 137;

/// The state of the driving.
pub struct Driver<'a> {
    places: &'a Places,
    record: &'a Record,
    status: &'a mut Status,
    reporter: &'a mut Reporter,
    launcher: Launcher<'a>,
    events: JoinSet<Event>,
}

impl<'a> Driver<'a> {
    /// For a pod that `shim` holds.
    pub fn new(
        places: &'a Places,
        record: &'a Record,
        status: &'a mut Status,
        reporter: &'a mut Reporter,
        shim: Shim,
        sandbox: &Sandbox,
    ) -> Result<Driver<'a>> {
        let mut events = JoinSet::new();
        let (watched, uid) = (shim.clone(), record.uid.clone());
        events.spawn(async move {
            // However it ends: a pod that is up has no reason to end without us.
            let _ = watched.wait_sandbox(&uid).await;
            Event::SandboxEnded
        });
        let launcher = Launcher::new(places, record, shim, sandbox)?;
        Ok(Driver { places, record, status, reporter, launcher, events })
    }

    /// Takes up what an earlier driver left: watches what runs, and finishes what it had begun.
    pub async fn take_up(&mut self) -> Result<()> {
        let names: Vec<String> = self.status.all().map(|(_, c)| c.name.clone()).collect();
        for name in names {
            self.take_up_container(&name).await?;
        }
        self.status.store(self.places)
    }

    async fn take_up_container(&mut self, name: &str) -> Result<()> {
        let Some(container) = self.status.container_mut(name) else { return Ok(()) };
        match (&container.state, container.attempt) {
            (State::Running { .. }, Some(attempt)) => {
                // An ended one answers the wait at once; one that is not known any more was removed unrecorded.
                self.watch(name, attempt);
            }
            (State::Terminated(_), Some(attempt)) if !container.done && container.due.is_none() => {
                self.launcher.retire(name, attempt).await?;
                self.decide(name);
            }
            _ if container.done => {}
            _ => {
                let attempt = container.next_attempt();
                let state = self.launcher.shim().state(&task_id(name, attempt), None).await;
                match state.map(|state| state.status) {
                    Ok(TaskStatus::Running | TaskStatus::Stopped | TaskStatus::Paused) => {
                        container.begin(attempt, Timestamp::now());
                        self.watch(name, attempt);
                    }
                    // Begun and not started: done over.
                    _ => self.launcher.retire(name, attempt).await?,
                }
            }
        }
        Ok(())
    }

    /// Drives the pod until it is over or lost.
    pub async fn drive(&mut self) -> Result<Outcome> {
        loop {
            if self.start_due().await? == Some(Outcome::Lost) {
                return Ok(Outcome::Lost);
            }
            if let Some(phase) = self.status.verdict() {
                return Ok(Outcome::Over(phase));
            }
            self.status.phase = if self.status.initialized() { Phase::Running } else { Phase::Pending };
            self.status.store(self.places)?;
            self.report();
            let due = until(self.next_due());
            tokio::select! {
                Some(Ok(event)) = self.events.join_next() => {
                    if self.handle(event).await? == Some(Outcome::Lost) {
                        return Ok(Outcome::Lost);
                    }
                }
                () = due => {}
            }
        }
    }

    /// Starts every container whose turn it is.
    async fn start_due(&mut self) -> Result<Option<Outcome>> {
        for container in self.turn() {
            let Some(status) = self.status.container_mut(&container.name) else { continue };
            let attempt = status.next_attempt();
            match self.launcher.start(&container, attempt).await {
                Ok(started) => {
                    status.begin(attempt, started);
                    self.watch(&container.name, attempt);
                }
                Err(Error::Shim { source: ShimError::Closed(_), .. }) => return Ok(Some(Outcome::Lost)),
                // Somebody waits for the pod to come up: it is told, and gets its pod undone.
                Err(error) if self.reporter.is_awaited() => return Err(error),
                Err(error) => {
                    let now = Timestamp::now();
                    status.begin(attempt, now);
                    status.end(Ended {
                        exit_code: START_FAILED,
                        reason: "StartError".to_owned(),
                        message: Some(error.to_string()),
                        started: None,
                        finished: now,
                    });
                    self.decide(&container.name);
                }
            }
            self.status.store(self.places)?;
        }
        Ok(None)
    }

    /// The containers to start now: the first init container that has not succeeded, or, after them, all others.
    fn turn(&self) -> Vec<Container> {
        let now = Timestamp::now();
        let pod = &self.record.pod;
        let due = |name: &str| {
            self.status
                .all()
                .any(|(_, c)| c.name == name && !c.done && !c.is_running() && c.due.is_none_or(|due| due <= now))
        };
        let unfinished = self.status.init.iter().find(|c| !c.succeeded()).map(|c| c.name.as_str());
        match unfinished {
            Some(name) => pod.init_containers.iter().filter(|c| c.name == name && due(name)).cloned().collect(),
            None => pod.containers.iter().filter(|c| due(&c.name)).cloned().collect(),
        }
    }

    /// When the next of those whose turn it is may start. The others are not waited for, however long they are due.
    fn next_due(&self) -> Option<Timestamp> {
        match self.status.init.iter().find(|c| !c.succeeded()) {
            Some(current) => current.due,
            None => self.status.containers.iter().filter_map(|c| c.due).min(),
        }
    }

    fn watch(&mut self, container: &str, attempt: u32) {
        let (wait, container) = (self.launcher.watch(container, attempt), container.to_owned());
        self.events.spawn(async move { Event::Ended { container, attempt, exit: wait.await } });
    }

    async fn handle(&mut self, event: Event) -> Result<Option<Outcome>> {
        let Event::Ended { container, attempt, exit } = event else { return Ok(Some(Outcome::Lost)) };
        let exit = match exit {
            Ok(exit) => Some(exit),
            Err(ShimError::Closed(_)) => return Ok(Some(Outcome::Lost)),
            Err(_) => None,
        };
        let oom = super::oom::killed(&self.record.uid, &container, attempt);
        if let Some(status) = self.status.container_mut(&container) {
            let ended = ended(&status.state, exit, oom);
            status.end(ended);
        }
        // Recorded first: whoever comes after us if we are killed now knows the exit code.
        self.status.store(self.places)?;
        self.launcher.retire(&container, attempt).await?;
        self.decide(&container);
        Ok(None)
    }

    /// Says what becomes of a container that has ended: done, or another run, now or later.
    fn decide(&mut self, name: &str) {
        decide(self.status, self.record, name);
    }

    /// Tells the waiting `run` once there is something to tell.
    fn report(&mut self) {
        let started = self.status.containers.iter().all(|c| c.attempt.is_some());
        if started {
            return self.reporter.send(&Report::Ready { addresses: self.status.addresses.clone() });
        }
        let failing = self.status.init.iter().find(|c| matches!(c.state, State::Waiting { .. }) && c.due.is_some());
        if let (Some(container), true) = (failing, self.reporter.is_awaited()) {
            let code = container.ended().map_or(START_FAILED, |ended| ended.exit_code);
            let message = format!("init container {} ended with exit code {code} again and is retried", container.name);
            self.reporter.send(&Report::Retrying { message });
        }
    }
}

/// See [`Driver::decide`].
fn decide(status: &mut Status, record: &Record, name: &str) {
    let kind = if status.init.iter().any(|c| c.name == name) { Kind::Init } else { Kind::Main };
    let Some(container) = status.container_mut(name) else { return };
    let State::Terminated(ended) = &container.state else { return };
    if !restarts(record.pod.restart_policy, kind, ended.exit_code) {
        container.done = true;
        container.due = None;
        return;
    }
    let ran = ended.started.map(|started| ended.finished.duration_since(started));
    let pause = container.backoff.pause(ran.and_then(|ran| ran.try_into().ok()).unwrap_or(Duration::ZERO));
    let due = Timestamp::now().checked_add(pause).unwrap_or(Timestamp::MAX);
    container.wait_until(due, !pause.is_zero());
}

/// Notes the end of everything that ran in a pod whose sandbox is gone, unseen.
pub fn lose(status: &mut Status, record: &Record) {
    let running: Vec<String> = status.all().filter(|(_, c)| c.is_running()).map(|(_, c)| c.name.clone()).collect();
    for name in running {
        if let Some(container) = status.container_mut(&name) {
            let mut ended = ended(&container.state, None, false);
            ended.message = Some("the pod's shim was killed, and the container with it".to_owned());
            container.end(ended);
        }
        decide(status, record, &name);
    }
    status.sandbox = None;
    status.addresses = Vec::new();
    if status.verdict().is_none() {
        // A pod brought up anew is initialised anew, as in Kubernetes: its volumes in memory are empty again.
        for container in status.init.iter_mut().filter(|container| container.succeeded()) {
            container.done = false;
        }
    }
}

/// How a container that was in `state` ended.
pub fn ended(state: &State, exit: Option<Exit>, oom: bool) -> Ended {
    let started = match state {
        State::Running { started } => Some(*started),
        _ => None,
    };
    let exit_code = exit.map_or(UNSEEN, |exit| i32::try_from(exit.status).unwrap_or(UNSEEN));
    let reason = match (exit_code, exit) {
        (_, None) => "Unknown",
        (0, _) => "Completed",
        _ if oom => "OOMKilled",
        _ => "Error",
    };
    let finished = exit.and_then(|exit| exit.at).unwrap_or_else(Timestamp::now);
    Ended { exit_code, reason: reason.to_owned(), message: None, started, finished }
}

/// Waits for a moment; for ever without one.
async fn until(moment: Option<Timestamp>) {
    match moment {
        None => std::future::pending().await,
        Some(moment) => {
            let left = moment.duration_since(Timestamp::now());
            tokio::time::sleep(left.try_into().unwrap_or(Duration::ZERO)).await;
        }
    }
}
