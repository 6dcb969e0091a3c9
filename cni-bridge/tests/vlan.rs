//! `vlan`, `vlanTrunk`, `preserveDefaultVlan`: which ports hear each other, and what the kernel says they carry.
//!
//! These need a kernel whose bridges filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING); `scripts/vm` has one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::{Node, Pod, call, ip_json};
use serde_json::{Value, json};

/// A node whose kernel filters VLANs, or none and the reason.
fn node() -> Option<Node> {
    let node = Node::new();
    for args in [&["link", "add", "probe", "type", "bridge"][..], &["link", "delete", "probe"]] {
        let shown = Command::new("ip").args(["-d", "-j", "link", "show", "probe"]).output().unwrap().stdout;
        if args[1] == "delete" && !String::from_utf8_lossy(&shown).contains("vlan_default_pvid") {
            testkit::skip("this kernel's bridges do not filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)");
            return None;
        }
        testkit::run(Command::new("ip").args(args));
    }
    Some(node)
}

/// What a port carries: `true` for the native VLAN.
fn carried(port: &str) -> BTreeMap<u64, bool> {
    let text = testkit::output(Command::new("bridge").args(["-j", "vlan", "show", "dev", port]));
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut all = BTreeMap::new();
    for entry in list[0]["vlans"].as_array().into_iter().flatten() {
        let first = entry["vlan"].as_u64().unwrap();
        let native = entry["flags"].to_string().contains("PVID") && entry["flags"].to_string().contains("Untagged");
        all.extend((first..=entry["vlanEnd"].as_u64().unwrap_or(first)).map(|id| (id, native)));
    }
    all
}

fn port(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_owned()
}

/// A network of links only.
fn links(extra: Value) -> Value {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "podnet", "type": "bridge", "bridge": "br0"});
    common::merge(&mut conf, extra);
    conf
}

// Behaviours 39, 40: and a VLAN is a network of its own.
#[test]
fn pods_of_one_vlan_hear_each_other_and_no_others() {
    let Some(node) = node() else { return };
    let pods = [Pod::new(), Pod::new(), Pod::new()];
    for (number, (pod, vlan)) in pods.iter().zip([100, 100, 200]).enumerate() {
        let mut conf = links(json!({"vlan": vlan}));
        let result = node.add(&conf, &format!("pod{number}"), pod);
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(carried(&port(&result)), [(vlan, true)].into(), "and the default VLAN is gone");
        pod.ip(&["address", "add", &format!("10.3.0.{}/24", number + 1), "dev", "eth0"]);
        conf["prevResult"] = result;
        let checked = call("CHECK", &conf, &format!("pod{number}"), &pod.path());
        assert!(checked.ok, "{checked:?}");
    }
    assert_eq!(node.link("br0")["linkinfo"]["info_data"]["vlan_filtering"], 1);
    assert!(pods[0].pings("10.3.0.2") && pods[0].hears_nothing_of("10.3.0.3"));
}

// Behaviours 41, 42.
#[test]
fn a_trunk_carries_tagged_vlans_beside_the_native_one() {
    let Some(node) = node() else { return };
    let trunk = json!([{"id": 101}, {"minID": 200, "maxID": 210}]);
    let tagged = || [101].into_iter().chain(200..=210).map(|id| (id, false));
    for (id, vlan, native) in [("a", 0, 1), ("b", 100, 100)] {
        let pod = Pod::new();
        let mut conf = links(json!({"vlan": vlan, "vlanTrunk": trunk}));
        let result = node.add(&conf, id, &pod);
        let port = port(&result);
        assert_eq!(carried(&port), tagged().chain([(native, true)]).collect(), "{id}");
        conf["prevResult"] = result;
        assert!(call("CHECK", &conf, id, &pod.path()).ok);
        testkit::run(Command::new("bridge").args(["vlan", "delete", "dev", &port, "vid", "205"]));
        assert!(call("CHECK", &conf, id, &pod.path()).message().contains("has lost its VLAN 205 with its tag"));
    }
}

#[test]
fn the_default_vlan_is_kept_where_that_is_asked_for() {
    let Some(node) = node() else { return };
    let pod = Pod::new();
    let result = node.add(&links(json!({"vlan": 100, "preserveDefaultVlan": true})), "a", &pod);
    assert_eq!(carried(&port(&result)).keys().copied().collect::<Vec<_>>(), [1, 100]);
    assert!(carried(&port(&result))[&100]);
    // The bridge's default may be another one, and may be the pod's.
    testkit::run(Command::new("ip").args(["link", "set", "br0", "type", "bridge", "vlan_default_pvid", "7"]));
    let (b, c) = (Pod::new(), Pod::new());
    let result = node.add(&links(json!({"vlan": 100})), "b", &b);
    assert_eq!(carried(&port(&result)), [(100, true)].into());
    let result = node.add(&links(json!({"vlan": 7})), "c", &c);
    assert_eq!(carried(&port(&result)), [(7, true)].into());
}

// Behaviour 43.
#[test]
fn a_vlan_with_addresses_has_a_gateway_of_its_own() {
    let Some(node) = node() else { return };
    let (a, b, other) = (Pod::new(), Pod::new(), Pod::new());
    let mut conf = node.dual(json!({"vlan": 100}));
    let result = node.add(&conf, "a", &a);
    let names: Vec<_> =
        result["interfaces"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[3]), (4, "br0", "br0.100"));
    assert_eq!(result["interfaces"][3]["mac"], node.link("br0.100")["address"]);
    assert_eq!(node.links().len(), 4, "bridge, port, gateway, the gateway's port: {:?}", node.links());
    let gateway = ip_json(Command::new("ip").args(["-j", "address", "show", "br0.100"])).to_string();
    assert!(gateway.contains("10.1.2.1") && gateway.contains("fd00:1::1"), "{gateway}");
    let bridge = ip_json(Command::new("ip").args(["-j", "address", "show", "br0"])).to_string();
    assert!(!bridge.contains("10.1.2.1"), "{bridge}");
    assert!(a.pings("10.1.2.1") && a.pings("fd00:1::1"));
    node.add(&conf, "b", &b);
    assert_eq!(node.links().len(), 5, "one gateway for all pods of the VLAN");
    assert!(a.pings("10.1.2.3"));
    let second = json!({"name": "second", "vlan": 200, "isGateway": true, "ipam": {"subnet": "10.9.0.0/24"}});
    node.add(&node.conf(second), "other", &other);
    other.ip(&["address", "add", "10.1.2.200/24", "dev", "eth0"]);
    assert!(other.pings("10.9.0.1") && other.hears_nothing_of("10.1.2.2"), "another VLAN");

    conf["prevResult"] = result;
    let checked = call("CHECK", &conf, "a", &a.path());
    assert!(checked.ok, "{checked:?}");
    testkit::run(Command::new("ip").args(["address", "flush", "dev", "br0.100"]));
    assert!(call("CHECK", &conf, "a", &a.path()).message().contains("br0.100 has lost its address 10.1.2.1/24"));
    testkit::run(Command::new("ip").args(["link", "delete", "br0.100"]));
    assert!(call("CHECK", &conf, "a", &a.path()).message().contains("br0.100 is missing"));
    // What an ADD that was killed leaves: a pair that is not wired yet. The next ADD does it.
    conf.as_object_mut().unwrap().remove("prevResult");
    node.del(&conf, "a", &a);
    testkit::run(Command::new("ip").args(["link", "add", "br0.100", "type", "veth", "peer", "name", "stray"]));
    assert!(call("ADD", &conf, "a", &a.path()).message().contains("br0.100 already exists but is not the gateway"));
    testkit::run(Command::new("ip").args(["link", "delete", "br0.100"]));
    node.add(&conf, "a", &a);
    assert!(a.pings("10.1.2.1"));
}

// A bridge that was there and does not filter: without, pods of all VLANs would be in one network.
#[test]
fn a_bridge_that_does_not_filter_is_made_to_and_its_pods_stay_connected() {
    let Some(node) = node() else { return };
    let (a, b, c) = (Pod::new(), Pod::new(), Pod::new());
    let plain = node.conf(json!({"isGateway": true}));
    node.add(&plain, "a", &a);
    node.add(&plain, "b", &b);
    assert_eq!(node.link("br0")["linkinfo"]["info_data"]["vlan_filtering"], 0);
    node.add(&links(json!({"vlan": 100})), "c", &c);
    assert_eq!(node.link("br0")["linkinfo"]["info_data"]["vlan_filtering"], 1);
    c.ip(&["address", "add", "10.1.2.9/24", "dev", "eth0"]);
    assert!(a.pings("10.1.2.3") && a.pings("10.1.2.1") && c.hears_nothing_of("10.1.2.2"));
}

#[test]
fn a_kernel_that_does_not_filter_is_named_and_nothing_is_left() {
    let node = Node::new();
    let pod = Pod::new();
    let conf = node.conf(json!({"vlan": 100, "isGateway": true}));
    let done = call("ADD", &conf, "a", &pod.path());
    if done.ok {
        testkit::skip("this kernel's bridges filter VLANs");
        return;
    }
    assert_eq!(done.code(), 7);
    assert_eq!(done.message(), "vlan: the kernel cannot filter VLANs on the bridge br0");
    assert!(done.text.contains("CONFIG_BRIDGE_VLAN_FILTERING"));
    assert_eq!((node.links(), node.leased().len()), (vec!["br0".to_owned()], 0));
    assert_eq!(call("STATUS", &conf, "", "").code(), 50);
}
