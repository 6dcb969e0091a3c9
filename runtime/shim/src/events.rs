//! Events for containerd: one queue, one sender, so that they arrive in the order they happened.
//!
//! An event that cannot be delivered is tried again before the next one is looked at; a retry can
//! therefore delay, but never reorder. While containerd is away, for however long, all of them wait.
//! Without an address (peapod) events are dropped at the door.

use std::time::Duration;

use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc;
use tokio::sync::{mpsc, oneshot};
use ttrpc::context::{self, Context};

use crate::log;
use crate::wire::timestamp;

/// How many events may wait while containerd is away (as many as its own shim keeps).
const QUEUE: usize = 2048;
/// How often one event is tried with a containerd that is there.
const ATTEMPTS: u32 = 5;
/// By how much each pause before a further attempt is longer than the one before.
const STEP: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1000 });
/// How many steps the pauses last at most in which one that is away is looked for.
const LONGEST_PAUSE: u32 = 4;
/// The deadline of one delivery.
const DELIVERY: Duration = Duration::from_secs(5);
/// How long the shim's end waits for the last events.
const FLUSH: Duration = Duration::from_secs(2);

/// An event of a task, as containerd's API has it.
#[derive(Clone, Debug)]
pub enum Event {
    /// A container was created.
    Create(event::TaskCreate),
    /// Its program was started.
    Start(event::TaskStart),
    /// An exec was registered.
    ExecAdded(event::TaskExecAdded),
    /// An exec's process was started.
    ExecStarted(event::TaskExecStarted),
    /// A process ended; never before its start.
    Exit(event::TaskExit),
    /// A container was deleted.
    Delete(event::TaskDelete),
    /// A process was killed for want of memory.
    Oom(event::TaskOOM),
    /// A container was frozen.
    Paused(event::TaskPaused),
    /// A frozen container goes on.
    Resumed(event::TaskResumed),
    /// A container was written to files.
    Checkpointed(event::TaskCheckpointed),
}

impl Event {
    /// The topic, the type's name and the message, encoded.
    ///
    /// By its type and not by `MessageDyn`: that one builds descriptions of all protocol files in memory, half a megabyte of
    /// them, to know a name it does not use.
    fn parts(&self) -> (&'static str, &'static str, protobuf::Result<Vec<u8>>) {
        match self {
            Self::Create(event) => ("/tasks/create", "containerd.events.TaskCreate", event.write_to_bytes()),
            Self::Start(event) => ("/tasks/start", "containerd.events.TaskStart", event.write_to_bytes()),
            Self::ExecAdded(event) => ("/tasks/exec-added", "containerd.events.TaskExecAdded", event.write_to_bytes()),
            Self::ExecStarted(event) => {
                ("/tasks/exec-started", "containerd.events.TaskExecStarted", event.write_to_bytes())
            }
            Self::Exit(event) => ("/tasks/exit", "containerd.events.TaskExit", event.write_to_bytes()),
            Self::Delete(event) => ("/tasks/delete", "containerd.events.TaskDelete", event.write_to_bytes()),
            Self::Oom(event) => ("/tasks/oom", "containerd.events.TaskOOM", event.write_to_bytes()),
            Self::Paused(event) => ("/tasks/paused", "containerd.events.TaskPaused", event.write_to_bytes()),
            Self::Resumed(event) => ("/tasks/resumed", "containerd.events.TaskResumed", event.write_to_bytes()),
            Self::Checkpointed(event) => {
                ("/tasks/checkpointed", "containerd.events.TaskCheckpointed", event.write_to_bytes())
            }
        }
    }
}

enum Item {
    Event(Box<Envelope>),
    Mark(oneshot::Sender<()>),
}

/// The queue's entrance.
#[derive(Clone)]
pub struct Publisher {
    queue: Option<mpsc::Sender<Item>>,
    namespace: String,
}

impl Publisher {
    /// Publishes to containerd's ttrpc address (`unix:///path`, or a bare path), or to nobody when it is empty.
    pub fn new(address: &str, namespace: &str) -> Self {
        let queue = (!address.is_empty()).then(|| {
            let address = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
            let (entrance, queue) = mpsc::channel(QUEUE);
            tokio::spawn(deliver_all(address, queue));
            entrance
        });
        Self { queue, namespace: namespace.to_owned() }
    }

    /// Puts an event at the end of the queue.
    pub fn publish(&self, event: &Event) {
        let Some(queue) = &self.queue else { return };
        let (topic, type_url, value) = event.parts();
        let value = match value {
            Ok(value) => value,
            Err(error) => return log::error(format!("encode event {topic}: {error}")),
        };
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(jiff::Timestamp::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(Any { type_url: type_url.to_owned(), value, ..Default::default() }),
            ..Default::default()
        };
        if queue.try_send(Item::Event(Box::new(envelope))).is_err() {
            log::error(format!("event {topic} dropped: {QUEUE} are waiting for containerd already"));
        }
    }

    /// Waits until everything published so far has been delivered or given up, but two seconds at most.
    pub async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (mark, reached) = oneshot::channel();
        let delivered = async {
            // A full queue has to have room for it first.
            if queue.send(Item::Mark(mark)).await.is_ok() {
                let _ = reached.await;
            }
        };
        if tokio::time::timeout(FLUSH, delivered).await.is_err() {
            log::error("the last events were not delivered in time");
        }
    }
}

async fn deliver_all(address: String, mut queue: mpsc::Receiver<Item>) {
    let mut sender = Sender { address, client: None };
    while let Some(item) = queue.recv().await {
        match item {
            Item::Event(envelope) => sender.deliver(*envelope).await,
            Item::Mark(mark) => drop(mark.send(())),
        }
    }
}

struct Sender {
    address: String,
    client: Option<EventsClient>,
}

impl Sender {
    async fn deliver(&mut self, envelope: Envelope) {
        let topic = envelope.topic.clone();
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let client = match self.client.take() {
                Some(client) => client,
                None => self.connect().await,
            };
            let deadline: Context = context::with_duration(DELIVERY);
            match client.forward(deadline, &request).await {
                Ok(_) => {
                    self.client = Some(client);
                    return;
                }
                // containerd has read it and said no; it will say no again.
                Err(ttrpc::Error::RpcStatus(status)) => {
                    self.client = Some(client);
                    return log::error(format!("containerd refused event {topic}: {}", status.message));
                }
                Err(error) => reason = error.to_string(),
            }
        }
        log::error(format!("event {topic} dropped after {ATTEMPTS} attempts at {}: {reason}", self.address));
    }

    /// Connects as soon as containerd is there: what it is not told of when it comes back, it never learns.
    async fn connect(&self) -> EventsClient {
        let mut failures = 0;
        loop {
            match Client::connect(&self.address).await {
                Ok(client) => return EventsClient::new(client),
                Err(error) if failures == 0 => log::error(format!("events wait for {}: {error}", self.address)),
                Err(_) => {}
            }
            failures += 1;
            pause(failures.min(LONGEST_PAUSE)).await;
        }
    }
}

async fn pause(steps: u32) {
    tokio::time::sleep(STEP * steps).await;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use containerd_shim_protos::api::Empty;
    use containerd_shim_protos::shim_async::{Events, create_events};
    use tokio::sync::Notify;
    use ttrpc::asynchronous::{Server, TtrpcContext};

    use super::*;

    /// What containerd has been told: the pids of exits.
    #[derive(Default)]
    struct Told {
        pids: Mutex<Vec<u32>>,
        more: Notify,
    }

    #[async_trait]
    impl Events for Told {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            let exit = event::TaskExit::parse_from_bytes(&request.envelope.event.value).unwrap();
            self.pids.lock().unwrap().push(exit.pid);
            self.more.notify_one();
            Ok(Empty::default())
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_happens_while_containerd_is_away_is_told_in_order_and_no_more_than_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ttrpc");
        let events = Publisher::new(socket.to_str().unwrap(), "test");
        let kept = u32::try_from(QUEUE).unwrap();
        for pid in 0..kept + 3 {
            events.publish(&Event::Exit(event::TaskExit { pid, ..Default::default() }));
        }
        // Lets it find more often than it would try one event that nobody listens.
        tokio::time::sleep(STEP * 100).await;
        let told = Arc::new(Told::default());
        let mut server = Server::new().bind(&format!("unix://{}", socket.display())).unwrap();
        server = server.register_service(create_events(told.clone()));
        server.start().await.unwrap();
        events.publish(&Event::Exit(event::TaskExit { pid: kept + 3, ..Default::default() }));
        while told.pids.lock().unwrap().last() != Some(&(kept + 3)) {
            told.more.notified().await;
        }
        let expected: Vec<u32> = (0..kept).chain([kept + 3]).collect();
        assert_eq!(*told.pids.lock().unwrap(), expected);
    }
}
