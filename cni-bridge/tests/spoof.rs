//! `macspoofchk`: frames with somebody else's source are dropped, and nothing of it is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use common::{Node, Pod, call};
use serde_json::{Value, json};

fn conf(node: &Node) -> Value {
    node.conf(json!({"isDefaultGateway": true, "macspoofchk": true}))
}

/// Bridges need a family of their own in nf_tables.
fn have_family() -> bool {
    testkit::enter_node();
    let made = testkit::attempt(Command::new("nft").args(["add", "table", "bridge", "probe"])).status.success();
    if !made {
        testkit::skip("this kernel has no nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE)");
    }
    made
}

// Behaviour 59.
#[test]
fn a_pod_sends_with_its_own_mac_address_only() {
    if !have_family() {
        return;
    }
    let node = Node::new();
    let (honest, liar) = (Pod::new(), Pod::new());
    let mut conf = conf(&node);
    let result = node.add(&conf, "liar", &liar);
    node.add(&conf, "honest", &honest);
    assert!(liar.pings("10.1.2.3") && honest.pings("10.1.2.1"));
    let port = &result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let rules = node.ruleset();
    assert!(rules.contains("table bridge cni-bridge/podnet"), "{rules}");
    assert!(rules.contains(&format!("\"{port}\" . 0a:58:0a:01:02:02")), "{rules}");
    conf["prevResult"] = result;
    assert!(call("CHECK", &conf, "liar", &liar.path()).ok);

    liar.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:99"]);
    assert!(liar.hears_nothing_of("10.1.2.3") && liar.hears_nothing_of("10.1.2.1"), "nobody hears it any more");
    assert!(honest.pings("10.1.2.1"));
    liar.ip(&["link", "set", "eth0", "address", "0a:58:0a:01:02:02"]);
    assert!(liar.pings("10.1.2.3"), "the check is of the address, not of the pod");

    let Value::Object(mut plain) = conf else { panic!() };
    plain.remove("prevResult");
    let plain = Value::Object(plain);
    node.del(&plain, "liar", &liar);
    let rules = node.ruleset();
    assert!(!rules.contains(port) && rules.contains("0a:58:0a:01:02:03"), "the other one's stay: {rules}");
    assert!(call("DEL", &plain, "honest", "").ok);
    assert_eq!(node.ruleset(), "", "the table goes with the last one");
}

#[test]
fn check_misses_the_set_the_rule_and_the_table() {
    if !have_family() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new();
    let mut conf = conf(&node);
    let result = node.add(&conf, "a", &pod);
    let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    conf["prevResult"] = result;
    let table = ["bridge", "cni-bridge/podnet"];
    let changes: [Vec<&str>; 4] = [
        vec!["delete", "element", table[0], table[1], "senders", "{", &port, ".", "0a:58:0a:01:02:02", "}"],
        vec!["delete", "element", table[0], table[1], "ports", "{", &port, "}"],
        vec!["flush", "chain", table[0], table[1], "prerouting"],
        vec!["delete", "table", table[0], table[1]],
    ];
    for change in &changes {
        assert!(call("CHECK", &conf, "a", &pod.path()).ok, "before {change:?}");
        testkit::run(Command::new("nft").args(change));
        let told = call("CHECK", &conf, "a", &pod.path()).message();
        assert!(told.contains("does not check the MAC addresses of veth"), "{change:?}: {told}");
        let mut plain = conf.clone();
        plain.as_object_mut().unwrap().remove("prevResult");
        node.del(&plain, "a", &pod);
        assert_eq!(node.ruleset(), "", "DEL after {change:?}");
        let mut again = plain.clone();
        again["runtimeConfig"] = json!({"ips": ["10.1.2.2"]});
        conf["prevResult"] = node.add(&again, "a", &pod);
    }
}

#[test]
fn a_failed_add_and_gc_leave_no_check() {
    if !have_family() {
        return;
    }
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let mut conf = conf(&node);
    let mut failing = conf.clone();
    failing["ipam"]["routes"] = json!([{"dst": "192.168.0.0/16", "gw": "172.16.0.1"}]);
    assert!(!call("ADD", &failing, "a", &a.path()).ok);
    assert_eq!(node.ruleset(), "");
    node.add(&conf, "a", &a);
    node.add(&conf, "b", &b);
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
    assert!(call("GC", &conf, "", "").ok);
    let rules = node.ruleset();
    assert!(rules.contains(" b eth0\"") && !rules.contains(" a eth0\""), "{rules}");
    assert!(call("STATUS", &conf, "", "").ok);
    conf["cni.dev/valid-attachments"] = json!([]);
    assert!(call("GC", &conf, "", "").ok);
    assert_eq!(node.ruleset(), "");
}

// An ADD whose DEL never came: the port's name is the attachment's, and so are its elements.
#[test]
fn what_an_earlier_add_left_is_replaced() {
    if !have_family() {
        return;
    }
    let node = Node::new();
    let conf = conf(&node);
    let result = node.add(&conf, "a", &Pod::new()); // the kernel removes the pair with the namespace
    let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    std::fs::remove_file(node.leases().join("10.1.2.2")).unwrap();
    while node.links().contains(&port) {
        std::thread::yield_now();
    }
    let pod = Pod::new();
    node.add(&conf, "a", &pod);
    assert_eq!(node.ruleset().matches(&port).count(), 2, "{}", node.ruleset());
    assert!(pod.pings("10.1.2.1"));
}

// Without addresses, too; and before the pod can send.
#[test]
fn a_network_without_addresses_is_checked_as_well() {
    if !have_family() {
        return;
    }
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let conf = json!({"cniVersion": "1.0.0", "name": "podnet", "type": "bridge", "bridge": "br0", "macspoofchk": true});
    node.add(&conf, "a", &a);
    node.add(&conf, "b", &b);
    a.ip(&["address", "add", "10.3.0.1/24", "dev", "eth0"]);
    b.ip(&["address", "add", "10.3.0.2/24", "dev", "eth0"]);
    assert!(a.pings("10.3.0.2"));
    a.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:99"]);
    assert!(a.hears_nothing_of("10.3.0.2"));
    node.del(&conf, "a", &a);
    node.del(&conf, "b", &b);
    assert_eq!(node.ruleset(), "");
}
