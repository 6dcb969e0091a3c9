//! The services on the shim's socket. What is on the wire comes in here and goes out; no decision is made.

mod sandbox;
mod task;

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc;
use ttrpc::asynchronous::{Server, Service, TtrpcContext as Context};

use crate::error::Error;
use crate::peers::Peers;
use crate::pod::Pod;
use sandbox::Sandboxes;
use task::Tasks;

const TASK_V3: &str = "containerd.task.v3.Task";
const TASK_V2: &str = "containerd.task.v2.Task";

/// The server of all services to all `peers`, on a socket that listens already.
pub fn server(pod: &Pod, peers: &Peers, listener: UnixListener) -> Result<Server, Error> {
    let failed = |source| Error::io("serve the shim's socket", source);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    Ok(Server::new()
        .add_listener(peers.counted(listener))
        .register_service(task_services(pod))
        .register_service(create_sandbox(Arc::new(Sandboxes(pod.clone())))))
}

/// Version 3 of the task API is version 2 under another name (containerd 2.0), so both are served by
/// the same handlers, whatever the client calls them.
fn task_services(pod: &Pod) -> HashMap<String, Service> {
    let v3 = create_task(Arc::new(Tasks(pod.clone())));
    let v2 = create_task(Arc::new(Tasks(pod.clone()))).into_iter().map(|(name, service)| match name.as_str() {
        TASK_V3 => (TASK_V2.to_owned(), service),
        _ => (name, service),
    });
    v3.into_iter().chain(v2).collect()
}

type Response<T> = ttrpc::Result<T>;
