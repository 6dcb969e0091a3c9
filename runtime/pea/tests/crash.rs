//! Every process of a verb killed after every one of its system calls: what is left, `delete --force` removes.
//!
//! Each walk takes every n-th call only, beginning with another one for each process; `PEA_KILL_EVERY=1` takes all of
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::Command;

use common::{Bundle, wait};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use testkit::trace::{Trace, Victim, follow};

/// How many system calls lie between two that are tried.
fn stride(usual: usize) -> usize {
    std::env::var("PEA_KILL_EVERY").map_or(usual, |every| every.parse().expect("a number"))
}

/// Leaves this thread and the processes it starts nothing but the unified hierarchy. Whether that is anything new.
fn unified_alone() -> bool {
    if common::unified() {
        testkit::skip("there is nothing else on this machine");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let script = format!("mount --make-rprivate / && {}", common::UNIFIED_ALONE);
    testkit::run(Command::new("sh").args(["-c", &script]));
    true
}

/// A container with something of everything that has to be cleared away.
fn bundle() -> Bundle {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/below", bundle.id));
    bundle.spec["hooks"] = json!({
        "createRuntime": [{"path": "/bin/true"}],
        "startContainer": [{"path": "/bin/true"}],
        "poststart": [{"path": "/bin/true"}],
        "poststop": [{"path": "/bin/true"}],
    });
    bundle
}

/// `pea VERB`, without the `timeout` before it, which would be followed and killed too.
fn verb(bundle: &Bundle, words: &[&str]) -> Command {
    let pea = bundle.pea(words);
    let mut command = Command::new(testkit::binary("pea"));
    command.args(pea.get_args().skip(4)).current_dir(bundle.path());
    command
}

/// By force, and at once: whatever the dead left running is still on its way.
fn delete(bundle: &Bundle, trace: &Trace, victim: Victim) {
    let done = testkit::attempt(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    assert!(done.status.success(), "{victim:?}: {}", common::stderr(&done));
    wait(&format!("the end of all after {victim:?}"), || trace.living().is_empty());
    let entries = fs::read_dir(bundle.state_root()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let entries: Vec<_> = entries.filter(|name| name != "@seccomp").collect();
    assert!(entries.is_empty(), "{victim:?} left in the state root: {entries:?}");
    assert_eq!(common::cgroups(&bundle.id), Vec::<std::path::PathBuf>::new(), "{victim:?} left cgroups");
    for table in ["/proc/thread-self/mountinfo", "/proc/thread-self/net/unix"] {
        assert!(!fs::read_to_string(table).unwrap().contains(&bundle.id), "{victim:?} left something in {table}");
    }
}

/// Kills each process of the verb after each of its system calls, from a container as `prepare` makes it.
fn walk(words: &[&str], usual: usize, prepare: impl Fn(&Bundle)) {
    let bundle = bundle();
    let words: Vec<&str> = words.iter().copied().chain([bundle.id.as_str()]).collect();
    prepare(&bundle);
    let whole = follow(&verb(&bundle, &words), None);
    delete(&bundle, &whole, Victim { process: 0, call: 0 });
    let stride = stride(usual);
    let mut cases = 0;
    for (process, seen) in whole.processes.iter().enumerate() {
        // The number varies a little from one time to the next.
        for call in (1 + process % stride..=seen.calls + 5).step_by(stride) {
            prepare(&bundle);
            let victim = Victim { process, call };
            let trace = follow(&verb(&bundle, &words), Some(victim));
            delete(&bundle, &trace, victim);
            cases += usize::from(trace.killed);
        }
    }
    let calls: Vec<usize> = whole.processes.iter().map(|seen| seen.calls).collect();
    println!("{words:?}: system calls {calls:?}, killed {cases} times");
    assert!(cases > 0, "nothing was ever killed");
}

fn absent(_: &Bundle) {}

fn created(bundle: &Bundle) {
    bundle.create();
}

fn stopped(bundle: &Bundle) {
    bundle.start_up();
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "KILL"]));
    bundle.wait_stopped();
}

#[test]
fn create() {
    walk(&["create"], 23, absent);
}

#[test]
fn start() {
    walk(&["start"], 17, created);
}

#[test]
fn delete_of_what_is_created() {
    walk(&["delete"], 19, created);
}

#[test]
fn delete_of_what_is_stopped() {
    walk(&["delete"], 19, stopped);
}

#[test]
fn run() {
    walk(&["run", "--detach"], 41, absent);
}

#[test]
fn create_on_v2() {
    if unified_alone() {
        walk(&["create"], 29, absent);
    }
}

#[test]
fn start_on_v2() {
    if unified_alone() {
        walk(&["start"], 31, created);
    }
}

#[test]
fn delete_on_v2() {
    if unified_alone() {
        walk(&["delete"], 23, created);
    }
}

#[test]
fn run_on_v2() {
    if unified_alone() {
        walk(&["run", "--detach"], 61, absent);
    }
}
