//! `delete`: nothing of the container remains.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup;
use crate::cgroup::systemd::Scope;
use crate::error::{Error, ErrorKind};
use crate::hooks;
use crate::rdt;
use crate::rootfs;
use crate::state::{State, Status};
use crate::store::{Container, Record};
use crate::sys::process;
use crate::verb::query;

/// How long a killed init may take to end.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Deletes a stopped container, or with `force` any.
///
/// Every step is tried, whatever happened to the one before, and all are repeatable; the directory goes last, so what
/// failed can be deleted again.
pub fn delete(container: &Container, force: bool) -> Result<(), Error> {
    if force {
        container.sweep()?;
    }
    let lock = match container.lock_with(|| end_abandoned(container)) {
        Err(error) if force && error.kind() == ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    let record = match container.record() {
        Err(error) if force && error.kind() == ErrorKind::NotFound => return container.remove(),
        // Its cgroup can be found all the same.
        Err(_) if force => {
            empty(&salvaged(container))?;
            return container.remove();
        }
        record => record?,
    };
    let status = query::status(container, &record);
    // Our own lock is not another's creation. A created container has done nothing yet, and may go as it came.
    if !matches!(status, Status::Stopped | Status::Creating | Status::Created) && !force {
        let text = format!("cannot delete container \"{}\" that is not stopped: {status}", container.id());
        return Err(Error::new(ErrorKind::InvalidState, text));
    }
    empty(&record)?;
    cgroup::remove_above(&record.cgroup, &record.made_above);
    if let Some(beneath) = record.beneath {
        rootfs::detach(&record.rootfs, beneath)?;
    }
    if record.follow_up {
        leave_rdt(container)?;
        poststop(container, &record);
    }
    container.remove()?;
    drop(lock);
    Ok(())
}

/// What can be known of a container whose record is damaged: where its cgroup is.
fn salvaged(container: &Container) -> Record {
    let id = container.id();
    let unnamed = || Record::damaged(id, Path::new("/").join(id));
    let Ok(spec) = container.spec() else { return unnamed() };
    let given = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()?.to_str().map(str::to_owned));
    let Some(given) = given.filter(|path| path.split(':').count() == 3) else {
        return crate::spec::cgroups_path(&spec, id).map_or_else(|_| unnamed(), |path| Record::damaged(id, path));
    };
    match Scope::new(&given, id, &HashMap::new()) {
        Ok(scope) => Record { unit: Some(scope.unit().clone()), ..Record::damaged(id, scope.path().to_owned()) },
        Err(_) => unnamed(),
    }
}

/// Ends what a creation that was killed has left running. A process of the engine may wait for an answer which nobody is
/// there to give, and would hold the lock for ever.
fn end_abandoned(container: &Container) {
    let abandoned = || container.record().ok().filter(Record::is_abandoned);
    // Twice: what was read first may be from before its creator had done its work and ended.
    if abandoned().is_some()
        && let Some(record) = abandoned()
    {
        // Should one not end, the lock is not to be had, and that is reported.
        let _ = cgroup::kill_tree(&record.cgroup);
    }
}

/// Ends what lives of the container and removes its cgroup, with the unit of systemd that it belongs to. An exec that
/// had found the container alive may join the cgroup after the others were killed; it is killed like them, and as no
/// further exec finds a live container, the rounds come to an end.
fn empty(record: &Record) -> Result<(), Error> {
    let deadline = Instant::now() + END_DEADLINE;
    loop {
        end_init(record)?;
        // Most are empty by then, and that is known when they can be removed.
        if record.unit.is_none() && cgroup::remove_if_empty(&record.cgroup) {
            return Ok(());
        }
        cgroup::kill_tree(&record.cgroup)?;
        if let Some(Err(error)) = record.unit.as_ref().map(|unit| unit.stop(&record.cgroup)) {
            // Whatever systemd does not do is done now; it forgets a unit whose cgroup is gone.
            tracing::warn!("{error}");
        }
        match cgroup::remove_tree(&record.cgroup) {
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {}
            removed => return removed,
        }
    }
}

/// Ends the container's init if it lives, and waits for it.
fn end_init(record: &Record) -> Result<(), Error> {
    if let Some(init) = record.init
        && let Ok(handle) = process::pidfd_open(init.pid)
        && init.is_alive()
    {
        let _ = process::pidfd_send_signal(handle.as_fd(), libc::SIGKILL);
        if cgroup::is_frozen(&record.cgroup) {
            // All at once, for a v1 freezer keeps them from dying, and none is to run on when it is opened for the init.
            cgroup::signal_tree(&record.cgroup, libc::SIGKILL)?;
        }
        let limit = PollTimeout::try_from(END_DEADLINE).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], limit) == Ok(0) {
            return Err(Error::internal(format!("process {} was killed but does not end", init.pid)));
        }
    }
    Ok(())
}

/// Removes the container's resctrl group; where there is no such file system any more, there is no group.
fn leave_rdt(container: &Container) -> Result<(), Error> {
    let plan = container.spec().and_then(|spec| rdt::Plan::new(&spec, container.id()));
    plan.ok().flatten().map_or(Ok(()), |plan| plan.remove())
}

/// The specification: of a failing poststop hook a warning is logged, and all goes on as if it had succeeded.
fn poststop(container: &Container, record: &Record) {
    let warn = |error: Error| tracing::warn!("{error}");
    let hooks = container.spec().map(|spec| spec.hooks().as_ref().and_then(|hooks| hooks.poststop().clone()));
    let hooks = hooks.unwrap_or_else(|error| {
        warn(error);
        None
    });
    let state = State::of(record, Status::Stopped, 0);
    for hook in hooks.unwrap_or_default() {
        let _ = hooks::run("poststop", &[hook], &state, None).map_err(warn);
    }
}
