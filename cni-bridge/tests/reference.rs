//! Beside the reference plugins: what one attached the other detaches, from whatever is left to go by.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Answer, Node, Pod, call, feed, reference};
use serde_json::{Value, json};

fn call_reference(dir: &Path, verb: &str, conf: &Value, id: &str, netns: &str) -> Answer {
    let mut conf = conf.clone();
    conf["type"] = json!("bridge");
    let mut command = Command::new(dir.join("bridge"));
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0").env("CNI_NETNS", netns);
    feed(command.env("CNI_PATH", dir), conf.to_string().as_bytes())
}

/// Debian's reference speaks 1.0.0 at most.
fn conf(node: &Node) -> Value {
    node.dual(json!({"cniVersion": "1.0.0"}))
}

#[test]
fn what_the_reference_attached_is_checked_and_detached() {
    let Some(dir) = reference() else { return };
    let node = Node::new();
    for (told, netns_told) in [(true, true), (false, true), (true, false)] {
        let pod = Pod::new();
        let mut conf = conf(&node);
        let result = call_reference(&dir, "ADD", &conf, "a", &pod.path());
        assert!(result.ok, "{result:?}");
        if told {
            conf["prevResult"] = result.json();
            let checked = call("CHECK", &conf, "a", &pod.path());
            assert!(checked.ok, "{checked:?}");
        }
        let done = call("DEL", &conf, "a", &if netns_told { pod.path() } else { String::new() });
        assert!(done.ok, "{done:?}");
        assert!(node.leased().is_empty(), "leases remain: {:?}", node.leased());
        drop(pod);
        if netns_told {
            assert_eq!(node.links(), ["br0"]);
        }
    }
}

#[test]
fn what_was_attached_here_is_detached_by_the_reference() {
    let Some(dir) = reference() else { return };
    let node = Node::new();
    let pod = Pod::new();
    let mut conf = conf(&node);
    conf["prevResult"] = node.add(&conf, "a", &pod);
    let checked = call_reference(&dir, "CHECK", &conf, "a", &pod.path());
    assert!(checked.ok, "{checked:?}");
    let done = call_reference(&dir, "DEL", &conf, "a", &pod.path());
    assert!(done.ok, "{done:?}");
    assert_eq!((node.links(), node.leased().len()), (vec!["br0".to_owned()], 0));
    // What it does not know of, the hint, harms nobody.
    let next = Pod::new();
    conf.as_object_mut().unwrap().remove("prevResult");
    node.add(&conf, "a", &next);
    node.del(&conf, "a", &next);
    assert!(node.leased().is_empty());
}

#[test]
fn both_lease_from_the_same_files_in_the_same_round() {
    let Some(dir) = reference() else { return };
    let node = Node::new();
    let conf = conf(&node);
    let pods: Vec<Pod> = (0..4).map(|_| Pod::new()).collect();
    let mut given = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let id = format!("pod{number}");
        let result = match number % 2 {
            0 => node.add(&conf, &id, pod),
            _ => call_reference(&dir, "ADD", &conf, &id, &pod.path()).json(),
        };
        given.push(result["ips"][0]["address"].as_str().unwrap().to_owned());
    }
    assert_eq!(given, ["10.1.2.2/24", "10.1.2.3/24", "10.1.2.4/24", "10.1.2.5/24"]);
    assert!(pods[0].pings("10.1.2.5") && pods[3].pings("fd00:1::2"));
}
