//! The keeper: the process that keeps one pod running.
//!
//! Single-threaded, a client of the shim like any other. It may be killed at any moment: the containers and their
//! logs do not depend on it, and any later command starts another one, which goes on from what is on disk.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::Path;

use jiff::Timestamp;
use pea_shim::client::Shim;
use tokio::signal::unix::{SignalKind, signal};

use super::driver::{Driver, Outcome, lose};
use super::report::{Report, Reporter};
use super::sandbox::bring_up;
use super::teardown::{erase, take_down};
use super::{Backoff, Desired, Key, Phase, Places, PodLock, Record, Role, Status, unit};
use crate::error::{Error, IoContext, Result};
use crate::settings::Settings;

/// Keeps the pod `key`. With `new`, a `run` waits for the news at the other end of our standard output, and a pod
/// that cannot be brought up is undone; without, a pod is taken up where its last keeper left it.
pub fn keep(settings: &Settings, key: Key, new: bool) -> Result<()> {
    // A session of our own: the terminal that `run` was typed into is none of our business. Refused only to a
    // process group's leader, who has no terminal to lose that way.
    let _ = nix::unistd::setsid();
    unit::leave();
    let (mut lock, reporter) = take_over(new)?;
    lock.hold_as(Role::Keeper)?;
    let places = Places::new(settings, key)?;
    // Read after our note is in the lock file: a `stop` that came before is seen here, one that comes later sees us.
    let record = Record::load(&places)?;
    if record.desired == Desired::Stopped {
        return Ok(());
    }
    let status = Status::load(&places, &record)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop of", Path::new("the keeper"))?;
    let mut keeper = Keeper { places, record, status, reporter, new, backoff: Backoff::default(), up_since: None };
    runtime.block_on(async {
        let mut told_to_leave =
            signal(SignalKind::terminate()).context("waiting for SIGTERM in", Path::new("the keeper"))?;
        tokio::select! {
            // Left as it is, wherever that is: who told us goes on from what is on disk.
            _ = told_to_leave.recv() => Ok(()),
            done = keeper.live() => done,
        }
    })
}

/// Takes lock and pipe off the standard descriptors, which nobody may write to by mistake.
fn take_over(new: bool) -> Result<(PodLock, Reporter)> {
    let null = Path::new("/dev/null");
    let lock = PodLock::from_stdin()?;
    let pipe = std::io::stdout().as_fd().try_clone_to_owned().context("keeping", Path::new("/dev/stdout"))?;
    let nothing = OpenOptions::new().read(true).write(true).open(null).context("opening", null)?;
    nix::unistd::dup2_stdin(&nothing).context("closing", Path::new("/dev/stdin"))?;
    nix::unistd::dup2_stdout(&nothing).context("closing", Path::new("/dev/stdout"))?;
    let reporter = if new { Reporter::new(File::from(pipe)) } else { Reporter::default() };
    Ok((lock, reporter))
}

struct Keeper {
    places: Places,
    record: Record,
    status: Status,
    reporter: Reporter,
    new: bool,
    /// Of the pauses between two times the whole pod is brought up.
    backoff: Backoff,
    up_since: Option<Timestamp>,
}

impl Keeper {
    async fn live(&mut self) -> Result<()> {
        let mut shim = self.adopt().await;
        let mut taking_up = shim.is_some();
        loop {
            let held = match shim.take() {
                Some(shim) => shim,
                None => self.bring_up().await?,
            };
            let outcome = match self.drive(held, taking_up).await {
                Ok(Outcome::Lost) if self.reporter.is_awaited() => {
                    Err(Error::pod(&self.places.key, "its shim ended while the pod was being started"))
                }
                outcome => outcome,
            };
            match outcome {
                Ok(Outcome::Over(phase)) => return self.finish(phase).await,
                Ok(Outcome::Lost) => self.clear_up().await?,
                // Somebody waits: the pod is undone, and they are told.
                Err(error) if self.reporter.is_awaited() => return self.undo(error).await,
                Err(error) => return Err(error),
            }
            if let Some(phase) = self.status.verdict() {
                return self.finish(phase).await;
            }
            taking_up = false;
        }
    }

    async fn drive(&mut self, shim: Shim, taking_up: bool) -> Result<Outcome> {
        let Some(sandbox) = self.status.sandbox.clone() else { return Ok(Outcome::Lost) };
        let Keeper { places, record, status, reporter, .. } = self;
        let mut driver = Driver::new(places, record, status, reporter, shim, &sandbox)?;
        let driven = async {
            if taking_up {
                driver.take_up().await?;
            }
            driver.drive().await
        };
        match driven.await {
            // Whatever was being asked of the shim: that it is gone is all there is to know.
            Err(Error::Shim { source: pea_shim::client::Error::Closed(_), .. }) => Ok(Outcome::Lost),
            outcome => outcome,
        }
    }

    /// The shim of a pod that is up; `None`, and nothing left of it, when it is not.
    async fn adopt(&mut self) -> Option<Shim> {
        if self.new {
            return None;
        }
        let shim = Shim::connect(&self.status.sandbox.as_ref()?.address).await.ok()?;
        // Any answer is one of a shim that lives.
        let alive = !matches!(shim.connect_task("").await, Err(pea_shim::client::Error::Closed(_)));
        alive.then_some(shim)
    }

    /// Brings the pod up. For a `run` that waits, a failure undoes the pod; otherwise it is tried again, ever more
    /// rarely: what is in the way may be mended.
    async fn bring_up(&mut self) -> Result<Shim> {
        loop {
            if !self.reporter.is_awaited() {
                self.clear_up().await?;
                let up = self.up_since.take().and_then(|since| Timestamp::now().duration_since(since).try_into().ok());
                tokio::time::sleep(self.backoff.pause(up.unwrap_or_default())).await;
            }
            let error = match bring_up(&self.places, &self.record, &mut self.status).await {
                Ok(shim) => {
                    self.up_since = Some(Timestamp::now());
                    return Ok(shim);
                }
                Err(error) if self.reporter.is_awaited() => {
                    self.undo(error).await?;
                    // `undo` reports and fails; it does not come back with success.
                    return Err(Error::pod(&self.places.key, "it could not be brought up"));
                }
                Err(error) => error,
            };
            eprintln!("{} bringing the pod up: {error}", Timestamp::now());
            self.status.phase = Phase::Pending;
            self.status.reason = Some("SetUpFailed".to_owned());
            self.status.message = Some(error.to_string());
        }
    }

    /// Takes away what is left of a pod that is not up any more, and notes what was lost with it.
    async fn clear_up(&mut self) -> Result<()> {
        let cleared = take_down(&self.places, &self.record, None).await;
        if let Err(error) = &cleared {
            eprintln!("{} clearing up: {error}", Timestamp::now());
        }
        lose(&mut self.status, &self.record);
        self.status.store(&self.places)
    }

    /// Takes down a pod whose life is over. Its record, its status and its logs stay.
    async fn finish(&mut self, phase: Phase) -> Result<()> {
        let sandbox = self.status.sandbox.take();
        let down = take_down(&self.places, &self.record, sandbox.as_ref()).await;
        self.status.addresses = Vec::new();
        self.status.phase = phase;
        self.status.message = down.as_ref().err().map(ToString::to_string);
        self.status.store(&self.places)?;
        self.reporter.send(&Report::Over { phase, message: self.obituary() });
        down
    }

    /// Undoes a new pod that could not be brought up, and tells the `run` that waits why.
    async fn undo(&mut self, error: Error) -> Result<()> {
        let mut message = error.to_string();
        if let Err(left) = erase(&self.places, &self.record).await {
            message = format!("{message}; and undoing it: {left} (peapod rm --force {} tries again)", self.places.key);
        }
        self.reporter.send(&Report::Failed { message });
        Err(error)
    }

    /// Which container's failure was the pod's.
    fn obituary(&self) -> String {
        let failed = self.status.all().map(|(_, c)| c).find(|c| c.done && !c.succeeded());
        failed.map_or_else(String::new, |container| {
            let code = container.ended().map_or(0, |ended| ended.exit_code);
            format!("container {} ended with exit code {code}", container.name)
        })
    }
}
