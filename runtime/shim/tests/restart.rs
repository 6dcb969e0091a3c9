//! containerd is killed and started again amid work: what is under way goes on, and nothing is lost but what the daemon
//! itself had in its hands.
//!
//! That pods and their output are found again at all is the matter of cri.rs; killed.rs kills it amid the making of pods.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use support::cri::message::Message;
use support::cri::stream::{RESIZE, STDIN, STDOUT, Stream};
use support::cri::{Node, Pod, RUNNING};
use support::crowd::{Holdings, crew};
use support::pod::{run, run_within};
use support::shims_below;

const LIMIT: Duration = Duration::from_secs(240);

/// Lines of a thousand bytes, each with its number.
const LINES: usize = 100_000;
/// The length of a line, without its end.
const LENGTH: usize = 998;
/// What a daemon may have read of a FIFO and not written yet when it is killed: its buffers, and no more.
const IN_HAND: usize = 128 * 1024;

/// What a container's log says of those lines: the numbers of those that are whole, and how many are not.
fn numbers(node: &Node, name: &str) -> (Vec<usize>, usize) {
    let text = fs::read_to_string(node.dir.path().join("logs").join(format!("{name}.log"))).unwrap();
    let mut torn = 0;
    let mut whole = Vec::new();
    for line in text.lines() {
        let said = line.splitn(4, ' ').nth(3).unwrap_or_default();
        let number = (said.len() == LENGTH).then(|| said[..8].parse().ok()).flatten();
        match number.filter(|_| said[8..].bytes().all(|byte| byte == b'.')) {
            Some(number) => whole.push(number),
            None => torn += 1,
        }
    }
    (whole, torn)
}

#[test]
fn of_a_flood_of_output_only_what_the_killed_daemon_had_read_is_lost() {
    run_within(LIMIT, async {
        let mut node = Node::start().await;
        let pod = node.pod("flood").await;
        let program = format!(
            "awk 'BEGIN {{ s = sprintf(\"%{}s\", \"\"); gsub(\" \", \".\", s);
             for (i = 1; i <= {LINES}; i++) printf \"%08d%s\\n\", i, s }}'; exec sleep 1000",
            LENGTH - 8
        );
        node.container(&pod, "flood", &["sh", "-c", &program]).await;
        let log = node.dir.path().join("logs/flood.log");
        let written = || fs::metadata(&log).map_or(0, |log| log.len() as usize);
        const RESTARTS: usize = 2;
        for restart in 1..=RESTARTS {
            let enough = restart * LINES * LENGTH / (RESTARTS + 1);
            node.until("it flows", async || written() > enough).await;
            node.restart().await;
        }
        let last = format!("{LINES:08}");
        let at_its_end = || {
            let text = fs::read(&log).unwrap();
            let tail = text[text.len().saturating_sub(2 * LENGTH)..].to_vec();
            String::from_utf8_lossy(&tail).contains(&last)
        };
        let mut before = 0;
        while !at_its_end() {
            let now = written();
            node.until("it goes on flowing", async || written() > now.max(before) || at_its_end()).await;
            before = now;
        }
        let (whole, torn) = numbers(&node, "flood");
        assert!(whole.is_sorted_by(|a, b| a < b), "lines are doubled or out of order");
        let gaps: Vec<usize> = whole.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0).collect();
        assert!(gaps.len() <= RESTARTS && torn <= 2 * RESTARTS, "{gaps:?}, {torn} torn");
        assert!(gaps.iter().all(|gap| gap * LENGTH <= IN_HAND), "{gaps:?} lines lost");
        assert_eq!((whole.first(), whole.last()), (Some(&1), Some(&LINES)));
        node.remove(&pod).await;
        node.clean().await;
    });
}

async fn attach(node: &Node, id: &str) -> Stream {
    let attach = Message::new().text(1, id).number(2, 1).number(3, 1).number(4, 1);
    Stream::open(&node.call("Attach", &attach).await.unwrap().text(&[1])).await
}

#[test]
fn a_terminal_is_attached_to_again_and_still_has_its_input_and_its_size() {
    run(async {
        let mut node = Node::start().await;
        let pod = node.pod("terminal").await;
        let echo = "while read line; do echo got $line; stty size; done; echo end";
        let terminal = |config: Message| config.number(12, 1).number(14, 1);
        let id = node.container_with(&pod, "c", &["sh", "-c", echo], terminal).await;
        let mut stream = attach(&node, &id).await;
        for round in 1..4u32 {
            let (width, height) = (100 + round, 40 + round);
            stream.send(RESIZE, format!(r#"{{"Width":{width},"Height":{height}}}"#).as_bytes()).await;
            let size = format!("{height} {width}\n");
            node.until("the terminal has its size", async || {
                node.exec(&id, &["sh", "-c", "stty size < /dev/console"]).await.1 == size
            })
            .await;
            stream.send(STDIN, format!("line {round}\n").as_bytes()).await;
            let seen = stream.read(STDOUT, &size.replace('\n', "\r\n")).await;
            assert!(seen.contains(&format!("got line {round}\r\n")), "{seen}");
            assert!(!seen.contains("end"), "its input has ended: {seen}");
            node.restart().await;
            while stream.next().await.is_some() {}
            assert_eq!(node.status(&id).await.0, RUNNING);
            stream = attach(&node, &id).await;
        }
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn when_a_container_ended_without_the_daemon_is_told_as_it_was() {
    run(async {
        let mut node = Node::start().await;
        let pod = node.pod("times").await;
        let place = node.dir.path().join("common");
        fs::create_dir(&place).unwrap();
        let volume =
            |config: Message| config.message(7, Message::new().text(1, "/common").text(2, place.to_str().unwrap()));
        let ending = "until test -e /common/go; do sleep 0.02; done; exit 7";
        let id = node.container_with(&pod, "c", &["sh", "-c", ending], volume).await;
        let (before, after) = (Cell::new(0), Cell::new(0));
        let now = || u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap();
        node.restart_after(async || {
            let alive = || {
                support::cgroups_named(&id)
                    .iter()
                    .any(|cgroup| !fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().is_empty())
            };
            assert!(alive());
            before.set(now());
            fs::write(place.join("go"), "").unwrap();
            support::eventually("it has ended", || !alive());
            after.set(now());
        })
        .await;
        assert_eq!(node.until_exited(&id).await, (7, "Error".into()));
        // `finished_at`. The shim may learn of the end a little after the cgroup has.
        let at = node.of("ContainerStatus", &id).await.number(&[1, 6]);
        let late = Duration::from_secs(2).as_nanos() as u64;
        assert!(before.get() <= at && at <= after.get() + late, "{} <= {at} <= {}", before.get(), after.get());
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn execs_that_the_daemon_died_over_run_to_their_end_and_hold_nothing() {
    const EXECS: usize = 20;
    run(async {
        let mut node = Node::start().await;
        let pod = node.pod("execs").await;
        let id = node.container(&pod, "c", &["sleep", "1000"]).await;
        let shim = shims_below(node.dir.path())[0];
        assert_eq!(node.exec(&id, &["true"]).await.0, 0);
        let before = Holdings::of(shim);
        let waiting = "echo > /tmp/$0; until test -e /tmp/go; do sleep 0.05; done; seq 1000; rm /tmp/$0";
        let calls = crew(EXECS, EXECS, async |n| {
            let request = Message::new().text(1, &id).texts(2, &["sh", "-c", waiting, &format!("e{n}")]);
            assert!(node.call("ExecSync", &request).await.is_err(), "exec {n} ended");
        });
        let killing = async {
            let all = ["sh", "-c", "ls /tmp | grep -c ^e"];
            node.until("they run", async || node.exec(&id, &all).await.1 == format!("{EXECS}\n")).await;
            node.kill();
        };
        tokio::join!(calls, killing);
        node.restart().await;
        let probe = async |command: &str| node.exec(&id, &["sh", "-c", command]).await.1;
        assert_eq!(probe("ls /tmp | grep -c ^e").await, format!("{EXECS}\n"), "they did not live on");
        probe("echo > /tmp/go").await;
        node.until("they end", async || probe("ls /tmp | grep -c ^e").await == "0\n").await;
        node.until(&format!("the shim holds what it held: {before:#?}"), async || Holdings::of(shim) == before).await;
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn execs_by_eight_workers_go_on_after_each_of_three_restarts_amid_them() {
    const WORKERS: usize = 8;
    const EACH: usize = 120;
    run_within(LIMIT, async {
        let mut node = Node::start().await;
        let mut pods: Vec<(Pod, String)> = Vec::new();
        for n in 0..2 {
            let pod = node.pod(&format!("p{n}")).await;
            let id = node.container(&pod, &format!("c{n}"), &["sleep", "10000"]).await;
            pods.push((pod, id));
        }
        let shims = shims_below(node.dir.path());
        for (_, id) in &pods {
            assert_eq!(node.exec(id, &["true"]).await.0, 0);
        }
        let holdings = || shims.iter().map(|shim| Holdings::of(*shim)).collect::<Vec<_>>();
        let before = holdings();
        for round in 0..3 {
            let done = Cell::new(0);
            crew(WORKERS, EACH, async |n| {
                let (script, status) = (format!("echo {n}; echo err {n} >&2; exit {}", n % 9), n as u64 % 9);
                let request = Message::new().text(1, &pods[n % 2].1).texts(2, &["sh", "-c", &script]).number(3, 20);
                match node.call("ExecSync", &request).await {
                    Ok(told) => {
                        let said = (told.number(&[3]), told.text(&[1]), told.text(&[2]));
                        assert_eq!(said, (status, format!("{n}\n"), format!("err {n}\n")), "round {round}");
                        done.set(done.get() + 1);
                    }
                    Err(error) => assert!(done.get() >= EACH / 3, "{error:?}"),
                }
                if done.get() == EACH / 3 {
                    node.kill();
                }
            })
            .await;
            node.restart().await;
            assert_eq!(shims_below(node.dir.path()), shims);
            for (_, id) in &pods {
                assert_eq!(node.exec(id, &["echo", "here"]).await.1, "here\n");
                let processes = node.exec(id, &["ps", "-o", "comm"]).await.1;
                assert_eq!(processes.lines().count(), 3, "{processes}");
            }
        }
        let end = std::time::Instant::now() + support::DEADLINE;
        while holdings() != before {
            assert!(std::time::Instant::now() < end, "{before:#?} has become {:#?}", holdings());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (pod, _) in &pods {
            node.remove(pod).await;
        }
        node.clean().await;
    });
}

const PORT: u16 = 7777;

/// Opens a way to the pod's port.
async fn forward(node: &Node, pod: &Pod) -> Stream {
    let request = Message::new().text(1, &pod.id).number(2, PORT.into());
    let mut stream = Stream::open(&node.call("PortForward", &request).await.unwrap().text(&[1])).await;
    // Each channel begins with the port it is for.
    assert_eq!(stream.next().await, Some((0, PORT.to_le_bytes().to_vec())));
    assert_eq!(stream.next().await, Some((1, PORT.to_le_bytes().to_vec())));
    stream
}

/// Sends so much there and has it back.
async fn to_and_fro(stream: &mut Stream, bytes: usize) {
    const PIECE: usize = 32 * 1024;
    for n in 0..bytes / PIECE {
        let piece = vec![n as u8; PIECE];
        stream.send(0, &piece).await;
        let mut back = Vec::new();
        while back.len() < PIECE {
            let (channel, bytes) = stream.next().await.expect("more of it");
            assert_eq!(channel, 0, "{}", String::from_utf8_lossy(&bytes));
            back.extend(bytes);
        }
        assert!(back == piece, "piece {n} of {PIECE} bytes comes back as {}", back.len());
    }
}

#[test]
fn ports_are_forwarded_again_after_a_restart() {
    run_within(LIMIT, async {
        let mut node = Node::start().await;
        let pod = node.pod("ports").await;
        let id = node.container(&pod, "echo", &["nc", "-ll", "-p", &PORT.to_string(), "-e", "cat"]).await;
        let listens = ["sh", "-c", "netstat -ltn | grep -c :7777"];
        node.until("it listens", async || node.exec(&id, &listens).await.0 == 0).await;
        for _ in 0..2 {
            let mut open = forward(&node, &pod).await;
            to_and_fro(&mut open, 1 << 22).await;
            node.restart().await;
            assert_eq!(open.next().await, None);
        }
        // Each has ended with its connection.
        node.until("nobody is left of them", async || {
            node.exec(&id, &["ps", "-o", "comm"]).await.1.lines().count() == 3
        })
        .await;
        node.remove(&pod).await;
        node.clean().await;
    });
}
