//! Host ports whose configuration, names or ruleset are not what they were at ADD.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use common::chain::{Chain, Whose};
use common::ports::{TCP, chain, mapping, route_localnet, sysctl};
use common::world::{converse, dial, listen_at};
use common::{Node, Pod};
use serde_json::{Value, json};

/// The chain's portmap alone, of one verb.
fn portmap(chain: &Chain, verb: &str, id: &str, pod: &Pod, previous: &Value) {
    let answer = chain.whose.call(verb, &chain.conf(1, previous), id, &pod.path());
    assert!(answer.ok, "{verb} {id}: {answer:?}");
}

// What a container may be called has no end, and a comment of nf_tables has one.
#[test]
fn names_longer_than_any_comment_are_checked_and_collected_like_others() {
    let node = Node::new();
    let pods = [Pod::new(), Pod::new()];
    let previous = |ip: u32| json!({"cniVersion": "1.1.0", "ips": [{"address": format!("10.1.2.{ip}/24")}]});
    let ids = ["a", "b"].map(|end| "c".repeat(245) + end);
    let nets = [1000, 2000].map(|port| chain(&node, json!({}), &[mapping(port, "tcp")]));
    for at in 0..2 {
        portmap(&nets[at], "ADD", &ids[at], &pods[at], &previous(2 + at as u32));
        portmap(&nets[at], "CHECK", &ids[at], &pods[at], &previous(2 + at as u32));
    }
    let mut conf = nets[0].conf(1, &Value::Null);
    conf["cni.dev/valid-attachments"] = json!([{"containerID": ids[1], "ifname": "eth0"}]);
    assert!(Whose::Ours.call("GC", &conf, "", "").ok);
    assert!(!node.ruleset().contains("tcp . 1000") && node.ruleset().contains("tcp . 2000"));
    conf["cni.dev/valid-attachments"] = json!([]);
    assert!(Whose::Ours.call("GC", &conf, "", "").ok);
    assert_eq!(node.ruleset(), "");
}

#[test]
fn a_pod_is_removed_and_collected_whatever_became_of_the_configuration() {
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let with = |keys: Value| chain(&node, keys, &[mapping(1000, "tcp")]);
    let (old, new) = (with(json!({"markMasqBit": 20})), with(json!({"markMasqBit": 21})));
    let result = old.add("a", &a);
    new.del("a", &a.path(), &result);
    assert_eq!(node.ruleset(), "");
    old.add("b", &b);
    Chain { plugins: vec![new.plugins[1].clone()], ..new }.gc(Some(&[]));
    assert_eq!(node.ruleset(), "");
}

#[test]
fn the_loopback_stays_open_to_the_pods_of_another_profile_and_is_shut_with_the_last() {
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let first = chain(&node, json!({"markMasqBit": 20}), &[mapping(1000, "tcp")]);
    let second = chain(&node, json!({}), &[mapping(2000, "tcp")]);
    let result = first.add("a", &a);
    let other = second.add("b", &b);
    first.del("a", &a.path(), &result);
    assert_eq!(route_localnet(), "2");
    let listener = b.inside(|| listen_at(80));
    converse(&listener, |_| dial("127.0.0.1", 2000));
    second.del("b", &b.path(), &other);
    assert_eq!(route_localnet(), "0");
    assert_eq!(node.ruleset(), "");
}

// A service of nftables that is started anew flushes everything.
#[test]
fn the_loopback_is_shut_after_the_tables_were_thrown_away_unless_somebody_else_opened_it() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    for again in [false, true] {
        let result = chain.add("a", &pod);
        testkit::run(Command::new("nft").args(["flush", "ruleset"]));
        assert_eq!(route_localnet(), "2");
        if again {
            portmap(&chain, "ADD", "a", &pod, &result);
        }
        chain.del("a", &pod.path(), &result);
        assert_eq!(route_localnet(), "0", "after another ADD: {again}");
    }
    sysctl("ipv4/conf/br0/route_localnet", "1");
    let result = chain.add("a", &pod);
    chain.del("a", &pod.path(), &result);
    assert_eq!(route_localnet(), "1");
}

// `nft flush table` takes the rules, and with them what records say; elements stay.
#[test]
fn what_a_flushed_table_still_has_of_a_pod_goes_with_the_pod_and_is_in_nobodys_way() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..4).map(|_| Pod::new()).collect();
    let nets = [1000, 2000, 3000, 2000].map(|port| chain(&node, json!({}), &[mapping(port, "tcp")]));
    let previous = |at: usize| json!({"cniVersion": "1.1.0", "ips": [{"address": format!("10.1.2.{}/24", at + 2)}]});
    let call = |verb: &str, at: usize| portmap(&nets[at], verb, &format!("pod{at}"), &pods[at], &previous(at));
    (0..3).for_each(|at| call("ADD", at));
    testkit::run(Command::new("nft").args(["flush", "table", "ip", "cni-bridge-hostports"]));
    call("DEL", 0);
    let rules = node.ruleset();
    assert!(!rules.contains("podnet pod0 eth0") && rules.contains("tcp . 2000"), "{rules}");
    // A record that is gone altogether.
    let is_its = |chain: &&str| chain.starts_with("pod-") && chain.contains("\"podnet pod1 eth0\"");
    let record = rules.split("chain ").find(is_its).unwrap().split(' ').next().unwrap();
    testkit::run(Command::new("nft").args(["delete", "chain", "ip", "cni-bridge-hostports", record]));
    call("ADD", 3);
    call("CHECK", 3);
    let rules = node.ruleset();
    assert!(rules.contains("tcp . 2000 comment \"podnet pod3 eth0\""), "{rules}");
}
