//! What a pod keeps in memory besides its containers: its shim, and its pause container if it has one.

use std::fs;
use std::time::Duration;

use crate::contestant::{Contestant, Pods, Stack};
use crate::support;
use crate::support::cri::Node;

/// After some quiet, for who rests keeps less.
const QUIET: Duration = Duration::from_secs(1);

pub async fn print(stack: &Stack, contestants: &[&Contestant], count: u32) {
    println!("memory of what a pod keeps (shim and pause), PSS, KiB, mean of {count} pods");
    for contestant in contestants.iter().filter(|contestant| contestant.is_whole()) {
        let mut means = Vec::new();
        for containers in [1, 5] {
            let mut pods = Pods::default();
            pods.grow_by(stack, contestant, count, containers).await;
            means.push(per_pod(stack.node(contestant), count).await);
            pods.remove(stack, contestant).await;
        }
        println!("  {:<18} {:>6} with one container, {:>6} with five", contestant.name, means[0], means[1]);
    }
}

/// The mean of the node's pods, in KiB of PSS.
pub async fn per_pod(node: &Node, count: u32) -> u64 {
    tokio::time::sleep(QUIET).await;
    let shims = support::shims_below(node.dir.path());
    let pauses = support::processes(|words| words.starts_with(&["sleep".to_owned(), "infinity".to_owned()]));
    let in_a_pod = |pid: &u32| shims.contains(&parent(*pid));
    let total: u64 = shims.iter().chain(pauses.iter().filter(|pid| in_a_pod(pid))).map(|pid| pss(*pid)).sum();
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
