//! Packets, not only state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::world::{World, converse, dial, listen, node_pings, reaches};
use common::{Node, Pod, call, command, feed};
use serde_json::json;

#[test]
fn pods_reach_each_other_their_gateway_and_the_node_them() {
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let conf = node.dual(json!({"ipMasq": true}));
    node.add(&conf, "a", &a);
    node.add(&conf, "b", &b);
    for address in ["10.1.2.1", "10.1.2.3", "fd00:1::1", "fd00:1::3"] {
        assert!(a.pings(address), "{address} from the first pod");
    }
    for address in ["10.1.2.2", "fd00:1::3"] {
        assert!(node_pings(address), "{address} from the node");
    }
    let listener = b.inside(listen);
    for (to, from) in [("10.1.2.3", "10.1.2.2"), ("fd00:1::3", "fd00:1::2")] {
        let seen = converse(&listener, |port| a.inside(|| dial(to, port)));
        assert_eq!(seen.to_string(), from, "inside the network nothing is masqueraded");
    }
}

// Behaviour 54, over nftables.
#[test]
fn the_world_sees_the_nodes_address_and_can_answer() {
    let node = Node::new();
    let (pod, world) = (Pod::new(), World::new());
    let conf = node.dual(json!({"ipMasq": true}));
    node.add(&conf, "a", &pod);
    let listener = world.host.inside(listen);
    for (to, from) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        let seen = converse(&listener, |port| pod.inside(|| dial(to, port)));
        assert_eq!(seen.to_string(), from, "the world has no route to the pods");
    }
    let rules = node.ruleset();
    assert!(
        rules.contains("ip saddr 10.1.2.0/24 ip daddr != 10.1.2.0/24 ip daddr != 224.0.0.0/4 masquerade"),
        "{rules}"
    );
    node.add(&conf, "b", &Pod::new());
    assert_eq!(node.ruleset(), rules, "a rule a network, not one a pod");
    node.del(&conf, "a", &pod);
    assert_eq!(node.ruleset(), rules, "another pod needs it");
    assert!(call("DEL", &conf, "b", "").ok);
    assert_eq!(node.ruleset(), "");
}

#[test]
fn a_subnet_added_later_joins_the_one_that_has_pods() {
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let old = node.conf(json!({"ipMasq": true}));
    let new = node.conf(json!({"ipMasq": true, "bridge": "br1", "ipam": {"subnet": "10.7.0.0/16"}}));
    node.add(&old, "a", &a);
    node.add(&new, "b", &b);
    let rules = node.ruleset();
    assert!(rules.contains("ip saddr 10.1.2.0/24") && rules.contains("ip saddr 10.7.0.0/16"), "{rules}");
    assert_eq!(rules.matches("masquerade\n").count(), 2, "{rules}");
    node.del(&new, "b", &b);
    node.del(&old, "a", &a);
    assert_eq!(node.ruleset(), "");
}

// The announcement of the new pod would mend most entries in time, but not one that was pinned, and not one
// asked for before it is heard.
#[test]
fn what_the_node_remembers_of_a_reused_address_is_forgotten() {
    let node = Node::new();
    let conf = |mac: &str| node.conf(json!({"isGateway": true, "runtimeConfig": {"ips": ["10.1.2.9"], "mac": mac}}));
    let first = Pod::new();
    node.add(&conf("02:00:00:00:00:01"), "a", &first);
    assert!(node_pings("10.1.2.9"));
    node.del(&conf("02:00:00:00:00:01"), "a", &first);
    let stale = ["neighbour", "replace", "10.1.2.9", "lladdr", "02:00:00:00:00:01", "dev", "br0", "nud", "permanent"];
    testkit::run(Command::new("ip").args(stale));
    let second = Pod::new();
    node.add(&conf("02:00:00:00:00:02"), "b", &second);
    assert!(node_pings("10.1.2.9"), "{}", testkit::output(Command::new("ip").arg("neighbour")));
}

// Behaviour 92; and bridge, gateway and rule made by fifty at once.
#[test]
fn fifty_adds_at_once_give_fifty_addresses_and_fifty_dels_leave_nothing() {
    let node = Node::new();
    let conf = node.dual(json!({"ipMasq": true})).to_string();
    let pods: Vec<Pod> = (0..50).map(|_| Pod::new()).collect();
    let all = |verb: &'static str| -> Vec<common::Answer> {
        std::thread::scope(|scope| {
            // Threads of this thread: they are in its namespace.
            let calls = pods.iter().enumerate().map(|(index, pod)| {
                let conf = conf.as_bytes();
                scope.spawn(move || feed(&mut command(verb, &format!("pod{index}"), &pod.path()), conf))
            });
            calls.collect::<Vec<_>>().into_iter().map(|call| call.join().unwrap()).collect()
        })
    };
    let mut seen = BTreeSet::new();
    for answer in all("ADD") {
        assert!(answer.ok, "{answer:?}");
        for ip in answer.json()["ips"].as_array().unwrap() {
            assert!(seen.insert(ip["address"].to_string()), "{ip} twice");
        }
    }
    assert_eq!((seen.len(), node.leased().len(), node.links().len()), (100, 100, 51));
    assert_eq!(node.ruleset().matches("masquerade\n").count(), 2);
    assert!(pods[0].pings("10.1.2.1") && pods[49].pings("fd00:1::1"));
    for answer in all("DEL") {
        assert!(answer.ok, "{answer:?}");
    }
    assert_eq!((node.leased().len(), node.links(), node.ruleset()), (0, vec!["br0".to_owned()], String::new()));
}

// Behaviour 87, across processes.
#[test]
fn an_address_given_back_is_not_given_out_again_at_once() {
    let node = Node::new();
    let conf = node.conf(json!({"ipam": {"subnet": "10.1.2.0/29"}}));
    let mut given = Vec::new();
    for _ in 0..6 {
        let pod = Pod::new();
        given.push(node.add(&conf, "crashing", &pod)["ips"][0]["address"].as_str().unwrap().to_owned());
        node.del(&conf, "crashing", &pod);
    }
    assert_eq!(given, ["10.1.2.2/29", "10.1.2.3/29", "10.1.2.4/29", "10.1.2.5/29", "10.1.2.6/29", "10.1.2.2/29"]);
}

#[test]
fn isolated_pods_reach_the_gateway_and_not_each_other() {
    let node = Node::new();
    let (a, b, open) = (Pod::new(), Pod::new(), Pod::new());
    let isolated = node.dual(json!({"portIsolation": true}));
    node.add(&isolated, "a", &a);
    node.add(&isolated, "b", &b);
    node.add(&node.dual(json!({})), "open", &open);
    let listener = b.inside(listen);
    let port = listener.local_addr().unwrap().port();
    for address in ["10.1.2.3", "fd00:1::3"] {
        assert!(!a.inside(|| reaches(address, port)), "{address}");
        assert!(open.inside(|| reaches(address, port)), "{address} from a port that is not isolated");
    }
    for gateway in ["10.1.2.1", "fd00:1::1"] {
        assert!(a.pings(gateway) && b.pings(gateway), "{gateway}");
    }
}
