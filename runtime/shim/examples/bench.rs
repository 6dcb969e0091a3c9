//! `scripts/bench shim`: pods through CRI, by this shim and by containerd's own with runc and with crun, in turn.
//!
//! Called with the number of rounds and the number of pods that memory is measured with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use support::cri::message::Message;
use support::cri::{Node, Pod, own_processes, serves_pauseless, version};

/// How many probes a round has.
const PROBES: u32 = 5;

/// Times by what was done, then by runtime.
type Times = BTreeMap<&'static str, BTreeMap<&'static str, Vec<Duration>>>;

fn main() {
    let mut numbers =
        std::env::args().skip(1).map(|number| number.parse::<u32>().expect("rounds and pods: two numbers"));
    let (rounds, pods) = (numbers.next().unwrap_or(20), numbers.next().unwrap_or(10));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Node::start().await;
        let runtimes = contestants(&node).await;
        let mut times = Times::new();
        for round in 0..rounds {
            for runtime in &runtimes {
                measure(&node, runtime, round, &mut times).await;
            }
        }
        println!("{}, {rounds} rounds; median and least, ms", version());
        for (what, of) in &times {
            report(what, of);
        }
        println!("memory of what a pod keeps (shim and pause), PSS, KiB, mean of {pods} pods");
        for runtime in &runtimes {
            let [one, five] =
                [memory(&node, runtime, pods, 1).await, memory(&node, runtime, pods.div_ceil(2), 5).await];
            println!("  {runtime:<10} {one:>6} with one container, {five:>6} with five");
        }
    });
}

/// The runtimes that work here.
async fn contestants(node: &Node) -> Vec<&'static str> {
    let mut working = Vec::new();
    for runtime in ["pea", "pauseless", "runc", "crun"] {
        if runtime == "pauseless" && !serves_pauseless(&version()) {
            continue;
        }
        match pod(node, runtime, "trial").await {
            Ok(pod) => {
                node.remove(&pod).await;
                working.push(runtime);
            }
            Err(why) => println!("left out: {runtime}: {why}"),
        }
    }
    working
}

async fn pod(node: &Node, runtime: &str, name: &str) -> Result<Pod, String> {
    let own = |config, linux: Message| (config, linux.message(2, Message::new().message(1, own_processes())));
    node.run_pod_by(runtime, name, own).await.map_err(|status| status.message)
}

/// One pod's life, with two containers.
async fn measure(node: &Node, runtime: &'static str, round: u32, times: &mut Times) {
    let mut time = |what, since: Instant| {
        times.entry(what).or_default().entry(runtime).or_default().push(since.elapsed());
    };
    let begin = Instant::now();
    let pod = pod(node, runtime, &format!("{runtime}-{round}")).await.unwrap();
    time("1 RunPodSandbox", begin);
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let linux = Message::new().message(2, Message::new().message(3, own_processes()));
        let made = node.create(&pod, name, &["sleep", "infinity"], |config| config.message(15, linux)).await.unwrap();
        let start = Instant::now();
        node.of("StartContainer", &made).await;
        time("2 StartContainer", start);
        ids.push(made);
    }
    time("3 pod with two containers, until they run", begin);
    for _ in 0..PROBES {
        let probe = Instant::now();
        assert_eq!(node.exec(&ids[0], &["true"]).await.0, 0);
        time("4 ExecSync", probe);
    }
    let end = Instant::now();
    node.remove(&pod).await;
    time("5 StopPodSandbox, RemovePodSandbox", end);
}

fn report(what: &str, of: &BTreeMap<&'static str, Vec<Duration>>) {
    println!("{}", &what[2..]);
    let median = |times: &[Duration]| {
        let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[0])
    };
    for (runtime, times) in of {
        let (middle, least) = median(times);
        let ratio = |other: &str| match of.get(other) {
            Some(times) if other != *runtime => format!("  {:.2} x {other}", middle / median(times).0),
            _ => String::new(),
        };
        println!("  {runtime:<10} {middle:>7.1} ({least:.1}){}{}", ratio("runc"), ratio("crun"));
    }
}

/// The mean PSS of what a pod keeps besides its containers, in KiB.
async fn memory(node: &Node, runtime: &str, count: u32, containers: u32) -> u64 {
    let mut pods = Vec::new();
    for n in 0..count {
        let pod = pod(node, runtime, &format!("memory-{n}")).await.unwrap();
        for container in 0..containers {
            let id = node.container(&pod, &format!("c{container}"), &["sleep", "1000000"]).await;
            node.exec(&id, &["true"]).await;
        }
        pods.push(pod);
    }
    let shims = support::shims_below(node.dir.path());
    let pauses = support::processes(|words| words.starts_with(&["sleep".to_owned(), "infinity".to_owned()]));
    let in_a_pod = |pid: &u32| shims.contains(&parent(*pid));
    let total: u64 = shims.iter().chain(pauses.iter().filter(|pid| in_a_pod(pid))).map(|pid| pss(*pid)).sum();
    for pod in &pods {
        node.remove(pod).await;
    }
    total / u64::from(count)
}

fn parent(pid: u32) -> u32 {
    support::status_field(pid, "PPid").parse().unwrap()
}

fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
