//! `delete`: ends and removes all that a shim may have left, from what is on disk alone.
//!
//! Works when nothing is left, works twice, and does everything it can before it reports what it could not.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::DeleteResponse;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bootstrap::Arguments;
use crate::error::Error;
use crate::lock::{self, Lock};
use crate::pod::DEFAULT_ROOT;
use crate::reap::Exit;
use crate::record;
use crate::sandbox::{SandboxOptions, files};
use crate::{launch, mount, sys, wire};

/// What containerd takes the end of a task for that nobody saw: killed.
const UNKNOWN: u32 = 128 + libc::SIGKILL as u32;
/// How long a killed shim may take to end.
const END: Duration = Duration::from_secs(5);

/// Clears up a bundle, and says how its task ended.
pub fn delete(arguments: &Arguments) -> Result<DeleteResponse, Error> {
    let bundle = match &arguments.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|source| Error::io("find the bundle (working directory)", source))?,
    };
    // Known now, and not once it has been removed.
    let running = task_of(&bundle, arguments).and_then(|record| record.runtime().state(&arguments.id).ok());
    let failures = if is_sandbox(&bundle) { delete_sandbox(&bundle) } else { delete_task(&bundle, arguments) };
    if !failures.is_empty() {
        let failures: Vec<String> = failures.iter().map(Error::to_string).collect();
        return Err(Error::internal(failures.join("; ")));
    }
    let ended: Option<record::Ended> = record::read(&bundle.join(record::EXIT))?;
    let exit = ended.map_or_else(|| Exit::now(UNKNOWN), |ended| Exit { status: ended.status, at: ended.at });
    Ok(DeleteResponse {
        pid: wire::pid(ended.map(|ended| ended.pid).or(running.map(|state| state.pid))),
        exit_status: exit.status,
        exited_at: wire::exited_at(Some(exit)),
        ..Default::default()
    })
}

/// A task's bundle has a `config.json`; a sandbox's has none, and its shim's lock or its options instead.
fn is_sandbox(bundle: &Path) -> bool {
    let has = |name: &str| bundle.join(name).exists();
    has(record::SANDBOX) || (has(record::LOCK) && !has("config.json"))
}

/// A sandbox's own bundle: the shim is its, and so is everything under its pea root and its cgroup.
fn delete_sandbox(bundle: &Path) -> Vec<Error> {
    let mut failures = Vec::new();
    // Held to the end: no new shim of this bundle may start while its remains are cleared away.
    let _lock = match end_shim(&bundle.join(record::LOCK)) {
        Ok(lock) => lock,
        Err(error) => return vec![error],
    };
    // Before what may take its time: containerd ends this process after five seconds.
    failures.extend(remove_socket(bundle).err());
    let options = match record::read::<SandboxOptions>(&bundle.join(record::SANDBOX)) {
        Ok(options) => options.unwrap_or_default(),
        Err(error) => return vec![error],
    };
    remove_recorded(bundle, recorded_tasks(bundle, &mut failures), &mut failures);
    if let Some(root) = &options.pea_root {
        remove_all_of(root, options.systemd_cgroup, &mut failures);
    }
    if let Some(parent) = &options.cgroup_parent {
        let removed = pea::cgroup::kill_tree(parent).and_then(|()| pea::cgroup::remove_tree(parent));
        failures.extend(removed.err().map(Error::from));
    }
    failures.extend(files::remove(bundle).err());
    if failures.is_empty() {
        // With what was being written when its writer died.
        failures.extend(record::remove_all(&record::tasks_of_pod(bundle)).err());
        failures.extend(record::remove(&bundle.join(record::SANDBOX)).err());
    }
    failures
}

/// Removes the socket of the bundle's shim, unless somebody listens there: the shim of a group outlives
/// its first task, and a later shim of the same group has the same address.
fn remove_socket(bundle: &Path) -> Result<(), Error> {
    socket_of(bundle).map_or(Ok(()), |socket| launch::remove_dead(&socket))
}

/// Where the bundle's shim listens, or did.
fn socket_of(bundle: &Path) -> Option<PathBuf> {
    let address = std::fs::read_to_string(bundle.join(record::ADDRESS)).ok()?;
    address.strip_prefix("unix://").map(PathBuf::from)
}

struct RecordedTask {
    id: String,
    record: record::Task,
}

fn recorded_tasks(bundle: &Path, failures: &mut Vec<Error>) -> Vec<RecordedTask> {
    let Ok(entries) = std::fs::read_dir(record::tasks_of_pod(bundle)) else { return Vec::new() };
    let mut tasks = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match record::read(&path) {
            Ok(Some(record)) => tasks.push(RecordedTask { id, record }),
            Ok(None) => {}
            Err(error) => failures.push(error),
        }
    }
    tasks
}

fn remove_recorded(bundle: &Path, tasks: Vec<RecordedTask>, failures: &mut Vec<Error>) {
    for task in tasks {
        remove_task(&task.id, &task.record, failures);
        failures.extend(record::remove(&record::task_in_pod(bundle, &task.id)).err());
    }
}

/// Containers that are there although no record tells of them.
fn remove_all_of(root: &Path, systemd: bool, failures: &mut Vec<Error>) {
    let runtime = record::runtime(root, systemd);
    let containers = match runtime.list() {
        Ok(containers) => containers,
        Err(error) => return failures.push(error.into()),
    };
    for state in containers {
        let record = record::Task { bundle: state.bundle, pea_root: root.to_owned(), systemd_cgroup: systemd };
        remove_task(&state.id, &record, failures);
    }
}

fn remove_task(id: &str, record: &record::Task, failures: &mut Vec<Error>) {
    failures.extend(record.runtime().delete(id, true).err().map(Error::from));
    failures.extend(mount::unmount(&record.bundle.join("rootfs")).err());
}

/// Where the task of a bundle is kept. Without its record (the bundle may be gone with all that was in it) it is looked for
/// where tasks are kept by default, but one of that name that belongs to another bundle is not this one.
fn task_of(bundle: &Path, arguments: &Arguments) -> Option<record::Task> {
    if let Ok(Some(record)) = record::read::<record::Task>(&bundle.join(record::TASK)) {
        return Some(record);
    }
    let pea_root = Path::new(DEFAULT_ROOT).join(&arguments.namespace);
    let record = record::Task { bundle: bundle.to_owned(), pea_root, systemd_cgroup: false };
    let state = record.runtime().state(&arguments.id).ok()?;
    // As pea wrote it down: without links on the way.
    let real = std::fs::canonicalize(bundle).unwrap_or_else(|_| bundle.to_owned());
    (state.bundle == real).then_some(record)
}

/// One task's bundle. The shim it may have been started in also serves the other tasks of its group,
/// so it is only asked to go: with anything left to look after, it stays.
fn delete_task(bundle: &Path, arguments: &Arguments) -> Vec<Error> {
    let mut failures = Vec::from_iter(remove_socket(bundle).err());
    match task_of(bundle, arguments) {
        Some(record) => remove_task(&arguments.id, &record, &mut failures),
        None => failures.extend(mount::unmount(&bundle.join("rootfs")).err()),
    }
    failures.extend(record::read::<record::Task>(&bundle.join(record::TASK)).err());
    remove_orphans(bundle, &mut failures);
    if let Ok(None) = take_lock(&bundle.join(record::LOCK))
        && let Some(pid) = lock::holder(&bundle.join(record::LOCK))
        && let Ok(pidfd) = sys::pidfd_open(pid)
        && lock::is_open_in(&bundle.join(record::LOCK), pid)
        && let Ok(None) = take_lock(&bundle.join(record::LOCK))
    {
        let _ = sys::pidfd_send_signal(std::os::fd::AsFd::as_fd(&pidfd), libc::SIGTERM);
    }
    failures
}

/// The other tasks of a shim that was killed. containerd 2 asks for a `delete` of the first alone (where the shim's answer to
/// `start` had version 3); containerd 1.x for that of each, perhaps at the same time.
fn remove_orphans(bundle: &Path, failures: &mut Vec<Error>) {
    let mut tasks = recorded_tasks(bundle, failures);
    let lock = bundle.join(record::LOCK);
    // A shim that lives looks after them itself, also where its socket was removed; one that ends by itself has none left.
    let lives = || lock::holder(&lock).is_some_and(|pid| lock::is_open_in(&lock, pid));
    if tasks.is_empty() || is_served(bundle) || lives() {
        return;
    }
    let _lock = match end_shim(&lock) {
        Ok(lock) => lock,
        Err(error) => return failures.push(error),
    };
    // One of that name may have been made anew since, by another shim.
    tasks.retain(|task| !is_served(&task.record.bundle));
    remove_recorded(bundle, tasks, failures);
}

/// Whether somebody listens where the bundle's shim did.
fn is_served(bundle: &Path) -> bool {
    socket_of(bundle).is_some_and(|socket| launch::is_served(&socket))
}

/// Takes a shim's lock; in a bundle that is gone there is nothing to take.
fn take_lock(path: &Path) -> Result<Option<Option<Lock>>, Error> {
    if !path.exists() {
        return Ok(Some(None));
    }
    Ok(Lock::take(path)?.map(Some))
}

/// Kills the shim that holds the lock, if one does, and takes the lock from it.
///
/// The pid in the file is the holder's for as long as the lock is held: it is looked at again after
/// its pidfd was opened, and only then is anything sent to it.
fn end_shim(path: &Path) -> Result<Option<Lock>, Error> {
    let end = Instant::now() + END;
    loop {
        if let Some(lock) = take_lock(path)? {
            return Ok(lock);
        }
        if Instant::now() >= end {
            let seconds = END.as_secs();
            return Err(Error::internal(format!(
                "the shim that holds {} did not end within {seconds}s",
                path.display()
            )));
        }
        match lock::holder(path).map(|pid| (pid, sys::pidfd_open(pid))) {
            Some((pid, Ok(pidfd))) if lock::is_open_in(path, pid) && take_lock(path)?.is_none() => kill(&pidfd, end)?,
            // Just forked, and has not signed yet; or dead, and a helper of its is on its way to be: a matter of
            // microseconds, for which the lock offers no event.
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn kill(pidfd: &std::os::fd::OwnedFd, end: Instant) -> Result<(), Error> {
    use std::os::fd::AsFd;
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
            return Err(Error::io("end the pod's shim", error));
        }
        _ => {}
    }
    let left = end.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let waited = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout);
    waited.map(|_| ()).map_err(|errno| Error::io("wait for the end of the pod's shim", io::Error::from(errno)))
}
