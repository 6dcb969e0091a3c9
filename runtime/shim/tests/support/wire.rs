//! The protocol itself, as containerd speaks it: requests field by field, and somebody who hears the events.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest, Mount};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, Events, TaskClient, create_events};
use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use containerd_shim_protos::ttrpc::asynchronous::{Server, TtrpcContext};
use containerd_shim_protos::ttrpc::context::Context;
use containerd_shim_protos::ttrpc::{self, Code};
use pea_shim::client::Stdio;
use serde_json::Value;

use super::pod::Pod;

pub const V2: &str = "containerd.task.v2.Task";
pub const V3: &str = "containerd.task.v3.Task";

/// What a request is about, in the fields that all of them have.
#[allow(unused_macros)]
macro_rules! about {
    ($kind:ident, $id:expr) => {
        containerd_shim_protos::api::$kind { id: $id.to_owned(), ..Default::default() }
    };
    ($kind:ident, $id:expr, $exec:expr) => {
        containerd_shim_protos::api::$kind { id: $id.to_owned(), exec_id: $exec.to_owned(), ..Default::default() }
    };
}
#[allow(unused_imports)]
pub(crate) use about;

/// No deadline.
pub fn now() -> Context {
    Context::default()
}

/// A connection of one's own to a shim.
pub async fn client(address: &str) -> Client {
    Client::connect(address).await.unwrap()
}

/// The typed client of the Task API, version 3.
pub async fn tasks(pod: &Pod) -> TaskClient {
    TaskClient::new(client(&pod.address).await)
}

/// A call by names.
pub async fn call<Q: Message, A: Message>(
    client: &Client,
    service: &str,
    method: &str,
    request: &Q,
) -> ttrpc::Result<A> {
    let mut call = ttrpc::Request::new();
    call.service = service.to_owned();
    call.method = method.to_owned();
    call.payload = request.write_to_bytes().unwrap();
    let answer = client.request(call).await?;
    Ok(A::parse_from_bytes(&answer.payload).unwrap())
}

/// How a request was refused: the code, and the words.
pub fn refusal<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> (Code, String) {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("not refused: {other:?}"),
    }
}

/// The request that creates a container, whose bundle this writes.
pub fn create(
    pod: &Pod,
    name: &str,
    program: &[&str],
    stdio: Stdio,
    change: impl FnOnce(&mut Value),
) -> CreateTaskRequest {
    let rootfs = pod.prepare(name, program, stdio.terminal, change).into_iter().map(|mount| Mount {
        type_: mount.kind,
        source: mount.source,
        options: mount.options,
        ..Default::default()
    });
    CreateTaskRequest {
        id: pod.container_id(name),
        bundle: pod.bundle(name).display().to_string(),
        rootfs: rootfs.collect(),
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        terminal: stdio.terminal,
        ..Default::default()
    }
}

/// The request that registers an exec.
pub fn exec(id: &str, exec_id: &str, program: &[&str]) -> ExecProcessRequest {
    let value = serde_json::to_vec(&super::pod::process(program)).unwrap();
    let spec = Any { value, ..Default::default() };
    ExecProcessRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), spec: Some(spec).into(), ..Default::default() }
}

/// Runtime options of the type that CRI gives to a runtime that is not runc: TOML.
pub fn toml(text: &str) -> Any {
    // Field 3, a string.
    let mut value = vec![3 << 3 | 2];
    let mut length = text.len();
    while length > 127 {
        value.push(length as u8 & 127 | 128);
        length >>= 7;
    }
    value.push(length as u8);
    value.extend(text.as_bytes());
    Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Default::default() }
}

/// Hears events in place of containerd.
#[derive(Clone, Default)]
pub struct Heard {
    events: Arc<Mutex<Vec<Envelope>>>,
    /// How many of the next ones are refused.
    pub refused: Arc<AtomicU32>,
}

#[async_trait]
impl Events for Heard {
    async fn forward(
        &self,
        _: &TtrpcContext,
        request: ForwardRequest,
    ) -> ttrpc::Result<protobuf::well_known_types::empty::Empty> {
        let less = |count: u32| count.checked_sub(1);
        if self.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(Code::INVALID_ARGUMENT, "no")));
        }
        self.events.lock().unwrap().push(request.envelope.unwrap());
        Ok(Default::default())
    }
}

impl Heard {
    /// Begins to listen; ends with the server.
    pub async fn listen(path: &Path) -> (Self, Server) {
        let heard = Self::default();
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let server = Server::new().add_listener(Listener::from(listener));
        let mut server = server.register_service(create_events(Arc::new(heard.clone())));
        server.start().await.unwrap();
        (heard, server)
    }

    pub fn all(&self) -> Vec<Envelope> {
        self.events.lock().unwrap().clone()
    }

    pub fn topics(&self) -> Vec<String> {
        self.all().into_iter().map(|envelope| envelope.topic).collect()
    }

    /// Waits for so many events.
    pub async fn until(&self, count: usize) -> Vec<Envelope> {
        let end = std::time::Instant::now() + super::DEADLINE;
        while self.all().len() < count {
            assert!(std::time::Instant::now() < end, "{count} events: {:?}", self.topics());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.all()
    }
}
