//! Single keys of the bridge, and faults of the reference that are not repeated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use common::{Node, Pod, call};
use serde_json::{Value, json};

fn ip(args: &[&str]) {
    testkit::run(Command::new("ip").args(args));
}

fn eth0(pod: &Pod) -> Value {
    let shown: Value = serde_json::from_str(&pod.ip(&["-j", "address", "show", "eth0"])).unwrap();
    shown[0].clone()
}

// Behaviour 60.
#[test]
fn an_interface_that_stays_down_has_no_addresses() {
    let node = Node::new();
    let refused = call("ADD", &node.conf(json!({"disableContainerInterface": true})), "a", &Pod::new().path());
    assert_eq!(refused.message(), "cannot use IPAM when DisableContainerInterface flag is set");
    assert!(node.links().is_empty() && node.leased().is_empty());
}

// Behaviour 61.
#[test]
fn the_pods_end_is_left_down_where_that_is_asked_for() {
    let node = Node::new();
    let pod = Pod::new();
    let mut conf = json!({
        "cniVersion": "1.0.0", "name": "podnet", "type": "bridge", "bridge": "br0", "disableContainerInterface": true,
    });
    let result = node.add(&conf, "a", &pod);
    assert_ne!(eth0(&pod)["operstate"], "UP");
    assert!(!eth0(&pod)["flags"].to_string().contains("\"UP\""));
    conf["prevResult"] = result;
    assert!(call("CHECK", &conf, "a", &pod.path()).ok);
    conf.as_object_mut().unwrap().remove("prevResult");
    node.del(&conf, "a", &pod);
    assert_eq!(node.links(), ["br0"]);
}

// Behaviour 65 with addresses that are tried first.
#[test]
fn duplicate_addresses_are_looked_for_where_that_is_asked_for() {
    let node = Node::new();
    let pod = Pod::new();
    node.add(&node.dual(json!({"enabledad": true})), "a", &pod);
    let sysctl = |key: &str| testkit::output(pod.command("cat").arg(format!("/proc/sys/net/ipv6/conf/eth0/{key}")));
    assert_eq!((sysctl("accept_dad"), sysctl("enhanced_dad")), ("1".into(), "1".into()));
    assert!(!eth0(&pod).to_string().contains("nodad"));
}

// A sandbox made with IPv6 switched off, by a runtime or by `net.ipv6.conf.default.disable_ipv6`.
#[test]
fn ipv6_is_switched_on_in_a_pod_that_is_given_an_address_of_it() {
    let node = Node::new();
    let pod = Pod::new();
    for link in ["all", "default", "lo"] {
        pod.inside(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1").unwrap());
    }
    node.add(&node.dual(json!({})), "a", &pod);
    let sysctl =
        |link: &str| testkit::output(pod.command("cat").arg(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6")));
    assert_eq!((sysctl("eth0"), sysctl("lo")), ("0".into(), "0".into()));
    assert!(pod.pings("fd00:1::1") && pod.pings("10.1.2.1"));
}

// Behaviours 55, 56: whatever the backend is called, there is one rule a subnet, made by netlink.
#[test]
fn either_backend_masquerades_by_nftables() {
    for backend in ["iptables", "nftables"] {
        let node = Node::new();
        let (a, b) = (Pod::new(), Pod::new());
        let conf = node.conf(json!({"ipMasq": true, "ipMasqBackend": backend}));
        node.add(&conf, "a", &a);
        node.add(&conf, "b", &b);
        let rules = node.ruleset();
        assert_eq!(rules.matches(" masquerade\n").count(), 1, "{rules}");
        assert!(rules.contains("table inet cni-bridge/podnet") && !rules.contains("table ip "), "{rules}");
    }
    let node = Node::new();
    let refused = call("ADD", &node.conf(json!({"ipMasq": true, "ipMasqBackend": "x"})), "a", &Pod::new().path());
    assert_eq!(refused.message(), "unknown ipmasq backend \"x\"");
}

// Behaviours 57, 58: of what the port was told.
#[test]
fn check_misses_what_the_port_and_the_bridge_were_told() {
    let node = Node::new();
    let hairpin = json!({"hairpinMode": true});
    let isolated = json!({"portIsolation": true, "promiscMode": true});
    let cases: [(&Value, &[&str], &str); 4] = [
        (&hairpin, &["link", "set", "PORT", "type", "bridge_slave", "hairpin", "off"], "is not in hairpin mode"),
        (&isolated, &["link", "set", "PORT", "type", "bridge_slave", "isolated", "off"], "is not isolated"),
        (&isolated, &["link", "set", "br0", "promisc", "off"], "br0 is not promiscuous"),
        (&hairpin, &["link", "set", "PORT", "down"], "is down"),
    ];
    for (number, (keys, change, words)) in cases.iter().enumerate() {
        let (id, pod) = (format!("pod{number}"), Pod::new());
        let mut conf = node.conf((*keys).clone());
        let result = node.add(&conf, &id, &pod);
        let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
        conf["prevResult"] = result;
        let fine = call("CHECK", &conf, &id, &pod.path());
        assert!(fine.ok, "{fine:?}");
        ip(&change.iter().map(|arg| if *arg == "PORT" { port.as_str() } else { arg }).collect::<Vec<_>>());
        let told = call("CHECK", &conf, &id, &pod.path()).message();
        assert!(told.contains(words), "{change:?}: {told}");
    }
}

// A rule that somebody removed: the table and its comment are still there.
#[test]
fn check_misses_a_rule_of_the_masquerading() {
    let node = Node::new();
    let pod = Pod::new();
    let mut conf = node.conf(json!({"ipMasq": true}));
    conf["prevResult"] = node.add(&conf, "a", &pod);
    assert!(call("CHECK", &conf, "a", &pod.path()).ok);
    testkit::run(Command::new("nft").args(["flush", "chain", "inet", "cni-bridge/podnet", "postrouting"]));
    assert!(call("CHECK", &conf, "a", &pod.path()).message().contains("nftables table inet cni-bridge/podnet"));
}

// The reference leaves a bridge whose only port is gone without a hardware address, refuses the next ADD with
// "could not set bridge's mac: invalid argument", and from then on the address changes with every port.
#[test]
fn a_bridge_without_a_fixed_mac_address_gets_one() {
    let node = Node::new();
    for args in [
        &["link", "add", "br0", "type", "bridge"][..],
        &["link", "add", "gone0", "master", "br0", "type", "veth", "peer", "name", "gone1"],
        &["link", "delete", "gone0"],
    ] {
        ip(args);
    }
    assert_eq!(node.link("br0")["address"], "00:00:00:00:00:00");
    let conf = node.conf(json!({"isGateway": true}));
    let pods = [Pod::new(), Pod::new(), Pod::new()];
    let told = node.add(&conf, "0", &pods[0])["interfaces"][0]["mac"].clone();
    let mac = node.link("br0")["address"].clone();
    assert_ne!(mac, "00:00:00:00:00:00");
    assert_eq!(told, mac);
    for (id, pod) in [("1", &pods[1]), ("2", &pods[2])] {
        node.add(&conf, id, pod);
        assert_eq!(node.link("br0")["address"], mac);
    }
    for (id, pod) in ["0", "1", "2"].iter().zip(&pods) {
        node.del(&conf, id, pod);
    }
    assert_eq!(node.link("br0")["address"], mac);
}

// A failed first ADD, and the next one after it: what made the reference's bridge so.
#[test]
fn a_first_add_that_fails_spoils_no_later_one() {
    let node = Node::new();
    let pod = Pod::new();
    let failing = json!({"isGateway": true, "ipam": {"routes": [{"dst": "192.168.0.0/16", "gw": "172.16.0.1"}]}});
    assert!(!call("ADD", &node.conf(failing), "a", &pod.path()).ok);
    assert!(!pod.ip(&["link"]).contains("eth0"), "nothing is in the way of the next ADD");
    let mac = node.link("br0")["address"].clone();
    let conf = node.conf(json!({"isGateway": true}));
    assert_eq!(node.add(&conf, "a", &pod)["interfaces"][0]["mac"], mac);
    assert!(pod.pings("10.1.2.1"));
}

// Behaviour 51: an obstacle of the same subnet holds the gateway up as its secondary address.
#[test]
fn an_address_of_the_same_subnet_is_replaced_without_losing_the_gateway() {
    let node = Node::new();
    for args in [&["link", "add", "br0", "type", "bridge"][..], &["address", "add", "10.1.2.254/24", "dev", "br0"]] {
        ip(args);
    }
    let on_bridge = || testkit::output(Command::new("ip").args(["-o", "-4", "address", "show", "br0"]));
    let refused = call("ADD", &node.conf(json!({"isGateway": true})), "a", &Pod::new().path());
    assert!(refused.message().contains("different from 10.1.2.1/24: 10.1.2.254/24"), "{refused:?}");
    assert!(on_bridge().contains("10.1.2.254/24") && !on_bridge().contains("10.1.2.1/24"));
    let pod = Pod::new();
    node.add(&node.conf(json!({"isGateway": true, "forceAddress": true})), "a", &pod);
    assert!(on_bridge().contains("10.1.2.1/24") && !on_bridge().contains("10.1.2.254/24"), "{}", on_bridge());
    assert!(pod.pings("10.1.2.1"));
}
