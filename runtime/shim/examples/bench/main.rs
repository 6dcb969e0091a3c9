//! `scripts/bench shim`: pods through CRI, by this shim and by containerd's own with runc and with crun, in turn.
//!
//! Arguments: how many rounds; how many pods there are at most beside the one that is measured; the directory of the
//! reference CNI plugins.
//!
//! There are two nodes, each with a daemon of the same containerd: the pods of one get their network by cni-bridge, those
//! of the other the same network by the reference plugins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod contestant;
mod memory;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use contestant::{CONTESTANTS, Contestant, Pods, Stack};
use support::cri::{Node, version};
use table::Table;

/// How many probes a round has.
const PROBES: u32 = 5;
/// Beside how many pods growth is looked at, and by how many rounds.
const BESIDE: [u32; 4] = [1, 10, 50, 100];
const ROUNDS_BESIDE: u32 = 5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str| arguments.next().and_then(|word| word.parse::<u32>().ok()).expect(what);
    let (rounds, most) = (number("how many rounds"), number("how many pods"));
    let plugins = PathBuf::from(arguments.next().expect("the directory of the reference plugins"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stack = Stack { ours: Node::start().await, reference: Node::with_reference_network(&plugins).await };
        explain(rounds);
        let contestants = stack.working().await;
        let mut table = Table::default();
        for round in 0..rounds {
            for contestant in &contestants {
                life(&stack, contestant, &format!("round-{round}"), &mut table).await;
            }
        }
        table.print();
        for contestant in contestants.iter().filter(|contestant| contestant.is_whole()) {
            beside(&stack, contestant, most).await;
        }
        memory::print(&stack, &contestants, most.clamp(1, 10)).await;
    });
}

fn explain(rounds: u32) {
    println!("{}, {rounds} rounds in turn; milliseconds: median (least)", version());
    for contestant in CONTESTANTS {
        println!("  {:<18} {}", contestant.name, contestant.is);
    }
}

/// One pod's life, with two containers.
async fn life(stack: &Stack, contestant: &Contestant, name: &str, table: &mut Table) {
    let mut time = |what, since: Instant| table.add(what, contestant.name, since.elapsed());
    let begin = Instant::now();
    let pod = stack.pod(contestant, name).await.unwrap();
    time("RunPodSandbox", begin);
    let node = stack.node(contestant);
    if contestant.is_whole() {
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            let id = contestant::create(node, &pod, name).await;
            let start = Instant::now();
            node.of("StartContainer", &id).await;
            time(if name == "one" { "StartContainer" } else { "StartContainer, of the second" }, start);
            ids.push(id);
        }
        time("a pod until both of its containers run", begin);
        for _ in 0..PROBES {
            let probe = Instant::now();
            assert_eq!(node.exec(&ids[0], &["true"]).await.0, 0);
            time("ExecSync", probe);
        }
    }
    let end = Instant::now();
    node.of("StopPodSandbox", &pod.id).await;
    node.of("RemovePodSandbox", &pod.id).await;
    if contestant.is_whole() {
        time("StopPodSandbox and RemovePodSandbox", end);
    }
}

/// What the same takes beside pods that are there already.
async fn beside(stack: &Stack, contestant: &Contestant, most: u32) {
    let mut pods = Pods::default();
    for count in BESIDE.into_iter().filter(|count| *count <= most) {
        pods.grow(stack, contestant, count).await;
        let mut table = Table::default();
        for round in 0..ROUNDS_BESIDE {
            life(stack, contestant, &format!("beside-{count}-{round}"), &mut table).await;
        }
        let pss = memory::per_pod(stack.node(contestant), count).await;
        println!("{:<18} beside {count:>3}: {}; {pss} KiB a pod", contestant.name, table.line());
    }
    pods.remove(stack, contestant).await;
}
