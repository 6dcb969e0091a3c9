//! What a pod that rests keeps of memory, by /proc/PID/smaps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use pea_shim::client::Stdio;
use support::eventually;
use support::pod::{Pod, exec_to_end, process, run};

/// A mapping: its permissions, its file (or `[heap]`, `[stack]`, nothing), and sizes in KiB.
struct Mapping {
    permissions: String,
    name: String,
    resident: u64,
    dirty: u64,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let size = || words[1].parse::<u64>().unwrap();
        match (words[0], mappings.last_mut()) {
            ("Rss:", Some(mapping)) => mapping.resident = size(),
            ("Private_Dirty:", Some(mapping)) => mapping.dirty = size(),
            (field, _) if field.ends_with(':') => {}
            _ => {
                let name = words.get(5).copied().unwrap_or_default().to_owned();
                mappings.push(Mapping { permissions: words[1].to_owned(), name, resident: 0, dirty: 0 });
            }
        }
    }
    mappings
}

/// Heap and stack.
fn own(pid: u32) -> u64 {
    mappings(pid).iter().filter(|mapping| !mapping.name.starts_with('/')).map(|mapping| mapping.dirty).sum()
}

/// The pages of the program that are mapped.
fn program(pid: u32) -> u64 {
    let code = |mapping: &&Mapping| mapping.permissions == "r-xp" && mapping.name.ends_with("containerd-shim-pea-v2");
    mappings(pid).iter().filter(code).map(|mapping| mapping.resident).sum()
}

async fn probe(pod: &Pod, times: u32) {
    for n in 0..times {
        let (id, probe) = (pod.container_id("one"), process(&["true"]));
        assert_eq!(exec_to_end(&pod.shim, &id, &format!("probe-{n}"), &probe, &Stdio::default()).await, 0);
    }
}

#[test]
fn a_pod_that_rests_is_small_and_does_not_grow_with_what_it_has_done() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("one", &["sleep", "1000"], Stdio::default()).await;
        probe(&pod, 5).await;
        let at_work = program(pod.shim_pid);
        // By its own doing, without being asked: there is nothing to ask for it.
        eventually("the program's pages are given back", || program(pod.shim_pid) < at_work / 2);
        let before = own(pod.shim_pid);
        // 180 with this profile when this was written; what is optimized has less.
        assert!(before < 300, "heap and stack of a pod with one container that rests: {before} KiB");
        for n in 0..20 {
            let name = format!("short-{n}");
            pod.start_container(&name, &["true"], Stdio::default()).await;
            pod.finish(&name).await;
        }
        probe(&pod, 50).await;
        eventually("the program's pages are given back again", || program(pod.shim_pid) < at_work / 2);
        let after = own(pod.shim_pid);
        assert!(after < before + 64, "from {before} to {after} KiB by 20 containers and 50 probes");
        pod.end().await;
    });
}
