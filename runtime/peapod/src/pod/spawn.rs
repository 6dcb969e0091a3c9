//! Starting a keeper: for a new pod, and again for one whose keeper is gone.

use std::fs::{File, OpenOptions};
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::{Desired, Places, PodLock, Record, Reports, Status};
use crate::error::{IoContext, Result};

/// Starts the keeper of a pod that was just recorded. The lock goes over to it without ever being free.
pub fn start(places: &Places, lock: PodLock) -> Result<Reports> {
    let (reader, writer) = pipe().context("making a pipe for", &places.dir)?;
    spawn(places, &lock, &["--new"], OwnedFd::from(writer).into())?;
    Ok(Reports::new(reader))
}

/// Starts the keeper of a pod that should have one and has none: its own was killed, or the pod was never finished.
/// Does nothing while somebody drives the pod.
pub fn ensure_keeper(places: &Places) -> Result<()> {
    let Some(lock) = PodLock::try_take(&places.lock())? else { return Ok(()) };
    // Read under the lock: what a `stop` wrote before it went for the lock is seen here.
    let record = Record::load(places)?;
    let status = Status::load(places, &record)?;
    if record.desired == Desired::Running && !status.phase.is_final() {
        spawn(places, &lock, &[], Stdio::null())?;
    }
    Ok(())
}

/// The keeper finds the lock on its standard input and reports on its standard output: descriptors that it may own
/// without being told numbers. What it and the plugins print goes to a log.
fn spawn(places: &Places, lock: &PodLock, flags: &[&str], report: Stdio) -> Result<()> {
    // By its path, for `ps` to show; by the link when a newer peapod was installed over it.
    let program = std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or("/proc/self/exe".into());
    let log: File = OpenOptions::new()
        .append(true)
        .create(true)
        .open(places.keeper_log())
        .context("opening", &places.keeper_log())?;
    Command::new(&program)
        .arg0("peapod")
        .arg("keep")
        .arg(places.key.file_name())
        .args(flags)
        .envs(places.settings.to_env())
        .current_dir("/")
        .stdin(lock.share()?)
        .stdout(report)
        .stderr(log)
        .spawn()
        .context("starting the keeper", &program)?;
    Ok(())
}
