//! What ADD makes, CHECK compares, DEL removes: kernel state and results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use common::{Node, Pod, call, ip_json};
use serde_json::{Value, json};

fn addresses(shown: &Value) -> Vec<String> {
    let all = shown["addr_info"].as_array().unwrap().iter();
    let global = all.filter(|address| address["scope"] == "global");
    global.map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"])).collect()
}

fn on_bridge() -> Vec<String> {
    addresses(&ip_json(Command::new("ip").args(["-j", "address", "show", "br0"])))
}

// Behaviours 26, 29 to 33, 35, 46, 63, 64, 66.
#[test]
fn add_makes_bridge_pair_addresses_and_routes() {
    let node = Node::new();
    let pod = Pod::new();
    let conf = node.dual(json!({"mtu": 1450, "hairpinMode": true}));
    let result = node.add(&conf, "a", &pod);

    let names: Vec<_> = (0..3).map(|index| result["interfaces"][index]["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[2]), ("br0", "eth0"));
    assert_eq!(node.links(), [names[0], names[1]], "nothing but the bridge and the pair");
    assert_eq!(result["interfaces"][2]["sandbox"], pod.path());
    assert_eq!(result["interfaces"][2]["mtu"], 1450);

    let (bridge, host) = (node.link("br0"), node.link(names[1]));
    assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
    assert_eq!(bridge["address"], result["interfaces"][0]["mac"]);
    assert_ne!(bridge["address"], host["address"]);
    assert_eq!((&bridge["promiscuity"], &bridge["mtu"]), (&json!(0), &json!(1450)));
    assert_eq!((&host["master"], &host["mtu"]), (&json!("br0"), &json!(1450)));
    assert_eq!(host["linkinfo"]["info_slave_data"]["hairpin"], true);
    assert_eq!(on_bridge(), ["10.1.2.1/24", "fd00:1::1/64"]);

    let eth0: Value = serde_json::from_str(&pod.ip(&["-j", "address", "show", "eth0"])).unwrap();
    assert_eq!(eth0[0]["operstate"], "UP", "usable on return");
    assert_eq!(eth0[0]["mtu"], 1450);
    assert_eq!(eth0[0]["address"], result["interfaces"][2]["mac"]);
    assert_eq!(addresses(&eth0[0]), ["10.1.2.2/24", "fd00:1::2/64"]);
    // (The kernel settles the link-local one in its own time: with accept_dad 0, in a moment.)
    let waits = |address: &&Value| address["scope"] == "global" && address["tentative"] == true;
    assert_eq!(
        eth0[0]["addr_info"].as_array().unwrap().iter().find(waits),
        None,
        "waits for duplicate address detection"
    );
    assert!(pod.ip(&["route"]).contains("default via 10.1.2.1 dev eth0"));
    assert!(pod.ip(&["-6", "route"]).contains("default via fd00:1::1 dev eth0"));
    let sysctl = |key: &str| testkit::output(pod.command("cat").arg(format!("/proc/sys/net/{key}")));
    assert_eq!((sysctl("ipv4/conf/eth0/arp_notify"), sysctl("ipv6/conf/eth0/accept_dad")), ("1".into(), "0".into()));
    let forwards = |key: &str| testkit::output(Command::new("cat").arg(format!("/proc/sys/net/{key}")));
    assert_eq!((forwards("ipv4/ip_forward"), forwards("ipv6/conf/all/forwarding")), ("1".into(), "1".into()));

    node.del(&conf, "a", &pod);
    assert_eq!(node.links(), ["br0"]);
    assert_eq!(node.link("br0")["address"], bridge["address"], "the MAC stays when the last port goes");
    assert_eq!(node.link("br0")["mtu"], 1450);
    assert!(!pod.ip(&["link"]).contains("eth0"));
    assert!(node.leased().is_empty());
}

// Behaviour 16: the result in each version, and DEL with it as prevResult.
#[test]
fn every_version_has_its_result() {
    let node = Node::new();
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Pod::new();
        let mut conf = node.conf(json!({"cniVersion": version}));
        let result = node.add(&conf, "a", &pod);
        assert_eq!(result["cniVersion"], version);
        let address = if version < "0.3.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        assert!(address.as_str().unwrap().starts_with("10.1.2."), "{result}");
        assert_eq!(result["ips"][0]["version"] == "4", ("0.3.0".."1.0.0").contains(&version));
        conf["prevResult"] = result;
        node.del(&conf, "a", &pod);
        assert!(node.leased().is_empty(), "{version}");
    }
}

// Behaviours 27, 28.
#[test]
fn a_bridge_that_is_there_is_used_and_another_device_is_not() {
    let node = Node::new();
    testkit::run(Command::new("ip").args(["link", "add", "br0", "type", "bridge"]));
    let before = node.link("br0")["ifindex"].clone();
    let pod = Pod::new();
    node.add(&node.conf(json!({})), "a", &pod);
    assert_eq!(node.link("br0")["ifindex"], before);
    testkit::run(Command::new("ip").args(["link", "add", "other", "type", "veth", "peer", "name", "rehto"]));
    let refused = call("ADD", &node.conf(json!({"bridge": "other"})), "b", &Pod::new().path());
    assert!(refused.message().contains(r#""other" already exists but is not a bridge"#), "{refused:?}");
    assert_eq!(node.leased(), ["10.1.2.2"], "the lease of the refused one is freed");
}

// Behaviours 37, 38.
#[test]
fn without_ipam_the_pod_gets_a_link_and_no_address() {
    let node = Node::new();
    let pod = Pod::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "podnet", "type": "cni-bridge", "bridge": "br0"});
    let result = node.add(&conf, "a", &pod);
    assert!(result.get("ips").is_none());
    let eth0: Value = serde_json::from_str(&pod.ip(&["-j", "address", "show", "eth0"])).unwrap();
    assert_eq!((&eth0[0]["operstate"], addresses(&eth0[0]).len()), (&json!("UP"), 0));
    node.del(&conf, "a", &pod);
    assert_eq!(node.links(), ["br0"]);

    let old = json!({"cniVersion": "0.2.0", "name": "podnet", "type": "cni-bridge", "bridge": "br0"});
    let refused = call("ADD", &old, "a", &pod.path());
    assert_eq!(refused.message(), "cannot convert: no valid IP addresses");
    assert_eq!(node.links(), ["br0"], "undone");
}

// Behaviour 51.
#[test]
fn an_address_in_the_way_is_refused_unless_force_address_replaces_it() {
    let node = Node::new();
    for args in [
        &["link", "add", "br0", "type", "bridge"][..],
        &["address", "add", "10.9.9.1/24", "dev", "br0"],
        &["address", "add", "fd00:9::1/64", "dev", "br0"],
    ] {
        testkit::run(Command::new("ip").args(args));
    }
    let pod = Pod::new();
    let refused = call("ADD", &node.dual(json!({})), "a", &pod.path());
    assert!(refused.message().contains("already has an IP address different from 10.1.2.1/24"), "{refused:?}");
    assert_eq!((node.links(), node.leased().len()), (vec!["br0".to_owned()], 0));
    node.add(&node.dual(json!({"forceAddress": true})), "a", &pod);
    let now = on_bridge();
    assert!(now.contains(&"10.1.2.1/24".into()) && !now.contains(&"10.9.9.1/24".into()), "{now:?}");
    assert!(now.contains(&"fd00:9::1/64".into()), "an IPv6 subnet that does not overlap is not in the way: {now:?}");
}

// Behaviours 52, 62.
#[test]
fn promiscuous_mode_and_port_isolation_are_set() {
    let node = Node::new();
    let pod = Pod::new();
    let result = node.add(&node.conf(json!({"promiscMode": true, "portIsolation": true})), "a", &pod);
    assert!(node.link("br0")["flags"].to_string().contains("PROMISC"));
    let host = node.link(result["interfaces"][1]["name"].as_str().unwrap());
    assert_eq!(host["linkinfo"]["info_slave_data"]["isolated"], true);
    assert_eq!(host["linkinfo"]["info_slave_data"]["hairpin"], false);
}

// Behaviours 19, 36, 47 to 49, 76, 82.
#[test]
fn what_the_runtime_asks_for_is_given() {
    let node = Node::new();
    let pod = Pod::new();
    let resolv = node.dir.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 192.0.2.53\nsearch pods.example\n").unwrap();
    let conf = node.conf(json!({
        "ISGATEWAY": true,
        "ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.7.0/24", "gw": "10.1.2.9"}], "resolvConf": resolv},
        "args": {"cni": {"mac": "02:00:00:00:00:01"}},
        "RuntimeConfig": {"Mac": "02:00:00:00:00:02", "ips": ["10.1.2.50"]},
    }));
    let result = node.add(&conf, "a", &pod);
    assert_eq!(result["ips"][0]["address"], "10.1.2.50/24");
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:02");
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "192.168.7.0/24", "gw": "10.1.2.9"}]));
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["pods.example"]}));
    let routes = pod.ip(&["route"]);
    assert!(routes.contains("default via 10.1.2.1") && routes.contains("192.168.7.0/24 via 10.1.2.9"), "{routes}");
    assert_eq!(on_bridge(), ["10.1.2.1/24"]);
}

// Behaviours 57, 58.
#[test]
fn check_passes_after_add_and_names_what_was_broken_since() {
    let node = Node::new();
    let breaks: &[(&str, &[&str])] = &[
        ("is missing", &["pod", "link", "delete", "eth0"]),
        ("is down", &["pod", "link", "set", "eth0", "down"]),
        ("lost its address 10.1.2.", &["pod", "address", "flush", "dev", "eth0"]),
        ("lost its route to 0.0.0.0/0", &["pod", "route", "delete", "default"]),
        ("MAC address", &["pod", "link", "set", "eth0", "address", "02:00:00:00:00:55"]),
        ("lost its address 10.1.2.1/24", &["node", "address", "flush", "dev", "br0"]),
        ("not a port of the bridge", &["node", "link", "set", "HOST", "nomaster"]),
        ("the interface br0 has the MAC address", &["node", "link", "set", "br0", "address", "02:00:00:00:00:66"]),
    ];
    for (words, change) in breaks {
        let pod = Pod::new();
        let mut conf = node.dual(json!({"ipMasq": true}));
        let result = node.add(&conf, "a", &pod);
        assert!(call("CHECK", &conf, "a", &pod.path()).message().contains("Required prevResult missing"));
        conf["prevResult"] = result.clone();
        let fine = call("CHECK", &conf, "a", &pod.path());
        assert!(fine.ok && fine.text.is_empty(), "{fine:?}");
        let host = result["interfaces"][1]["name"].as_str().unwrap();
        let args: Vec<_> = change[1..].iter().map(|arg| if *arg == "HOST" { host } else { arg }).collect();
        match change[0] {
            "pod" => drop(pod.ip(&args)),
            _ => testkit::run(Command::new("ip").args(&args)),
        }
        let broken = call("CHECK", &conf, "a", &pod.path());
        assert!(broken.message().contains(words), "{change:?}: {broken:?}");
        node.del(&conf, "a", &pod);
        testkit::run(Command::new("ip").args(["link", "delete", "br0"]));
    }
}

#[test]
fn check_misses_a_lease_a_masquerade_and_another_sandbox() {
    let node = Node::new();
    let pod = Pod::new();
    let mut conf = node.conf(json!({"ipMasq": true}));
    conf["prevResult"] = node.add(&conf, "a", &pod);
    let message = |pod: &Pod| call("CHECK", &conf, "a", &pod.path()).message();
    assert!(message(&Pod::new()).contains("prevResult has eth0 in"));
    testkit::run(Command::new("nft").args(["delete", "table", "inet", "cni-bridge/podnet"]));
    assert!(message(&pod).contains("nftables table inet cni-bridge/podnet is missing"));
    std::fs::remove_file(node.leases().join("10.1.2.2")).unwrap();
    assert!(message(&pod).contains("host-local: Failed to find address added by container a"));
}

// Behaviours 67 to 71.
#[test]
fn del_succeeds_whatever_is_left() {
    let node = Node::new();
    let conf = node.conf(json!({"ipMasq": true}));
    let plain = node.dir.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let gone = format!("/proc/{}/ns/net", i32::MAX);
    assert!(call("DEL", &conf, "never", "").ok, "never added");
    assert!(!node.leases().exists(), "a DEL makes nothing");
    for netns in ["", &gone, "/var/run/netns/gone", plain.to_str().unwrap(), "/proc/self/ns/mnt"] {
        let pod = Pod::new();
        node.add(&conf, "a", &pod);
        for time in ["first", "second"] {
            let done = call("DEL", &conf, "a", netns);
            assert!(done.ok && done.text.is_empty(), "{time} DEL with {netns:?}: {done:?}");
            assert_eq!((node.links(), node.leased().len()), (vec!["br0".to_owned()], 0), "{time} DEL with {netns:?}");
        }
        assert_eq!(node.ruleset(), "", "{netns}");
    }
    let pod = Pod::new();
    node.add(&conf, "a", &pod);
    drop(pod); // the kernel removes the pair with the namespace
    let mut broken = conf.clone();
    broken["prevResult"] = json!({"cniVersion": "9.9.9", "ips": 5});
    broken["ipam"]["subnet"] = json!("not a subnet");
    assert!(call("DEL", &broken, "a", "").ok, "what was leased is freed whatever has become of the configuration");
    assert!(node.leased().is_empty());
}

#[test]
fn del_removes_nobody_elses_interface() {
    let node = Node::new();
    let pod = Pod::new();
    pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    let conf = node.conf(json!({}));
    let refused = call("ADD", &conf, "a", &pod.path());
    // Behaviour 72.
    assert!(refused.message().contains("already exists"), "{refused:?}");
    assert!(node.links().is_empty() && node.leased().is_empty(), "refused before anything was made");
    node.del(&conf, "a", &pod);
    assert!(pod.ip(&["link"]).contains("eth0@other"), "it is not ours");

    // Nor one that leads to another bridge of the node.
    let elsewhere = Pod::new();
    node.add(&node.conf(json!({"name": "other", "bridge": "br1"})), "a", &elsewhere);
    node.add(&conf, "b", &Pod::new());
    node.del(&conf, "a", &elsewhere);
    assert!(elsewhere.ip(&["link"]).contains("eth0"), "it is another network's");
}

// A point-to-point plugin's pair has no bridge; to a missing bridge belongs nothing either.
#[test]
fn del_without_its_bridge_leaves_a_pair_without_one() {
    let node = Node::new();
    let pod = Pod::new();
    let conf = node.conf(json!({}));
    node.add(&conf, "another", &pod);
    let host = node.links().into_iter().find(|name| name != "br0").unwrap();
    for args in [&["link", "set", &host, "name", "ptp0"][..], &["link", "delete", "br0"]] {
        testkit::run(Command::new("ip").args(args));
    }
    assert!(call("ADD", &conf, "a", &pod.path()).message().contains("already exists"));
    node.del(&conf, "a", &pod);
    assert_eq!(node.links(), ["ptp0"]);
    assert!(pod.ip(&["link"]).contains("eth0"), "what an ADD was refused for is not its DEL's to remove");
}

// The numbers of the ends of a pair say nothing of where they are: here the same ones as another pod's, by chance.
#[test]
fn del_is_not_misled_by_a_pair_that_leads_to_a_third_namespace() {
    let node = Node::new();
    let (ours, foreign, third) = (Pod::new(), Pod::new(), Pod::new());
    let conf = node.conf(json!({}));
    let result = node.add(&conf, "ours", &ours);
    let host = node.link(result["interfaces"][1]["name"].as_str().unwrap())["ifindex"].to_string();
    let end: Value = serde_json::from_str(&ours.ip(&["-j", "link", "show", "eth0"])).unwrap();
    let (end, netns) = (end[0]["ifindex"].to_string(), foreign.path());
    let far = ["link", "add", "far0", "index", &host, "type", "veth", "peer", "name", "eth0", "index", &end];
    third.ip(&[&far[..], &["netns", &netns]].concat());
    node.del(&conf, "foreign", &foreign);
    assert!(ours.ip(&["link"]).contains("eth0"), "another pod's pair was taken for it");
}

#[test]
fn check_minds_only_what_add_made() {
    let node = Node::new();
    let pod = Pod::new();
    // A gateway that is link-local, a route with host bits, and what a later plugin added.
    let ranges = json!([[{"subnet": "fd00:1::/64", "gateway": "fe80::1"}]]);
    let mut conf =
        node.conf(json!({"isGateway": true, "ipam": {"ranges": ranges, "routes": [{"dst": "192.168.5.7/16"}]}}));
    let mut result = node.add(&conf, "a", &pod);
    result["interfaces"].as_array_mut().unwrap().push(json!({"name": "net1", "sandbox": pod.path()}));
    let other = json!({"address": "172.30.0.5/24", "gateway": "172.30.0.1", "interface": 3});
    result["ips"].as_array_mut().unwrap().push(other);
    conf["prevResult"] = result;
    let done = call("CHECK", &conf, "a", &pod.path());
    assert!(done.ok, "{done:?}");
    testkit::run(Command::new("ip").args(["address", "delete", "fe80::1/64", "dev", "br0"]));
    assert!(call("CHECK", &conf, "a", &pod.path()).message().contains("lost its address fe80::1/64"));
}

// An ADD killed between making the bridge and setting it up, or a bridge a person made.
#[test]
fn a_bridge_found_down_takes_no_router_advertisements_once_up() {
    let node = Node::new();
    testkit::run(Command::new("ip").args(["link", "add", "br0", "type", "bridge"]));
    node.add(&node.conf(json!({})), "a", &Pod::new());
    assert_eq!(testkit::output(Command::new("cat").arg("/proc/sys/net/ipv6/conf/br0/accept_ra")), "0");
}

// Behaviour 77.
#[test]
fn two_networks_of_one_pod_are_independent() {
    let node = Node::new();
    let pod = Pod::new();
    let first = node.conf(json!({"ipMasq": true}));
    let second =
        node.conf(json!({"name": "other", "bridge": "br1", "ipMasq": true, "ipam": {"subnet": "10.9.0.0/24"}}));
    node.add(&first, "a", &pod);
    let mut add = common::command("ADD", "a", &pod.path());
    let answer = common::feed(add.env("CNI_IFNAME", "net1"), second.to_string().as_bytes());
    assert_eq!(answer.json()["ips"][0]["address"], "10.9.0.2/24");
    node.del(&first, "a", &pod);
    assert!(pod.ip(&["link"]).contains("net1"));
    let rules = node.ruleset();
    assert!(rules.contains("cni-bridge/other") && !rules.contains("cni-bridge/podnet"), "{rules}");
}

#[test]
fn gc_removes_what_is_not_listed_and_nothing_without_a_list() {
    let node = Node::new();
    let pods = [Pod::new(), Pod::new(), Pod::new()];
    let mut conf = node.conf(json!({"ipMasq": true}));
    for (id, pod) in ["a", "b", "c"].iter().zip(&pods) {
        node.add(&conf, id, pod);
    }
    assert!(call("GC", &conf, "", "").ok);
    assert_eq!((node.links().len(), node.leased().len()), (4, 3), "an absent list destroys nothing");
    // One whose lease is gone is found by its link.
    std::fs::remove_file(node.leases().join("10.1.2.4")).unwrap();
    conf["cni.dev/valid-attachments"] =
        json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth1"}]);
    let done = call("GC", &conf, "", "");
    assert!(done.ok && done.text.is_empty(), "{done:?}");
    assert_eq!((node.links().len(), node.leased()), (2, vec!["10.1.2.2".to_owned()]));
    assert!(pods[0].ip(&["link"]).contains("eth0") && !pods[2].ip(&["link"]).contains("eth0"));
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "a"}]);
    assert!(call("GC", &conf, "", "").message().contains("cni.dev/valid-attachments[0].ifname is missing"));
    assert_eq!(node.leased(), ["10.1.2.2"], "a list that cannot be read destroys nothing");
    conf["cni.dev/valid-attachments"] = json!([]);
    assert!(call("GC", &conf, "", "").ok);
    assert_eq!((node.links(), node.leased().len(), node.ruleset()), (vec!["br0".to_owned()], 0, String::new()));
}

#[test]
fn status_tells_a_full_network() {
    let node = Node::new();
    let conf = node.conf(json!({"ipam": {"subnet": "10.1.2.0/30"}, "ipMasq": true}));
    assert!(call("STATUS", &conf, "", "").ok);
    let pod = Pod::new();
    node.add(&conf, "a", &pod);
    let full = call("STATUS", &conf, "", "");
    assert_eq!(full.code(), 50);
    node.del(&conf, "a", &pod);
    assert!(call("STATUS", &conf, "", "").ok);
}
