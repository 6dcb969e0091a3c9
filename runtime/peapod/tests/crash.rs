//! Processes that die where it hurts: whatever is left, `peapod rm --force`
//! removes, and a pod whose keeper is gone goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use common::{Node, eventually, manifest_path, quiet};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs the web pod under strace, which kills `run` (and, with `-f`, every process it starts) at its `nth`
/// system call; returns when `run` has ended, in whatever way.
fn run_and_die(node: &Node, follow: &[&str], nth: u32) {
    let mut command = Command::new("strace");
    command
        .args(["-qq", "-o", "/dev/null"])
        .args(follow)
        .arg("-e")
        .arg(format!("inject=all:signal=SIGKILL:when={nth}"));
    command.arg(testkit::binary("peapod")).args(["run", &manifest_path("web.yaml")]);
    node.environment(&mut command);
    let mut strace = quiet(&mut command).spawn().unwrap();
    // strace stays as long as anything it follows does; `run` is its only child.
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let mut started = false;
    eventually("the end of run", || {
        let running = std::fs::read_to_string(&children).is_ok_and(|pids| !pids.trim().is_empty());
        started |= running;
        let ended = strace.try_wait().unwrap().is_some();
        (ended || started && !running).then_some(())
    });
    // The kernel lets go of what a dead tracer followed. (strace blocks the gentler signals here.)
    let _ = strace.kill();
    strace.wait().unwrap();
}

#[test]
fn a_run_killed_at_any_system_call_leaves_what_rm_removes() {
    let node = Node::new();
    for nth in (1..400).step_by(37) {
        run_and_die(&node, &[], nth);
        node.ok(&["rm", "--force", "web"]);
        node.assert_clean();
    }
}

#[test]
fn every_process_killed_at_any_system_call_leaves_what_rm_removes() {
    let node = Node::new();
    for nth in (3..1600).step_by(41) {
        run_and_die(&node, &["-f"], nth);
        node.ok(&["rm", "--force", "web"]);
        node.assert_clean();
    }
}

#[test]
fn a_pod_outlives_its_keeper_and_gets_a_new_one() {
    let node = Node::new();
    node.run("web.yaml");
    let keeper = keeper(&node);
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    eventually("the keeper's end", || (!std::path::Path::new(&format!("/proc/{keeper}/ns")).exists()).then_some(()));
    eventually("the page", || node.page("10.244.1.2").status.success().then_some(()));

    // With nobody watching, the server dies; the next command brings a keeper, and it the server.
    kill(Pid::from_raw(node.pid_of("web", "httpd -f")), Signal::SIGKILL).unwrap();
    let server = eventually("the server's restart", || {
        let server = node.container("web", "server");
        (server["restartCount"] == 1 && server["state"]["running"].is_object()).then_some(server)
    });
    assert_eq!(server["lastState"]["terminated"]["exitCode"], 137, "{server}");
    assert_eq!(node.ip("web"), "10.244.1.2");
    node.ok(&["rm", "--force", "web"]);
    node.assert_clean();
}

#[test]
fn a_pod_whose_shim_was_killed_can_be_removed() {
    let node = Node::new();
    node.run("web.yaml");
    kill(Pid::from_raw(keeper(&node)), Signal::SIGKILL).unwrap();
    let shim = process(&node, "containerd-shim-pea-v2");
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    node.ok(&["rm", "--force", "web"]);
    node.assert_clean();
}

#[test]
fn removing_what_is_not_there_succeeds_only_by_force() {
    let node = Node::new();
    node.ok(&["rm", "--force", "nobody"]);
    let refused = node.attempt(&["rm", "nobody"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(common::stderr(&refused).contains("nobody"));
}

fn keeper(node: &Node) -> i32 {
    process(node, "keep")
}

/// A process of this node whose command line has `word` as the end of a word.
fn process(node: &Node, word: &str) -> i32 {
    node.leftovers()
        .into_iter()
        .filter_map(|line| line.strip_prefix("process ").map(str::to_owned))
        .find(|line| line.split_whitespace().skip(1).any(|part| part.ends_with(word)))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no process {word:?} on this node"))
}
