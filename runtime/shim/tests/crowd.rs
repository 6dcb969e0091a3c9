//! Many pods, containers, execs and processes: nothing is lost, nothing is out of order, nothing is left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pea_shim::client::Stdio;
use support::cri::events::{Event, Heard, faults};
use support::cri::message::Message;
use support::cri::stream::{STDIN, Stream};
use support::cri::{Node, Pod};
use support::crowd::{Holdings, crew, fifos, links, own_memory, sockets};
use support::pod::{exec_to_end, run_within, shell};
use support::{DEADLINE, shims_below};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::LocalSet;

/// How long one of these tests may take, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(480);
const WORKERS: usize = 8;
const PODS: usize = 100;
/// So many runs, and so many execs.
const EACH: usize = 1000;
/// Of these, so many come before memory is looked at.
const FIRST: usize = 200;
/// The pods in which those are.
const HOMES: usize = 4;
/// By how much the memory of a shim may have grown in the end, in KiB: less than half of what one container needs for a
/// while, so a leak of a kilobyte a container shows.
const GROWTH: i64 = 200;

/// Events in words: what, exec, pid and status, with a colon between them.
fn events(words: &str) -> Vec<Event> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or_default();
    let event = |word: &str| {
        let mut parts = word.split(':');
        let (what, exec) = (parts.next().unwrap().to_owned(), parts.next().unwrap_or_default().to_owned());
        Event { what, container: "c".into(), exec, pid: number(parts.next()), status: number(parts.next()) }
    };
    words.split_whitespace().map(event).collect()
}

#[test]
fn events_that_are_missing_doubled_or_out_of_order_are_seen() {
    let right = "create start::7 exec-added:e exec-started:e:8 exit:e:8:3 exit::7:5 delete::7:5";
    assert_eq!(faults(&events(right)), Vec::<String>::new());
    for (what, wrong) in [
        ("an exit before its start", "create exit::7:5 start::7 delete::7:5"),
        ("an exit before the creation", "exit::7:5 create start::7 exit::7:5 delete::7:5"),
        ("a second exit", "create start::7 exit::7:5 exit::7:5 delete::7:5"),
        ("no exit", "create start::7 delete::7:5"),
        ("no exit of an exec", "create start::7 exec-added:e exec-started:e:8 exit::7:5 delete::7:5"),
        ("no delete", "create start::7 exit::7:5"),
        ("the delete first", "create start::7 delete::7:5 exit::7:5"),
        ("another status", "create start::7 exit::7:5 delete::7:6"),
        ("another process", "create start::7 exit::8:5 delete::7:5"),
        ("an exec that was not added", "create start::7 exec-started:e:8 exit:e:8:3 exit::7:5 delete::7:5"),
        ("an exec after the end", "create start::7 exit::7:5 exec-added:e delete::7:5"),
        ("the init's exit first", "create start::7 exec-added:e exec-started:e:8 exit::7:5 exit:e:8:3 delete::7:5"),
        ("a second create", "create create start::7 exit::7:5 delete::7:5"),
        ("a second start", "create start::7 start::7 exit::7:5 delete::7:5"),
    ] {
        assert_ne!(faults(&events(wrong)), Vec::<String>::new(), "{what}: {wrong}");
    }
}

/// Runs a test that may start tasks of its own.
fn run(test: impl Future<Output = ()>) {
    run_within(LIMIT, LocalSet::new().run_until(test));
}

/// What was told of the ends of inits.
fn exits(events: &[Event]) -> impl Iterator<Item = &Event> {
    events.iter().filter(|event| event.what == "exit" && event.exec.is_empty())
}

/// Checks what was told in all, and that nothing is left.
async fn conclude(node: &Node, heard: &Heard, sockets: BTreeSet<PathBuf>, links_before: &[String]) -> Vec<Event> {
    node.clean().await;
    let end = Instant::now() + DEADLINE;
    while let faults @ [_, ..] = faults(&heard.events()).as_slice() {
        assert!(Instant::now() < end, "{faults:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fifos(node.dir.path()), Vec::<PathBuf>::new());
    assert!(!sockets.is_empty(), "no shim had a socket");
    let left: Vec<_> = sockets.iter().filter(|socket| socket.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    // The bridge stays for the next pod.
    let mut expected = links_before.to_vec();
    expected.push("cni0".into());
    assert_eq!(links(), expected);
    heard.events()
}

#[test]
fn a_hundred_pods_made_and_removed_by_eight_workers_leave_nothing() {
    run(async {
        let node = Node::start().await;
        let heard = Heard::from(&node).await;
        let (links, all_sockets) = (links(), RefCell::new(BTreeSet::new()));
        crew(WORKERS, PODS, async |n| {
            let pod = node.pod(&format!("p{n}")).await;
            all_sockets.borrow_mut().extend(sockets());
            let long = node.container(&pod, &format!("long{n}"), &["sleep", "1000"]).await;
            let probe = ["sh", "-c", &format!("hostname; exit {}", n % 3)];
            assert_eq!(node.exec(&long, &probe).await, (n as u64 % 3, format!("p{n}\n"), String::new()));
            if n % 2 == 1 {
                let short = node.container(&pod, &format!("short{n}"), &["sh", "-c", &format!("exit {n}")]).await;
                assert_eq!(node.until_exited(&short).await.0, n as u64);
            }
            node.remove(&pod).await;
        })
        .await;
        let events = conclude(&node, &heard, all_sockets.into_inner(), &links).await;
        let short = exits(&events).filter(|event| event.status < 100 && event.status % 2 == 1);
        let statuses: BTreeSet<u64> = short.map(|event| event.status).collect();
        assert_eq!(statuses, (1..PODS as u64).step_by(2).collect());
    });
}

/// A pod that lives long, and its container.
struct Home {
    pod: Pod,
    container: String,
}

/// Runs many containers and many execs at the same time, numbered alike. What is told of each is told to itself alone.
struct Storm<'a> {
    node: &'a Node,
    heard: &'a Heard,
    homes: Vec<Home>,
    /// The ids of the containers that ran, and how each had to end.
    ran: RefCell<BTreeMap<String, u64>>,
}

impl Storm<'_> {
    async fn rage(&self, numbers: Range<usize>) {
        let runs = crew(WORKERS, numbers.len(), async |n| self.run(numbers.start + n).await);
        let execs = crew(WORKERS, numbers.len(), async |n| self.exec(numbers.start + n).await);
        tokio::join!(runs, execs);
    }

    async fn run(&self, n: usize) {
        let (name, status) = (format!("run{n}"), status_of(n));
        let program = ["sh", "-c", &format!("echo run {n}; exit {status}")];
        let id = self.node.container(&self.homes[n % HOMES].pod, &name, &program).await;
        self.heard.exit_of(&id).await;
        assert_eq!(self.node.until_exited(&id).await.0, status, "{name}");
        let said = format!("run {n}");
        self.node.until(&format!("the log says {said}"), async || self.node.log(&name) == said).await;
        self.node.of("RemoveContainer", &id).await;
        self.ran.borrow_mut().insert(id, status);
    }

    /// Most are as probes are; some have a terminal, or standard input.
    async fn exec(&self, n: usize) {
        let (id, status) = (&self.homes[n % HOMES].container, status_of(n));
        // Not a divisor of the pods' number, or only some of them would have the one or the other.
        match n % 7 {
            0 => {
                let command = format!("tty > /dev/null && echo {n}; exit {status}");
                assert_eq!(self.stream(id, &command, true, "").await, (format!("{n}\r\n"), status));
            }
            1 => {
                let command = format!("read word; echo {n} $word; exit {status}");
                assert_eq!(self.stream(id, &command, false, "word\n").await, (format!("{n} word\n"), status));
            }
            _ => {
                let command = format!("echo out {n}; echo err {n} >&2; exit {status}");
                let told = self.node.exec(id, &["sh", "-c", &command]).await;
                assert_eq!(told, (status, format!("out {n}\n"), format!("err {n}\n")));
            }
        }
    }

    /// An exec with standard input: its output, and how it ended.
    async fn stream(&self, id: &str, command: &str, terminal: bool, input: &str) -> (String, u64) {
        let request = Message::new().text(1, id).texts(2, &["sh", "-c", command]).number(3, terminal.into());
        let request = request.number(4, 1).number(5, 1).number(6, (!terminal).into());
        let url = self.node.call("Exec", &request).await.unwrap().text(&[1]);
        let mut stream = Stream::open(&url).await;
        stream.send(STDIN, input.as_bytes()).await;
        stream.finish().await
    }
}

/// The exit status of the run or exec of that number.
fn status_of(n: usize) -> u64 {
    n as u64 % 256
}

#[test]
fn a_thousand_containers_and_a_thousand_execs_are_all_told_of_and_leave_nothing() {
    run(async {
        let node = Node::start().await;
        let heard = Heard::from(&node).await;
        let links = links();
        let mut homes = Vec::new();
        for n in 0..HOMES {
            let pod = node.pod(&format!("home{n}")).await;
            let container = node.container(&pod, &format!("long{n}"), &["sleep", "10000"]).await;
            homes.push(Home { pod, container });
        }
        let (sockets, shims) = (sockets(), shims_below(node.dir.path()));
        assert_eq!(shims.len(), HOMES);
        let holdings = || shims.iter().map(|shim| Holdings::of(*shim)).collect::<Vec<_>>();
        let before = holdings();
        let storm = Storm { node: &node, heard: &heard, homes, ran: RefCell::default() };
        // What the first ones need stays for the others.
        storm.rage(0..FIRST).await;
        node.until(&format!("the shims hold what they held: {before:#?}"), async || holdings() == before).await;
        let memory: Vec<i64> = shims.iter().map(|shim| own_memory(*shim)).collect();
        storm.rage(FIRST..EACH).await;
        node.until(&format!("the shims hold what they held: {before:#?}"), async || holdings() == before).await;
        let now = || shims.iter().map(|shim| own_memory(*shim));
        node.until("the shims are as small as they were", async || {
            now().zip(&memory).all(|(now, before)| now <= before + GROWTH)
        })
        .await;
        for home in &storm.homes {
            node.remove(&home.pod).await;
        }
        let ran = storm.ran.into_inner();
        let events = conclude(&node, &heard, sockets, &links).await;
        let told: BTreeMap<String, u64> = exits(&events)
            .filter(|event| ran.contains_key(&event.container))
            .map(|event| (event.container.clone(), event.status))
            .collect();
        assert_eq!(told, ran);
        let mut of_execs: Vec<u64> = events
            .iter()
            .filter(|event| event.what == "exit" && !event.exec.is_empty())
            .map(|event| event.status)
            .collect();
        of_execs.sort_unstable();
        let mut expected: Vec<u64> = (0..EACH).map(status_of).collect();
        expected.sort_unstable();
        assert_eq!(of_execs, expected);
    });
}

/// What a shim's children are, zombies included.
fn children(pod: &support::pod::Pod) -> usize {
    Holdings::of(pod.shim_pid).children.len()
}

#[test]
fn a_thousand_orphans_end_with_their_container_and_are_reaped() {
    support::pod::run(async {
        let pod = support::pod::Pod::start().await;
        // In the node's pid namespace, so that an orphan goes to the shim.
        let change = |config: &mut serde_json::Value| {
            config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
        };
        let fork = |program: &str| format!("i=0; while [ $i -lt 1000 ]; do ({program} &); i=$((i+1)); done");
        let script = format!("{}; {}; exec sleep 1000", fork("true"), fork("sleep 1000"));
        pod.create_with("c", &["sh", "-c", &script], Stdio::default(), change).await.unwrap();
        let id = pod.container_id("c");
        pod.shim.start(&id, None).await.unwrap();
        support::eventually("only those that live are left", || children(&pod) == 1001);
        // Among so many others, an exec's end is told all the same.
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &shell("exit 3"), &Stdio::default()).await, 3);
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);
        support::eventually("no child is left", || children(&pod) == 0);
        pod.end().await;
    });
}

#[test]
fn readers_that_stop_hold_up_neither_other_execs_nor_the_shim() {
    const EXECS: usize = 50;
    const LENGTH: usize = 1_000_000;
    support::pod::run(async {
        let pod = support::pod::Pod::start().await;
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (id, before) = (pod.container_id("c"), Holdings::of(pod.shim_pid));
        let script = shell(&format!("head -c {LENGTH} /dev/zero"));
        crew(EXECS, EXECS, async |n| {
            let (stdout, exec) = (pod.dir.path().join(format!("fifo{n}")).display().to_string(), format!("e{n}"));
            nix::unistd::mkfifo(stdout.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let mut reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
            pod.shim.exec(&id, &exec, &script, &Stdio { stdout, ..Stdio::default() }).await.unwrap();
            pod.shim.start(&id, Some(&exec)).await.unwrap();
            if n % 2 == 0 {
                let mut seen = Vec::new();
                let (exit, read) = tokio::join!(pod.shim.wait(&id, Some(&exec)), reader.read_to_end(&mut seen));
                assert_eq!((exit.unwrap().status, read.unwrap()), (0, LENGTH));
            } else {
                reader.read_exact(&mut [0; 1000]).await.unwrap();
                pod.shim.kill(&id, Some(&exec), libc::SIGKILL as u32, false).await.unwrap();
                assert_eq!(pod.shim.wait(&id, Some(&exec)).await.unwrap().status, 137);
            }
            pod.shim.delete(&id, Some(&exec)).await.unwrap();
        })
        .await;
        support::eventually("the shim holds what it held", || Holdings::of(pod.shim_pid) == before);
        pod.end().await;
    });
}
