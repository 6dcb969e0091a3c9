//! Files that are almost right: whatever is in a config.json, process.json or state.json, `pea` says what is wrong with
//! it, soon and without much memory. The fuzz targets (`fuzz/`) do the same for longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::mutation::{Random, change, spoil};

/// No text may take longer: much more than any needs, even on a busy machine.
const LONGEST: Duration = Duration::from_secs(2);
/// What all of them together may take of memory, in KiB.
const MOST: u64 = 64 << 10;

/// How many texts of each kind.
fn count() -> u64 {
    std::env::var("PEA_HOSTILE_TEXTS").map_or(1000, |count| count.parse().expect("a number"))
}

/// The bundle, and the specifications to begin with.
fn specifications(dir: &Path) -> Vec<Value> {
    fs::create_dir(dir.join("rootfs")).unwrap();
    testkit::run(Command::new(testkit::binary("pea")).args(["spec", "--bundle"]).arg(dir));
    let mut files = vec![dir.join("config.json")];
    files.extend(fs::read_dir(testkit::testdata("oci")).unwrap().map(|entry| entry.unwrap().path()));
    files.sort();
    files.iter().map(|file| serde_json::from_slice(&fs::read(file).unwrap()).expect("JSON")).collect()
}

/// The most memory this process ever had, in KiB (proc_pid_status(5)).
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Gives `take` texts made from these; it tells which it accepts. Some must be accepted, or nothing much was tried.
fn try_all(corpus: &[Value], take: impl Fn(&[u8]) -> bool) {
    let before = peak();
    let mut accepted = 0;
    for seed in 0..count() {
        let mut random = Random::new(seed);
        let mut document = random.pick(corpus).clone();
        let mut other = random.pick(corpus).clone();
        for _ in 0..=random.below(3) {
            change(&mut document, &mut other, &mut random);
        }
        let mut text = serde_json::to_vec(&document).unwrap();
        if random.once_in(8) {
            spoil(&mut text, &mut random);
        }
        let begun = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| take(&text)));
        let shown = String::from_utf8_lossy(&text);
        accepted += u64::from(taken.unwrap_or_else(|_| panic!("seed {seed} panics: {shown}")));
        assert!(begun.elapsed() < LONGEST, "seed {seed} took {:?}: {shown}", begun.elapsed());
    }
    assert!(accepted * 20 > count(), "{accepted} of {} accepted", count());
    assert!(peak() - before < MOST, "{} KiB", peak() - before);
}

#[test]
fn any_config_is_planned_or_refused() {
    let dir = testkit::scratch();
    let corpus = specifications(dir.path());
    try_all(&corpus, |text| pea::dry::config(text, dir.path()).is_ok());
}

#[test]
fn any_process_is_planned_or_refused() {
    let dir = testkit::scratch();
    let corpus: Vec<Value> = specifications(dir.path()).iter().map(|spec| spec["process"].clone()).collect();
    try_all(&corpus, |text| pea::dry::process(text).is_ok());
}

#[test]
fn any_state_is_read_or_refused() {
    let init = json!({"pid": std::process::id(), "startTime": 7});
    let corpus = [
        json!({"id": "a", "bundle": "/b", "rootfs": "/b/rootfs", "created": "2026-01-02T03:04:05Z", "cgroup": "/a"}),
        json!({
            "id": "a", "bundle": "/b", "rootfs": "/b/rootfs", "created": "2026-01-02T03:04:05Z", "cgroup": "/a/b",
            "beneath": 27, "annotations": {"a": "b", "c": "d"}, "creator": init, "init": init, "started": true,
        }),
    ];
    try_all(&corpus, |text| {
        let read = pea::dry::state(text);
        assert!(!read.as_ref().is_err_and(|error| error.to_string().contains("a bug")), "{read:?}");
        read.is_ok()
    });
}

#[test]
fn a_namespace_that_is_a_pipe_is_refused_at_once() {
    let dir = testkit::scratch();
    let mut spec = specifications(dir.path()).remove(0);
    let pipe = dir.path().join("pipe");
    testkit::run(Command::new("mkfifo").arg(&pipe));
    spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": pipe}]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let (text, bundle) = (serde_json::to_vec(&spec).unwrap(), dir.path().to_owned());
    std::thread::spawn(move || sender.send(pea::dry::config(&text, &bundle).map_err(|error| error.to_string())));
    let refused = receiver.recv_timeout(Duration::from_secs(10)).expect("it waits for somebody to write");
    assert!(refused.as_ref().is_err_and(|text| text.contains("this is no net namespace")), "{refused:?}");
}
