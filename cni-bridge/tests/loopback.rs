//! Type loopback. Behaviour 106.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::chain::Whose;
use common::{Node, Pod, call, reference};
use serde_json::{Value, json};

/// What containerd calls it with.
fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"})
}

fn is_up(pod: &Pod) -> bool {
    pod.ip(&["-o", "link", "show", "lo"]).contains("<LOOPBACK,UP")
}

#[test]
fn lo_is_up_after_add_and_down_after_del() {
    let _node = Node::new();
    let pod = Pod::new();
    assert!(!is_up(&pod));
    let added = call("ADD", &conf("0.3.1"), "a", &pod.path());
    assert!(added.ok && is_up(&pod), "{added:?}");
    let expected = json!({
        "cniVersion": "0.3.1",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.path()}],
        "ips": [
            {"version": "4", "interface": 0, "address": "127.0.0.1/8"},
            {"version": "6", "interface": 0, "address": "::1/128"},
        ],
        "dns": {},
    });
    assert_eq!(added.json(), expected);
    assert_eq!(call("ADD", &conf("0.3.1"), "a", &pod.path()).json(), expected, "a second time");
    assert!(call("DEL", &conf("0.3.1"), "a", &pod.path()).ok && !is_up(&pod));
    assert!(call("DEL", &conf("0.3.1"), "a", &pod.path()).ok, "a second time");
}

#[test]
fn a_pod_that_is_gone_is_detached() {
    let node = Node::new();
    let plain = node.dir.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    for netns in ["", "/nonexistent", plain.to_str().unwrap()] {
        let done = call("DEL", &conf("0.3.1"), "a", netns);
        assert!(done.ok && done.text.is_empty(), "{netns:?}: {done:?}");
    }
    assert_eq!(call("ADD", &conf("0.3.1"), "a", "/nonexistent").code(), 4);
}

// Called in a namespace that is its own, by mistake, DEL must not cut the node's own loopback off.
#[test]
fn the_nodes_own_lo_is_left_alone() {
    let _node = Node::new();
    let own = format!("/proc/{}/ns/net", nix::unistd::gettid());
    assert_eq!(call("ADD", &conf("0.3.1"), "a", &own).code(), 8);
    assert!(call("DEL", &conf("0.3.1"), "a", &own).ok);
    assert!(testkit::output(std::process::Command::new("ip").args(["link", "show", "lo"])).contains("LOOPBACK,UP"));
}

#[test]
fn the_result_of_plugins_before_is_passed_on() {
    let _node = Node::new();
    let pod = Pod::new();
    let mut conf = conf("1.0.0");
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
        "ips": [{"interface": 0, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}]});
    conf["prevResult"] = previous.clone();
    assert_eq!(call("ADD", &conf, "a", &pod.path()).json(), previous);
    assert!(is_up(&pod));
    // The examples of the specification say no version: then it is the configuration's.
    conf["prevResult"].as_object_mut().unwrap().remove("cniVersion");
    assert_eq!(call("ADD", &conf, "a", &pod.path()).json(), previous);
}

#[test]
fn check_sees_lo_down_and_an_address_lost() {
    let _node = Node::new();
    let pod = Pod::new();
    let mut conf = conf("1.1.0");
    assert!(call("CHECK", &conf, "a", &pod.path()).message().contains("is down"));
    conf["prevResult"] = call("ADD", &conf, "a", &pod.path()).json();
    assert!(call("CHECK", &conf, "a", &pod.path()).ok);
    pod.ip(&["address", "delete", "127.0.0.1/8", "dev", "lo"]);
    let refused = call("CHECK", &conf, "a", &pod.path());
    assert!(refused.message().contains("lost its address 127.0.0.1/8"), "{refused:?}");
}

#[test]
fn an_address_that_is_none_of_a_loopback_is_refused_and_lo_stays_down() {
    let _node = Node::new();
    let pod = Pod::new();
    pod.ip(&["address", "add", "10.9.9.9/32", "dev", "lo"]);
    let refused = call("ADD", &conf("0.3.1"), "a", &pod.path());
    assert!(refused.message().contains("non-loopback address 10.9.9.9/32"), "{refused:?}");
    assert!(!is_up(&pod));
}

#[test]
fn gc_and_status_have_nothing_to_do() {
    let _node = Node::new();
    for verb in ["GC", "STATUS"] {
        let done = call(verb, &conf("1.1.0"), "a", "");
        assert!(done.ok && done.text.is_empty(), "{done:?}");
    }
}

#[test]
fn the_result_is_the_references() {
    let Some(dir) = reference() else { return };
    let _node = Node::new();
    let add = |whose: &Whose| {
        let pod = Pod::new();
        // Under older versions' names the reference writes this version's form, which is its mistake.
        let answer = whose.call("ADD", &conf("1.0.0"), "a", &pod.path());
        assert!(answer.ok, "{answer:?}");
        let mut result = answer.json();
        result["interfaces"][0]["sandbox"].take();
        // The reference 1.1.1 writes an empty "dns" where newer ones write none.
        result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
        (result, is_up(&pod))
    };
    assert_eq!(add(&Whose::Ours), add(&Whose::Reference(dir)));
}
