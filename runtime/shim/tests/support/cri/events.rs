//! What containerd tells of tasks, and whether it tells it in order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

use super::Node;
use super::grpc::Grpc;
use super::message::{Message, Reply};

/// An event of a task.
#[derive(Clone, Debug)]
pub struct Event {
    /// The topic's last word.
    pub what: String,
    pub container: String,
    /// The exec's id; empty for the init.
    pub exec: String,
    pub pid: u64,
    pub status: u64,
}

/// The fields of an event, by the topic: exec id, pid, exit status (containerd's `events/task.proto`). 0: has none.
const FIELDS: &[(&str, [u64; 3])] = &[
    ("/tasks/create", [0, 6, 0]),
    ("/tasks/start", [0, 2, 0]),
    ("/tasks/exec-added", [2, 0, 0]),
    ("/tasks/exec-started", [2, 3, 0]),
    ("/tasks/exit", [2, 3, 4]),
    ("/tasks/delete", [5, 2, 3]),
];

impl Event {
    /// Reads an envelope; `None` for what is not of a task's life.
    fn of(envelope: &Reply) -> Option<Self> {
        let topic = envelope.text(&[3]);
        let (_, [exec, pid, status]) = FIELDS.iter().find(|(name, _)| *name == topic)?;
        let field = |number: &u64| if *number == 0 { 0 } else { envelope.number(&[4, 2, *number]) };
        let container = envelope.text(&[4, 2, 1]);
        let exec = if *exec == 0 { String::new() } else { envelope.text(&[4, 2, *exec]) };
        Some(Self {
            what: topic.rsplit('/').next().unwrap().to_owned(),
            // An init goes by its container's id.
            exec: if exec == container { String::new() } else { exec },
            container,
            pid: field(pid),
            status: field(status),
        })
    }
}

/// All that is heard from now on.
#[derive(Clone, Default)]
pub struct Heard(Rc<Inner>);

#[derive(Default)]
struct Inner {
    events: RefCell<Vec<Event>>,
    listening: Cell<bool>,
    more: Notify,
}

impl Heard {
    /// Listens to a node. To be called within a [`tokio::task::LocalSet`].
    pub async fn from(node: &Node) -> Self {
        let heard = Self::default();
        // By a connection of its own: calls come and go beside it.
        let grpc = Grpc::connect(&node.dir.path().join("c.sock")).await.unwrap();
        tokio::task::spawn_local(heard.clone().listen(grpc));
        // Nothing says that containerd has begun to tell, but for the first thing it tells. The namespace is as it was.
        let same = Message::new().message(1, Message::new().text(1, "k8s.io"));
        node.until("containerd tells of events", async || {
            node.cri.call("containerd.services.namespaces.v1.Namespaces/Update", &same).await.unwrap();
            heard.0.listening.get()
        })
        .await;
        heard
    }

    async fn listen(self, grpc: Grpc) {
        let all = Message::new();
        let mut feed = grpc.feed("containerd.services.events.v1.Events/Subscribe", &all).await.unwrap();
        while let Some(envelope) = feed.next().await {
            self.0.listening.set(true);
            if let Some(event) = Event::of(&envelope) {
                self.0.events.borrow_mut().push(event);
                self.0.more.notify_waiters();
            }
        }
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.events.borrow().clone()
    }

    /// Waits until an event has been heard of.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Event) -> bool) {
        let heard = async {
            let mut seen = 0;
            loop {
                let more = self.0.more.notified();
                {
                    let events = self.0.events.borrow();
                    if events[seen..].iter().any(&wanted) {
                        return;
                    }
                    seen = events.len();
                }
                more.await;
            }
        };
        tokio::time::timeout(crate::support::DEADLINE, heard).await.unwrap_or_else(|_| panic!("not heard of: {what}"));
    }

    /// Waits until the container's init is told to have ended.
    pub async fn exit_of(&self, container: &str) {
        let ended = |event: &Event| event.what == "exit" && event.container == container && event.exec.is_empty();
        self.until(&format!("the end of {container}"), ended).await;
    }
}

/// A process, as far as has been told of it.
#[derive(Clone, Copy, Default)]
struct Process {
    started: Option<u64>,
    ended: Option<u64>,
}

/// A container: its init, its execs.
#[derive(Default)]
struct Life {
    init: Process,
    execs: BTreeMap<String, Process>,
    deleted: bool,
}

/// All that is wrong with the order of events, or missing at their end; empty when nothing is.
pub fn faults(events: &[Event]) -> Vec<String> {
    let mut lives: BTreeMap<&str, Life> = BTreeMap::new();
    let mut faults = Vec::new();
    for event in events {
        let fault = match lives.get_mut(event.container.as_str()) {
            None if event.what == "create" => {
                lives.insert(&event.container, Life::default());
                None
            }
            // containerd tells of the end of every shim, also where the sandbox it held was no task.
            None if event.pid == 0 => None,
            None => Some("before it was created"),
            Some(life) => life.goes_on(event).err(),
        };
        faults.extend(fault.map(|fault| format!("{fault}: {event:?}")));
    }
    for (id, life) in lives {
        if !life.deleted {
            faults.push(format!("{id} was never deleted"));
        }
        let of_exec = |(exec, process): (&String, &Process)| (exec.clone(), *process);
        for (name, process) in life.execs.iter().map(of_exec).chain([("its init".to_owned(), life.init)]) {
            if process.started.is_some() && process.ended.is_none() {
                faults.push(format!("{id}: {name} has no exit"));
            }
        }
    }
    faults
}

impl Life {
    fn goes_on(&mut self, event: &Event) -> Result<(), &'static str> {
        let init = self.init;
        let fine = |right: bool, fault: &'static str| if right { Ok(()) } else { Err(fault) };
        fine(!self.deleted, "after the delete")?;
        match event.what.as_str() {
            "start" => {
                fine(init.started.is_none() && init.ended.is_none(), "a second start")?;
                self.init.started = Some(event.pid);
            }
            "exec-added" => {
                fine(init.ended.is_none(), "an exec after the end")?;
                fine(self.execs.insert(event.exec.clone(), Process::default()).is_none(), "the exec is known")?;
            }
            "exec-started" => {
                fine(init.ended.is_none(), "an exec after the end")?;
                let exec = self.execs.get_mut(&event.exec).ok_or("an exec that was not added")?;
                fine(exec.started.is_none(), "a second start")?;
                exec.started = Some(event.pid);
            }
            "exit" if event.exec.is_empty() => {
                let open = self.execs.values().any(|exec| exec.started.is_some() && exec.ended.is_none());
                fine(!open, "the exit of an init before those of its execs")?;
                self.init.ends(event)?;
            }
            "exit" => {
                fine(init.ended.is_none(), "the exit of an exec after its init's")?;
                self.execs.get_mut(&event.exec).ok_or("an exec that was not added")?.ends(event)?;
            }
            "delete" => {
                fine(init.ended == Some(event.status), "no exit before, or another status")?;
                self.deleted = true;
            }
            _ => return Err("a second create"),
        }
        Ok(())
    }
}

impl Process {
    fn ends(&mut self, event: &Event) -> Result<(), &'static str> {
        if self.started != Some(event.pid) {
            return Err("an exit without its start, or of another pid");
        }
        if self.ended.replace(event.status).is_some() {
            return Err("a second exit");
        }
        Ok(())
    }
}
