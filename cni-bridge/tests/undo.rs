//! A failed ADD leaves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use cni_bridge::plugin::bridge::host_name;
use cni_bridge::spec::Attachment;
use common::{Node, Pod, call};
use serde_json::json;

/// What a node and a pod hold, in words that must not change.
fn picture(node: &Node, pod: &Pod) -> (Vec<String>, Vec<String>, String, String) {
    (node.links(), node.leased(), node.ruleset(), pod.ip(&["-o", "link"]))
}

// Behaviours 50, 89.
#[test]
fn an_exhausted_range_says_so_and_leaves_nothing() {
    let node = Node::new();
    let conf =
        node.conf(json!({"ipMasq": true, "ipam": {"subnet": "10.1.2.0/30", "ranges": [[{"subnet": "fd00:1::/64"}]]}}));
    let (first, second) = (Pod::new(), Pod::new());
    node.add(&conf, "a", &first);
    let before = picture(&node, &second);
    let refused = call("ADD", &conf, "b", &second.path());
    assert_eq!(refused.code(), 100);
    assert!(refused.message().contains("no IP addresses available in range set: 10.1.2.1-10.1.2.2"), "{refused:?}");
    assert!(refused.json()["details"].as_str().unwrap().contains("1 of 1 addresses"), "{refused:?}");
    assert_eq!(picture(&node, &second), before);
    node.del(&conf, "a", &first);
    node.add(&conf, "b", &second);
}

// Each fails at another step: the veth pair (its name is taken), the pod's sysctls (there are none of IPv6 for an
// MTU this small), the pod's routes.
#[test]
fn a_failure_at_any_step_undoes_the_steps_before() {
    let node = Node::new();
    let pod = Pod::new();
    let base = json!({"ipMasq": true, "isDefaultGateway": true});
    node.add(&node.conf(base.clone()), "other", &Pod::new());
    assert!(call("DEL", &node.conf(base.clone()), "other", "").ok, "the bridge stays, so that pictures compare");
    let name = host_name("podnet", &Attachment { container_id: "a".into(), ifname: "eth0".into() });
    let cases = [
        (
            "/proc/sys/net/ipv6/conf/eth0/keep_addr_on_down",
            json!({"mtu": 1000, "isDefaultGateway": false, "ipam": {"ranges": [[{"subnet": "fd00:1::/64"}]]}}),
        ),
        (
            "add the route to 192.168.0.0/16 via 172.16.0.1",
            json!({"ipam": {"routes": [{"dst": "192.168.0.0/16", "gw": "172.16.0.1"}]}}),
        ),
    ];
    for (words, extra) in cases {
        let before = picture(&node, &pod);
        let mut conf = node.conf(base.clone());
        common::merge(&mut conf, extra);
        let refused = call("ADD", &conf, "a", &pod.path());
        assert!(refused.text.contains(words), "{refused:?}");
        assert!(!refused.ok);
        assert_eq!(picture(&node, &pod), before, "{words}");
        node.del(&conf, "a", &pod);
    }
    // A link of that name that somebody else made, or an ADD that was never followed by a DEL.
    testkit::run(Command::new("ip").args(["link", "add", &name, "type", "veth", "peer", "name", "peer0"]));
    let before = picture(&node, &pod);
    let refused = call("ADD", &node.conf(base), "a", &pod.path());
    assert!(
        refused.message().contains(&format!("cannot create the veth pair {name} and eth0: File exists")),
        "{refused:?}"
    );
    assert_eq!(picture(&node, &pod), before, "what was there already is not removed");
}

// Behaviour 78.
#[test]
fn a_second_add_of_the_same_attachment_is_refused_and_the_first_stays() {
    let node = Node::new();
    let (pod, elsewhere) = (Pod::new(), Pod::new());
    let conf = node.conf(json!({"isGateway": true}));
    node.add(&conf, "a", &pod);
    assert!(call("ADD", &conf, "a", &pod.path()).message().contains("already exists"));
    let refused = call("ADD", &conf, "a", &elsewhere.path());
    assert_eq!(
        refused.message(),
        "failed to allocate for range 0: 10.1.2.2 has been allocated to a, duplicate allocation is not allowed"
    );
    assert_eq!(node.leased(), ["10.1.2.2"]);
    assert!(pod.pings("10.1.2.1"));
}
