//! What `portmap` keeps in the kernel for a pod: made whole, checked, collected, removed whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::net::TcpListener;
use std::process::Command;

use common::chain::{Chain, Whose};
use common::ports::{TCP, chain, mapping, route_localnet};
use common::world::{World, converse, dial, listen_at};
use common::{Answer, Node, Pod};
use serde_json::{Value, json};

fn refused(chain: &Chain, id: &str, pod: &Pod) -> Answer {
    chain.try_add(id, pod).unwrap_err()
}

#[test]
fn a_port_that_another_pod_has_is_refused_with_its_name_until_that_pod_is_gone() {
    let node = Node::new();
    let (first, second) = (Pod::new(), Pod::new());
    let chain = chain(&node, json!({}), &[mapping(TCP, "tcp"), mapping(9090, "udp")]);
    chain.add("first", &first);
    let rules = node.ruleset();
    let answer = refused(&chain, "second", &second);
    assert_eq!(answer.code(), 102);
    assert!(
        answer.message().contains("host port 8080/tcp") && answer.message().contains("podnet first eth0"),
        "{answer:?}"
    );
    assert_eq!(node.ruleset(), rules, "nothing is changed by a refusal");
    chain.del("second", &second.path(), &Value::Null);
    assert_eq!(node.ruleset(), rules, "nor by the DEL that follows it");
    // It dies, and nobody calls DEL; its end of the link goes with its namespace.
    let before = node.links().len();
    drop(first);
    while node.links().len() == before {
        std::thread::yield_now();
    }
    let result = chain.add("second", &second);
    assert!(!node.ruleset().contains("first"), "{}", node.ruleset());
    // The DEL of the first one comes late.
    chain.del("first", "", &Value::Null);
    chain.check("second", &second, &result).unwrap();
    chain.del("second", "", &result);
    assert_eq!(node.ruleset(), "");
}

#[test]
fn a_second_add_of_the_same_attachment_takes_over_what_the_first_left() {
    let node = Node::new();
    let pod = Pod::new();
    let (old, new) =
        (chain(&node, json!({}), &[mapping(1000, "tcp")]), chain(&node, json!({}), &[mapping(2000, "tcp")]));
    let result = old.add("a", &pod);
    let again = new.whose.call("ADD", &new.conf(1, &result), "a", &pod.path());
    assert!(again.ok, "{again:?}");
    let rules = node.ruleset();
    assert!(rules.contains("tcp . 2000") && !rules.contains("tcp . 1000"), "{rules}");
}

// Behaviour 100.
#[test]
fn teardown_is_repeatable_parallel_and_works_from_the_ids_alone() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..20).map(|_| Pod::new()).collect();
    let with = |number: u16| chain(&node, json!({}), &[mapping(1000 + number, "tcp"), mapping(2000 + number, "udp")]);
    let all = |work: &(dyn Fn(u16, &Pod) + Sync)| {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                pods.iter().zip(0..).map(|(pod, number)| scope.spawn(move || work(number, pod))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    };
    for _ in 0..2 {
        all(&|number, pod| drop(with(number).add(&format!("pod{number}"), pod)));
        assert_eq!(node.ruleset().matches("tcp . 10").count(), 40, "two families");
        // No runtimeConfig, no prevResult, no namespace; each three times at once.
        let bare = chain(&node, json!({}), &[]).offering(json!({}));
        all(&|number, _| {
            let del = || bare.del(&format!("pod{number}"), "", &Value::Null);
            std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(del))));
        });
        assert_eq!(node.ruleset(), "");
        assert_eq!(route_localnet(), "0");
    }
}

// Behaviours 93, 94.
#[test]
fn without_mappings_the_result_is_passed_on_and_nothing_is_touched() {
    let node = Node::new();
    let pod = Pod::new();
    let none = chain(&node, json!({}), &[]);
    let result = none.add("a", &pod);
    assert_eq!(node.ruleset(), "");
    none.check("a", &pod, &result).unwrap();
    let some = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    let with = some.whose.call("ADD", &some.conf(1, &result), "a", &pod.path());
    assert_eq!(with.json(), result, "as it was");
    let alone = some.whose.call("ADD", &some.conf(1, &Value::Null), "a", &pod.path());
    assert_eq!(alone.message(), "must be called as chained plugin");
    some.del("a", "", &result);
    some.del("never-attached", "", &Value::Null);
}

// Behaviour 97.
#[test]
fn an_address_without_an_interface_is_the_pods() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    let mut previous = chain.clone().offering(json!({})).add("a", &pod);
    previous["ips"][0].as_object_mut().unwrap().remove("interface");
    previous["ips"][1]["interface"] = json!(9);
    let answer = chain.whose.call("ADD", &chain.conf(1, &previous), "a", &pod.path());
    assert!(answer.ok, "{answer:?}");
    assert_eq!(node.ruleset().matches("tcp . 8080").count(), 2);
    previous["ips"][0]["interface"] = json!(0);
    chain.del("a", "", &previous);
    let answer = chain.whose.call("ADD", &chain.conf(1, &previous), "a", &pod.path());
    assert!(answer.ok, "{answer:?}");
    assert_eq!(node.ruleset().matches("tcp . 8080").count(), 1, "the bridge's address is not the pod's");
}

// Behaviour 102.
#[test]
fn check_misses_what_is_gone_and_sees_what_is_other() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    let table = "ip cni-bridge-hostports";
    for (change, word) in [
        (format!("delete element {table} ports {{ tcp . 8080 }}"), "is missing"),
        (
            format!(
                "delete element {table} ports {{ tcp . 8080 }}; add element {table} ports {{ tcp . 8080 : 10.1.2.9 . 80 }}"
            ),
            "and not of",
        ),
        (format!("flush chain {table} hostports"), "0 rules instead of 4"),
        (format!("delete table {table}"), "0 rules instead of"),
    ] {
        let result = chain.add("a", &pod);
        chain.check("a", &pod, &result).unwrap();
        testkit::run(Command::new("nft").arg(&change));
        let answer = chain.check("a", &pod, &result).unwrap_err();
        assert!(answer.message().contains(word), "{change}: {answer:?}");
        chain.del("a", &pod.path(), &result);
        testkit::attempt(Command::new("nft").args(["flush", "ruleset"]));
    }
}

#[test]
fn a_range_of_ports_is_mapped_and_removed_whole() {
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    let mappings: Vec<_> = (0..1500u16)
        .map(|n| json!({"HostPort": 20_000 + n, "ContainerPort": 30_000 + n, "Protocol": "tcp", "HostIP": ""}))
        .collect();
    let chain = chain(&node, json!({}), &mappings);
    let result = chain.add("a", &pod);
    let listener = pod.inside(|| TcpListener::bind(("::", 31_499)).unwrap());
    converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", 21_499)));
    chain.check("a", &pod, &result).unwrap();
    chain.del("a", "", &result);
    assert_eq!(node.ruleset(), "");
}

// Behaviour 100: GC.
#[test]
fn gc_removes_what_is_not_listed_of_its_own_network_only() {
    let node = Node::new();
    let (a, b, other) = (Pod::new(), Pod::new(), Pod::new());
    let with = |port| chain(&node, json!({}), &[mapping(port, "tcp")]);
    with(1000).add("a", &a);
    with(2000).add("b", &b);
    let mut elsewhere = with(3000);
    elsewhere.name = "other".into();
    elsewhere.plugins[0]["ipam"]["subnet"] = json!("10.9.0.0/24");
    elsewhere.plugins[0]["ipam"]["ranges"] = json!([]);
    elsewhere.plugins[0]["bridge"] = json!("br9");
    elsewhere.add("a", &other);
    let portmap = |valid: Option<Value>| {
        let mut conf = with(1).conf(1, &Value::Null);
        if let Some(valid) = valid {
            conf["cni.dev/valid-attachments"] = valid;
        }
        let answer = Whose::Ours.call("GC", &conf, "", "");
        assert!(answer.ok, "{answer:?}");
        let rules = node.ruleset();
        [1000, 2000, 3000].map(|port| rules.contains(&format!("tcp . {port}")))
    };
    assert_eq!(portmap(None), [true, true, true]);
    assert_eq!(portmap(Some(json!([{"containerID": "b", "ifname": "eth0"}]))), [false, true, true]);
    assert_eq!(portmap(Some(json!([]))), [false, false, true]);
    let status = Whose::Ours.call("STATUS", &with(1).conf(1, &Value::Null), "", "");
    assert!(status.ok, "{status:?}");
}

#[test]
fn type_cni_bridge_maps_ports_in_the_same_call() {
    let node = Node::new();
    let (world, pod, late) = (World::new(), Pod::new(), Pod::new());
    let conf = |mappings: &[Value]| node.dual(json!({"runtimeConfig": {"portMappings": mappings}}));
    let mut mapped = conf(&[mapping(TCP, "tcp")]);
    mapped["prevResult"] = node.add(&mapped, "a", &pod);
    let listener = pod.inside(|| listen_at(80));
    converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", TCP)));
    let checked = common::call("CHECK", &mapped, "a", &pod.path());
    assert!(checked.ok, "{checked:?}");
    // One that is refused leaves nothing of the bridge's part either.
    let before = (node.links(), node.leased(), node.ruleset());
    assert_eq!(common::call("ADD", &conf(&[mapping(TCP, "tcp")]), "late", &late.path()).code(), 102);
    assert!(
        common::call("ADD", &conf(&[mapping(0, "tcp")]), "late", &late.path()).message().contains("port number: 0")
    );
    assert_eq!((node.links(), node.leased(), node.ruleset()), before);
    testkit::run(Command::new("nft").args(["flush", "chain", "ip", "cni-bridge-hostports", "hostports"]));
    assert_eq!(common::call("CHECK", &mapped, "a", &pod.path()).code(), 101);
    mapped["cni.dev/valid-attachments"] = json!([]);
    assert!(common::call("GC", &mapped, "", "").ok);
    assert_eq!((node.ruleset(), node.leased().len()), (String::new(), 0));
    assert!(common::call("STATUS", &conf(&[]), "", "").ok);
    node.del(&mapped, "a", &pod);
}

#[test]
fn a_port_twice_is_refused() {
    let node = Node::new();
    let pod = Pod::new();
    let twice = chain(&node, json!({}), &[mapping(TCP, "tcp"), json!({"hostPort": TCP, "containerPort": 81})]);
    let previous = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.9/24"}]});
    let answer = twice.whose.call("ADD", &twice.conf(1, &previous), "a", &pod.path());
    assert!(answer.message().contains("host port 8080/tcp is mapped twice, to 80 and to 81"), "{answer:?}");
    assert_eq!(node.ruleset(), "");
}
