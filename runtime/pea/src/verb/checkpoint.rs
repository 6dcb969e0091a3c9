//! `checkpoint`: the container's processes as files.

use crate::cgroup;
use crate::criu::{CheckpointOptions, Criu, Descriptors, Externals, make_dir};
use crate::error::{Error, ErrorKind};
use crate::spec;
use crate::state::Status;
use crate::store::{Container, Record};
use crate::verb::{delete, query};

/// Dumps a running container; unless it is to go on, nothing of it remains but the images.
pub fn checkpoint(container: &Container, options: &CheckpointOptions) -> Result<(), Error> {
    let lock = container.lock()?;
    let record = container.record()?;
    let status = query::status(container, &record);
    // Whoever copies the file system too pauses the container first, as containerd's client does.
    let (Status::Running | Status::Paused, Some(init)) = (status, record.living_init()) else {
        let text = format!("container \"{}\" cannot be checkpointed: it is {status}", container.id());
        return Err(Error::new(ErrorKind::InvalidState, text));
    };
    make_dir(&options.criu.images)?;
    if let Some(work) = &options.criu.work {
        make_dir(work)?;
    }
    dump(container, &record, init, options)?;
    drop(lock);
    match options.leave_running || options.pre_dump {
        true => Ok(()),
        false => delete::delete(container, true),
    }
}

fn dump(container: &Container, record: &Record, init: i32, options: &CheckpointOptions) -> Result<(), Error> {
    let mut criu = Criu::new(if options.pre_dump { "pre-dump" } else { "dump" }, &options.criu);
    criu.arg("--tree", init.to_string());
    criu.arg("--root", &record.rootfs);
    criu.arg_in_one("--manage-cgroups", options.criu.manage_cgroups.as_deref().unwrap_or("soft"));
    if let Some(freezer) = cgroup::freezer(&record.cgroup) {
        // CRIU thaws a paused container to look into it, and leaves it as it was.
        criu.arg("--freeze-cgroup", freezer);
    }
    criu.switch("--leave-running", options.leave_running && !options.pre_dump);
    criu.switch("--skip-in-flight", options.tcp_skip_in_flight);
    // Later dumps can leave out what has not changed since.
    criu.switch("--track-mem", options.pre_dump || options.parent.is_some());
    if let Some(parent) = &options.parent {
        criu.arg("--prev-images-dir", parent);
    }
    if let Some((address, port)) = &options.page_server {
        criu.switch("--page-server", true);
        criu.arg("--address", address);
        criu.arg("--port", port.to_string());
    }
    if let Some(descriptor) = options.status_fd {
        criu.arg("--status-fd", descriptor.to_string());
    }
    if options.pre_dump {
        return criu.run(true);
    }
    let spec = container.spec()?;
    Externals::of(&spec, &record.bundle, &record.cgroup).tell_dump(&mut criu, init)?;
    Descriptors::of(init).save(&options.criu.images)?;
    match spec::has_terminal(&spec) {
        true => criu.converse(true, true, |_| Ok(())).map(drop),
        false => criu.run(true),
    }
}
