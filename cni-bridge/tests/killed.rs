//! A plugin killed before any of its system calls: the following DEL, or GC, leaves nothing.
//!
//! Each walk takes every n-th system call only; `CNI_KILL_EVERY=1` takes all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::chain::{Chain, Whose};
use common::{Node, PLUGIN, Pod, feed};
use serde_json::{Value, json};

/// How many system calls lie between two that are tried.
fn stride(usual: usize) -> usize {
    std::env::var("CNI_KILL_EVERY").map_or(usual, |every| every.parse().expect("CNI_KILL_EVERY is a number"))
}

/// How what a killed call left is cleared away.
#[derive(Clone, Copy, Debug)]
enum Mending {
    Del,
    /// The runtime has lost the namespace.
    DelWithoutNamespace,
    /// Nobody knows of the attachment any more.
    Gc,
}

const MENDINGS: [Mending; 3] = [Mending::Del, Mending::DelWithoutNamespace, Mending::Gc];

/// A node and a chain of plugins on it.
struct Walk {
    node: Node,
    chain: Chain,
    /// What a node looks like that had a pod.
    clean: Vec<String>,
}

impl Walk {
    fn new(plugins: impl Fn(&Node) -> Vec<Value>) -> Option<Walk> {
        if Command::new("strace").arg("-V").output().is_err() {
            testkit::skip("strace is not installed");
            return None;
        }
        let node = Node::new();
        let chain = Chain::new(Whose::Ours, "1.1.0", plugins(&node));
        let mut walk = Walk { node, chain, clean: Vec::new() };
        let pod = Pod::new();
        let result = walk.chain.add("warm", &pod);
        walk.chain.del("warm", &pod.path(), &result);
        walk.clean = walk.picture();
        Some(walk)
    }

    /// Everything there is, a line each.
    fn picture(&self) -> Vec<String> {
        let mut all = self.node.links();
        all.extend(self.node.ruleset().lines().map(str::to_owned));
        files(&self.node.dir.path().join("leases"), &mut all);
        files(&self.node.dir.path().join("tuning"), &mut all);
        all
    }

    /// A call of one plugin of the chain, under strace with these options.
    fn traced(&self, options: &[&str], verb: &str, place: usize, id: &str, pod: &Pod, previous: &Value) -> bool {
        let mut command = Command::new("strace");
        command.args(options).arg(PLUGIN);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", pod.path()).env("CNI_PATH", "/nonexistent");
        feed(&mut command, self.chain.conf(place, previous).to_string().as_bytes()).ok
    }

    /// How many system calls a whole call makes.
    fn count(&self, verb: &str, place: usize, pod: &Pod, previous: &Value) -> usize {
        let trace = self.node.dir.path().join("trace");
        assert!(self.traced(&["-o", trace.to_str().unwrap()], verb, place, "count", pod, previous));
        std::fs::read_to_string(trace).unwrap().lines().filter(|line| line.contains('(')).count()
    }

    /// The results of the plugins one after the other, of those before `end`.
    fn add_before(&self, end: usize, id: &str, pod: &Pod) -> Value {
        let head = Chain { plugins: self.chain.plugins[..end].to_vec(), ..self.chain.clone() };
        head.add(id, pod)
    }

    fn kill(&self, verb: &str, place: usize, number: usize, id: &str, pod: &Pod, previous: &Value) {
        let inject = format!("inject=all:signal=SIGKILL:when={number}");
        let silent = self.node.dir.path().join("trace");
        self.traced(&["-o", silent.to_str().unwrap(), "-e", &inject], verb, place, id, pod, previous);
    }

    fn mend(&self, how: Mending, id: &str, pod: &Pod, result: &Value) {
        match how {
            Mending::Del => self.chain.del(id, &pod.path(), result),
            Mending::DelWithoutNamespace => self.chain.del(id, "", result),
            Mending::Gc => self.chain.gc(Some(&[])),
        }
    }

    fn expect_clean(&self, what: &str, pod: &Pod) {
        let (now, clean) = (self.picture(), &self.clean);
        let more: Vec<_> = now.iter().filter(|line| !clean.contains(line)).collect();
        let less: Vec<_> = clean.iter().filter(|line| !now.contains(line)).collect();
        assert!(more.is_empty() && less.is_empty(), "{what}: left {more:?}, lost {less:?}");
        assert!(!pod.ip(&["link"]).contains("eth0"), "{what}: eth0 is left in the pod");
    }

    /// Kills ADD of each plugin of the chain before its system calls in turn.
    fn adds(&self, usual: usize) {
        let mut killed = 0;
        for place in 0..self.chain.plugins.len() {
            let pod = Pod::new();
            let previous = self.add_before(place, "count", &pod);
            let calls = self.count("ADD", place, &pod, &previous);
            self.mend(Mending::Del, "count", &pod, &Value::Null);
            for number in (1 + place..=calls).step_by(stride(usual)) {
                let (pod, id) = (Pod::new(), format!("add-{place}-{number}"));
                let previous = self.add_before(place, &id, &pod);
                self.kill("ADD", place, number, &id, &pod, &previous);
                let how = MENDINGS[killed % MENDINGS.len()];
                // No runtime has a result of an ADD that failed.
                self.mend(how, &id, &pod, &Value::Null);
                let kind = &self.chain.plugins[place]["type"];
                self.expect_clean(&format!("ADD of {kind} killed before its call {number}, then {how:?}"), &pod);
                killed += 1;
            }
        }
        self.next_pod_is_served(killed);
    }

    /// Kills DEL of each plugin of the chain before its system calls in turn.
    fn dels(&self, usual: usize) {
        let mut killed = 0;
        for place in 0..self.chain.plugins.len() {
            let pod = Pod::new();
            let result = self.chain.add("count", &pod);
            let calls = self.count("DEL", place, &pod, &result);
            self.mend(Mending::Del, "count", &pod, &result);
            for number in (1 + place..=calls).step_by(stride(usual)) {
                let (pod, id) = (Pod::new(), format!("del-{place}-{number}"));
                let result = self.chain.add(&id, &pod);
                let tail = Chain { plugins: self.chain.plugins[place + 1..].to_vec(), ..self.chain.clone() };
                tail.del(&id, &pod.path(), &result);
                self.kill("DEL", place, number, &id, &pod, &result);
                let how = MENDINGS[killed % MENDINGS.len()];
                self.mend(how, &id, &pod, &result);
                let kind = &self.chain.plugins[place]["type"];
                self.expect_clean(&format!("DEL of {kind} killed before its call {number}, then {how:?}"), &pod);
                killed += 1;
            }
        }
        self.next_pod_is_served(killed);
    }

    fn next_pod_is_served(&self, killed: usize) {
        println!("killed {killed} times");
        assert!(killed > 5, "killed {killed} times only");
        let pod = Pod::new();
        let result = self.chain.add("next", &pod);
        assert!(pod.pings("10.1.2.1"));
        self.chain.del("next", &pod.path(), &result);
    }
}

/// The files below, without the ones that are always there or that one call leaves for the next.
fn files(directory: &Path, all: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), all),
            false => drop(seen.insert(entry.path().display().to_string())),
        }
    }
    all.extend(seen);
}

fn bridge(node: &Node) -> Value {
    let mut conf = node.dual(json!({"type": "bridge", "ipMasq": true, "hairpinMode": true}));
    conf.as_object_mut().unwrap().retain(|key, _| key != "cniVersion" && key != "name");
    conf
}

fn bridge_alone(node: &Node) -> Vec<Value> {
    vec![bridge(node)]
}

/// Without leases of ours, and with the check of MAC addresses: all that is noted of a pod is in nf_tables.
fn bridge_without_leases(_: &Node) -> Vec<Value> {
    let addresses = json!([{"address": "10.1.2.7/24", "gateway": "10.1.2.1"}]);
    vec![json!({
        "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "macspoofchk": true,
        "ipam": {"type": "static", "addresses": addresses},
    })]
}

/// One of each, with something to do.
fn everything(node: &Node) -> Vec<Value> {
    let mappings = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
    ]);
    vec![
        bridge(node),
        json!({"type": "portmap", "snat": true, "runtimeConfig": {"portMappings": mappings}}),
        json!({"type": "firewall", "ingressPolicy": "same-bridge"}),
        json!({"type": "tuning", "dataDir": node.dir.path().join("tuning"), "mtu": 1400, "promisc": true}),
        json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 8_000_000, "egressBurst": 800_000}),
    ]
}

#[test]
fn an_add_of_the_bridge() {
    if let Some(walk) = Walk::new(bridge_alone) {
        walk.adds(3);
    }
}

#[test]
fn a_del_of_the_bridge() {
    if let Some(walk) = Walk::new(bridge_alone) {
        walk.dels(3);
    }
}

#[test]
fn an_add_and_a_del_of_a_bridge_without_leases() {
    if let Some(walk) = Walk::new(bridge_without_leases) {
        walk.adds(5);
        walk.dels(5);
    }
}

#[test]
fn an_add_of_five_plugins() {
    if let Some(walk) = Walk::new(everything) {
        walk.adds(23);
    }
}

#[test]
fn a_del_of_five_plugins() {
    if let Some(walk) = Walk::new(everything) {
        walk.dels(23);
    }
}
