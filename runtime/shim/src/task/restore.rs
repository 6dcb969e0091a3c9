//! A container from a checkpoint: `Create` only prepares it (its client may still put files into its root), and `Start` has
//! CRIU bring its processes back. They go on where they were, so there is nothing in between to wait at.

use std::path::Path;
use std::sync::Arc;

use super::build::{Surroundings, build};
use super::container::Container;
use super::create::configuration;
use super::process::Phase;
use crate::error::Error;
use crate::pod::Pod;
use crate::reap::{Child, Exit};
use crate::{log, options};

/// Checks at the creation what can be known then.
pub fn check(container: &Container, images: &Path) -> Result<(), Error> {
    options::restore_options(images, &container.options, &container.record.bundle).map(drop)
}

/// Restores the processes. The init is our child, as one that was created: CRIU makes it its own sibling, a child of pea's
/// helper, with whose end it comes to us. What fails ends the container, for CRIU may have used up what it was given.
pub async fn restore(pod: &Pod, container: &Arc<Container>, images: &Path) -> Result<Arc<Child>, Error> {
    let init = &container.init;
    let config = configuration(pod, container)?;
    let mut restore = options::restore_options(images, &container.options, &container.record.bundle)?;
    restore.runtime_namespaces = pod.copy_of_node()?;
    init.enter(Phase::Building)?;
    let built = build(init, Surroundings::of(pod, container), |ends, console_socket| {
        (restore.stdin, restore.stdout, restore.stderr) = (ends.stdin, ends.stdout, ends.stderr);
        restore.console_socket = console_socket;
        restore.config = config;
        container.runtime.restore(&container.id, &container.record.bundle, restore)
    });
    let child = built.await.inspect_err(|_| init.ended(Exit::now(255)))?;
    // Unlike at a creation the processes run already; to end them for this would help nobody.
    container.watch_oom(&pod.ooms).unwrap_or_else(log::error);
    Ok(child)
}
