//! One process of a container, its init or an exec's: a single state machine for both.
//!
//! ```text
//! exec: Added ─▶ Building ─────────────▶ Running ─▶ Stopped ─▶ Deleted
//! init:          Building ─▶ Created ─▶ Running ─▶ Stopped ─▶ Deleted
//! restored init: Building ─▶ Created ─▶ Building ─▶ Running ─▶ Stopped ─▶ Deleted
//! ```
//! Any of the first three may also go straight to `Stopped` (a build that fails, a kill), and an
//! exec that was never started straight to `Deleted`. Nobody but [`Process::enter`] changes the phase.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::error::Error;
use crate::reap::{Child, Exit};
use crate::stdio::{Stdio, Streams};

/// Where a process stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// An exec that waits for its start.
    Added,
    /// pea's helper is at work.
    Building,
    /// The container stands; its program waits for the start.
    Created,
    /// The program runs.
    Running,
    /// It has ended; how is kept until the delete.
    Stopped,
    /// Deleted, or about to be.
    Deleted,
}

/// The steps there are.
const STEPS: &[(Phase, Phase)] = &[
    (Phase::Added, Phase::Building),
    (Phase::Added, Phase::Deleted),
    (Phase::Building, Phase::Created),
    (Phase::Building, Phase::Running),
    (Phase::Building, Phase::Stopped),
    (Phase::Created, Phase::Building),
    (Phase::Created, Phase::Running),
    (Phase::Created, Phase::Stopped),
    (Phase::Running, Phase::Stopped),
    (Phase::Stopped, Phase::Deleted),
    // A delete that failed half-way can be asked for again.
    (Phase::Deleted, Phase::Stopped),
];

/// What waiters wait for.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Open,
    Ended(Exit),
    /// Deleted without ever having run.
    Never,
}

/// One process of a container.
pub struct Process {
    /// The container's id.
    pub container: String,
    /// The exec's id; empty for the init.
    pub exec_id: String,
    /// The addresses of its streams.
    pub stdio: Stdio,
    state: Mutex<State>,
    fate: watch::Sender<Fate>,
    cancel: Notify,
    killed: AtomicBool,
}

struct State {
    phase: Phase,
    /// Kept to the delete; the child, which holds a descriptor, only to the end: not every client deletes its execs.
    pid: Option<i32>,
    child: Option<Arc<Child>>,
    streams: Option<Streams>,
    /// The client closed standard input, perhaps before it was there.
    input_closed: bool,
}

impl Process {
    /// A process in its first phase: `Building` for an init, `Added` for an exec.
    pub fn new(container: &str, exec_id: &str, stdio: Stdio) -> Self {
        let phase = if exec_id.is_empty() { Phase::Building } else { Phase::Added };
        Self {
            container: container.to_owned(),
            exec_id: exec_id.to_owned(),
            stdio,
            state: Mutex::new(State { phase, pid: None, child: None, streams: None, input_closed: false }),
            fate: watch::Sender::new(Fate::Open),
            cancel: Notify::new(),
            killed: AtomicBool::new(false),
        }
    }

    /// How messages name it.
    pub fn name(&self) -> String {
        match self.exec_id.as_str() {
            "" => format!("container {}", self.container),
            exec => format!("exec {exec} of container {}", self.container),
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Its pid on the node, once it has one. Kept after the end, as the protocol wants.
    pub fn pid(&self) -> Option<i32> {
        self.state().pid
    }

    /// How it ended, once it has.
    pub fn exit(&self) -> Option<Exit> {
        match *self.fate.borrow() {
            Fate::Ended(exit) => Some(exit),
            Fate::Open | Fate::Never => None,
        }
    }

    /// Takes a step, if there is one from here to there.
    ///
    /// # Errors
    /// `FailedPrecondition`, saying where the process stands.
    pub fn enter(&self, to: Phase) -> Result<(), Error> {
        let mut state = self.state();
        if !STEPS.contains(&(state.phase, to)) {
            return Err(self.stands_in(state.phase));
        }
        state.phase = to;
        drop(state);
        if to == Phase::Deleted {
            self.fate.send_if_modified(|fate| {
                let open = matches!(fate, Fate::Open);
                *fate = if open { Fate::Never } else { *fate };
                open
            });
        }
        Ok(())
    }

    /// Checks that the process stands there.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn expect(&self, phase: Phase) -> Result<(), Error> {
        let current = self.phase();
        if current == phase { Ok(()) } else { Err(self.stands_in(current)) }
    }

    /// Why something cannot be done where the process stands now.
    pub fn stands(&self) -> Error {
        self.stands_in(self.phase())
    }

    fn stands_in(&self, phase: Phase) -> Error {
        let standing = match phase {
            Phase::Added => "has not been started",
            Phase::Building => "is being created",
            Phase::Created => "has been created and not started",
            Phase::Running => "is running",
            Phase::Stopped => "has ended",
            Phase::Deleted => return Error::not_found(format!("{} has been deleted", self.name())),
        };
        Error::precondition(format!("{} {standing}", self.name()))
    }

    /// Gives the process its child and its streams.
    pub fn attach(&self, child: Arc<Child>, mut streams: Streams) {
        let mut state = self.state();
        if state.input_closed {
            streams.close_input();
        }
        state.pid = Some(child.pid);
        state.child = Some(child);
        state.streams = Some(streams);
    }

    /// Records the end and tells everybody who waits.
    pub fn ended(&self, exit: Exit) {
        let stopped = self.enter(Phase::Stopped).is_ok();
        let mut state = self.state();
        state.child = None;
        if let Some(streams) = &mut state.streams {
            streams.abandon_input();
        }
        drop(state);
        if stopped {
            self.fate.send_replace(Fate::Ended(exit));
        }
    }

    /// Waits for the end; any number may wait, before the start or after the end.
    pub async fn wait(&self) -> Result<Exit, Error> {
        let mut fate = self.fate.subscribe();
        let seen = fate.wait_for(|fate| !matches!(fate, Fate::Open)).await.map(|fate| *fate);
        match seen {
            Ok(Fate::Ended(exit)) => Ok(exit),
            _ => Err(Error::not_found(format!("{} was deleted and never ran", self.name()))),
        }
    }

    /// Whether a client had it killed.
    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Keeps in mind that this signal is sent.
    pub fn note(&self, signal: i32) {
        self.killed.fetch_or(signal == libc::SIGKILL, Ordering::Relaxed);
    }

    /// Sends a signal to this very process.
    ///
    /// # Errors
    /// `NotFound` once it has ended, in the words containerd's clients look for.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let child = self.state().child.clone();
        let finished = || Error::not_found(format!("{}: process already finished", self.name()));
        match (self.phase(), child) {
            (Phase::Stopped | Phase::Deleted, _) => Err(finished()),
            (Phase::Building, _) if signal == libc::SIGKILL => {
                self.cancel();
                Ok(())
            }
            // From a checkpoint: there is no process before the start, and is to be none.
            (Phase::Created, None) if signal == libc::SIGKILL => {
                self.ended(Exit::now(128 + libc::SIGKILL as u32));
                Ok(())
            }
            (_, None) => Err(self.stands()),
            (_, Some(child)) => {
                child.signal(signal).map(|()| self.note(signal)).map_err(|source| match source.raw_os_error() {
                    Some(libc::ESRCH) => finished(),
                    Some(libc::EINVAL) => Error::invalid(format!("{signal} is no signal")),
                    _ => Error::io(format!("send signal {signal} to {}", self.name()), source),
                })
            }
        }
    }

    /// Calls a build off.
    pub fn cancel(&self) {
        self.cancel.notify_one();
    }

    /// Ends when the build is called off.
    pub async fn cancelled(&self) {
        self.cancel.notified().await;
    }

    /// Ends standard input, now or as soon as it flows.
    pub fn close_input(&self) {
        let mut state = self.state();
        state.input_closed = true;
        if let Some(streams) = &mut state.streams {
            streams.close_input();
        }
    }

    /// Does something with the streams, if they flow.
    pub fn with_streams<T>(&self, act: impl FnOnce(&mut Streams) -> T) -> Option<T> {
        self.state().streams.as_mut().map(act)
    }

    /// Takes the streams out, to drain them.
    pub fn take_streams(&self) -> Option<Streams> {
        self.state().streams.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a signal number is one that `kill` may be asked for.
pub fn signal_number(signal: u32) -> Result<i32, Error> {
    i32::try_from(signal)
        .ok()
        .filter(|signal| *signal <= libc::SIGRTMAX())
        .ok_or_else(|| Error::invalid(format!("{signal} is no signal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Process {
        Process::new("c", "e", Stdio::default())
    }

    #[test]
    fn an_exec_goes_through_its_life_in_order_only() {
        let process = exec();
        assert!(process.enter(Phase::Running).is_err(), "running before it was built");
        for phase in [Phase::Building, Phase::Running, Phase::Stopped, Phase::Deleted] {
            process.enter(phase).unwrap();
            assert_eq!(process.phase(), phase);
        }
        assert!(process.enter(Phase::Running).unwrap_err().is_not_found());
    }

    #[test]
    fn a_running_process_cannot_be_deleted() {
        let process = exec();
        process.enter(Phase::Building).unwrap();
        process.enter(Phase::Running).unwrap();
        assert!(process.enter(Phase::Deleted).unwrap_err().to_string().contains("is running"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn waiting_before_the_start_and_after_the_end_tells_the_same() {
        let process = Arc::new(exec());
        let early = tokio::spawn({
            let process = process.clone();
            async move { process.wait().await }
        });
        process.enter(Phase::Building).unwrap();
        process.enter(Phase::Running).unwrap();
        let exit = Exit::now(3);
        process.ended(exit);
        assert_eq!(process.wait().await.unwrap(), exit);
        assert_eq!(early.await.unwrap().unwrap(), exit);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn waiting_for_an_exec_that_never_runs_ends_with_its_delete() {
        let process = Arc::new(exec());
        let waiting = tokio::spawn({
            let process = process.clone();
            async move { process.wait().await }
        });
        tokio::task::yield_now().await;
        process.enter(Phase::Deleted).unwrap();
        assert!(waiting.await.unwrap().unwrap_err().is_not_found());
    }
}
