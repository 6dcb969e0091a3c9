//! Type firewall. Behaviour 103.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::chain::{Chain, Whose};
use common::{Node, Pod, call, merge, reference};
use serde_json::{Value, json};

/// A node that need not wait for the duplicate address detection of its link-local addresses: until then it asks
/// nobody for a neighbour.
fn node() -> Node {
    let node = Node::new();
    sh("echo 0 > /proc/sys/net/ipv6/conf/default/dad_transmits");
    node
}

/// A network of its own bridge, dual stack: 10.1.N.0/24 and fd00:N::/64 on brN, then firewall.
fn network(node: &Node, number: u32, firewall: Value) -> Chain {
    let mut plugin = json!({"type": "firewall"});
    merge(&mut plugin, firewall);
    let bridge = json!({"type": "bridge", "bridge": format!("br{number}"), "isDefaultGateway": true, "ipam": {
        "type": "host-local", "dataDir": node.dir.path().join("leases"),
        "ranges": [[{"subnet": format!("10.1.{number}.0/24")}], [{"subnet": format!("fd00:{number}::/64")}]]}});
    Chain { name: format!("net{number}"), ..Chain::new(Whose::Ours, "1.0.0", vec![bridge, plugin]) }
}

fn sh(command: &str) -> String {
    testkit::output(Command::new("sh").args(["-c", command]))
}

/// A host beside the node: 192.0.2.2 and 2001:db8::2, that knows the way to the pods.
fn world() -> Pod {
    let world = Pod::new();
    testkit::run(world.command("sh").args(["-c", "echo 0 > /proc/sys/net/ipv6/conf/default/dad_transmits"]));
    sh(&format!("ip link add up0 type veth peer name down0 netns {}", world.path()));
    sh("ip address add 192.0.2.1/24 dev up0; ip address add 2001:db8::1/64 dev up0 nodad; ip link set up0 up; \
        echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    for args in [
        "address add 192.0.2.2/24 dev down0",
        "address add 2001:db8::2/64 dev down0 nodad",
        "link set down0 up",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
    ] {
        world.ip(&args.split(' ').collect::<Vec<_>>());
    }
    world
}

const WORLD: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// Whether an address answers. For one that should there is patience: on a busy machine answers are late.
fn answers(from: &Pod, to: &str, should: bool) -> bool {
    let (tries, seconds) = if should { (3, 20) } else { (1, 1) };
    (0..tries).any(|_| from.pings_within(to, seconds))
}

/// Of these addresses, exactly the expected ones answer.
fn reaches(from: &Pod, addresses: &[&str], expected: &[&str], words: &str) {
    // All at once: those that do not answer are waited for.
    let reached: Vec<&str> = std::thread::scope(|scope| {
        let pings: Vec<_> = addresses
            .iter()
            .map(|to| scope.spawn(move || answers(from, to, expected.contains(to)).then_some(*to)))
            .collect();
        pings.into_iter().filter_map(|ping| ping.join().unwrap()).collect()
    });
    assert_eq!(reached, expected, "{words}");
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

/// As Docker and ufw leave it.
fn close_forward() {
    sh("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
}

#[test]
fn a_pod_reaches_the_world_past_a_forward_policy_of_drop_and_not_the_world_it() {
    let node = node();
    close_forward();
    let before = (node.ruleset(), sh("iptables -S; ip6tables -S"));
    let world = world();
    let net = network(&node, 1, json!({}));
    let pod = Pod::new();
    let bridged = net.whose.call("ADD", &net.conf(0, &Value::Null), "a", &pod.path()).json();
    reaches(&pod, &WORLD, &[], "without it nothing passes");
    let added = net.whose.call("ADD", &net.conf(1, &bridged), "a", &pod.path());
    assert!(added.ok, "{added:?}");
    assert_eq!(added.json(), bridged, "the result is the one before");
    reaches(&pod, &WORLD, &WORLD, "");
    let own = addresses(&bridged);
    reaches(&world, &[&own[0], &own[1]], &[], "whoever connects to it is for the node's rules");
    let rules = sh("iptables -S; ip6tables -S");
    assert_eq!(
        rules.matches("-A FORWARD -m mark --mark 0x1000/0x1000").count(),
        2,
        "iptables can still read it: {rules}"
    );
    net.check("a", &pod, &bridged).unwrap();

    let second = Pod::new();
    net.add("b", &second);
    let with_two = node.ruleset();
    assert_eq!(sh("iptables -S; ip6tables -S"), rules, "no rule a pod");
    for _ in 0..2 {
        net.del("a", &pod.path(), &bridged);
    }
    assert!(!node.ruleset().contains(&own[0]) && with_two.contains(&own[0]), "{}", node.ruleset());
    reaches(&second, &WORLD, &WORLD, "");
    net.del("b", "", &Value::Null);
    assert_eq!((node.ruleset(), sh("iptables -S; ip6tables -S")), before, "with the last one everything goes");
}

#[test]
fn the_mark_is_off_when_a_packet_has_passed() {
    let node = node();
    close_forward();
    let _world = world();
    let net = network(&node, 1, json!({}));
    let pod = Pod::new();
    net.add("a", &pod);
    sh("nft 'add table ip late; add chain ip late post { type filter hook postrouting priority 0; }; \
        add rule ip late post oifname up0 meta mark != 0 drop'");
    reaches(&pod, &WORLD[..1], &WORLD[..1], "");
    // Others' bits of the mark stay.
    sh(
        "nft 'add chain ip late pre { type filter hook prerouting priority 0; }; add rule ip late pre meta mark set 0x10; \
        flush chain ip late post; add rule ip late post oifname up0 meta mark != 0x10 drop'",
    );
    reaches(&pod, &WORLD[..1], &WORLD[..1], "");
}

#[test]
fn firewalls_that_reject_at_the_end_of_their_chain_let_pods_pass() {
    let node = node();
    sh(
        "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; \
        add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'",
    );
    let before = node.ruleset();
    let _world = world();
    let net = network(&node, 1, json!({"backend": "firewalld"}));
    let pod = Pod::new();
    let result = net.add("a", &pod);
    reaches(&pod, &WORLD, &WORLD, "");
    // As its reload does; the next ADD mends it.
    sh("nft 'flush chain inet firewalld filter_FORWARD; add rule inet firewalld filter_FORWARD reject'");
    let refused = net.check("a", &pod, &result).unwrap_err();
    assert!(
        refused.message().contains("missing in the chain filter_FORWARD of the table inet firewalld"),
        "{refused:?}"
    );
    net.add("b", &Pod::new());
    net.check("a", &pod, &result).unwrap();
    reaches(&pod, &WORLD, &WORLD, "");
    net.del("a", "", &Value::Null);
    net.del("b", "", &Value::Null);
    assert_eq!(node.ruleset(), before.replace("reject with icmpx admin-prohibited", "reject"));
}

// firewalld 2.1 and newer owns its table: the kernel lets nobody else change it.
#[test]
fn a_table_that_has_an_owner_is_left_to_him() {
    let node = node();
    let mut owner = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let commands = "add table inet firewalld { flags owner; }\n\
        add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }\n";
    owner.stdin.as_mut().unwrap().write_all(commands.as_bytes()).unwrap();
    while !node.ruleset().contains("filter_FORWARD") {
        std::thread::yield_now();
    }
    let before = node.ruleset();
    let net = network(&node, 1, json!({}));
    let pod = Pod::new();
    let result = net.add("a", &pod);
    net.check("a", &pod, &result).unwrap();
    net.del("a", &pod.path(), &result);
    assert_eq!(node.ruleset(), before);
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

#[test]
fn tables_that_somebody_removed_are_made_again_or_missed_by_nobody() {
    let node = node();
    let net = network(&node, 1, json!({}));
    let (one, two) = (Pod::new(), Pod::new());
    let first = net.add("one", &one);
    sh("nft delete table inet cni-bridge-firewall");
    let second = net.add("two", &two);
    net.check("two", &two, &second).unwrap();
    sh("nft delete table inet cni-bridge-firewall");
    net.del("two", &two.path(), &second);
    net.del("one", &one.path(), &first);
    assert_eq!(node.ruleset(), "");
}

#[test]
fn policies_keep_bridges_apart_and_isolated_pods_too() {
    let node = node();
    let world = world();
    let nets = [
        network(&node, 1, json!({"ingressPolicy": "same-bridge"})),
        network(&node, 2, json!({"ingressPolicy": "isolated"})),
        network(&node, 3, json!({"ingressPolicy": "open"})),
    ];
    let pods: Vec<[Pod; 2]> = (0..3).map(|_| [Pod::new(), Pod::new()]).collect();
    let mut results = Vec::new();
    for (net, [one, two]) in nets.iter().zip(&pods) {
        results.push([net.add("one", one), net.add("two", two)]);
    }
    let to = |net: usize, pod: usize| addresses(&results[net][pod]);
    let both = |from: &Pod, to: Vec<String>, words: &str| {
        let to = [to[0].as_str(), to[1].as_str()];
        reaches(from, &to, &to, words);
    };
    let neither = |from: &Pod, to: Vec<String>, words: &str| reaches(from, &[&to[0], &to[1]], &[], words);
    both(&pods[0][0], to(0, 1), "same-bridge: within the bridge");
    neither(&pods[1][0], to(1, 1), "isolated: not within the bridge");
    both(&pods[2][0], to(2, 1), "open: within the bridge");
    // The same way round by the node, as through a published port, where no port of the bridge is in between.
    for net in [0, 1] {
        for (pod, other) in [(0, 1), (1, 0)] {
            let [v4, v6] = to(net, other).try_into().unwrap();
            pods[net][pod].ip(&["route", "add", &v4, "via", &format!("10.1.{}.1", net + 1)]);
            pods[net][pod].ip(&["-6", "route", "add", &v6, "via", &format!("fd00:{}::1", net + 1)]);
        }
    }
    both(&pods[0][0], to(0, 1), "same-bridge: by the node");
    neither(&pods[1][0], to(1, 1), "isolated: by the node");
    neither(&pods[0][0], to(1, 0), "between bridges with a policy");
    neither(&pods[1][0], to(0, 0), "and the other way");
    both(&pods[2][0], to(0, 0), "a bridge without a policy is as the world");
    both(&pods[0][0], to(2, 0), "and the other way");
    for [one, _] in &pods {
        reaches(one, &WORLD, &WORLD, "the world");
    }
    both(&world, to(0, 0), "the world to same-bridge");
    both(&world, to(1, 0), "the world to isolated");
    both(&pods[1][0], vec!["10.1.2.1".into(), "fd00:2::1".into()], "the node itself");
    for (net, (pods, results)) in nets.iter().zip(pods.iter().zip(&results)) {
        for (id, (pod, result)) in ["one", "two"].iter().zip(pods.iter().zip(results)) {
            net.check(id, pod, result).unwrap();
            net.del(id, &pod.path(), result);
        }
    }
    assert_eq!(node.ruleset(), "");
}

#[test]
fn the_administrators_chain_goes_first_and_is_never_changed() {
    let node = node();
    close_forward();
    let world = world();
    let pod = Pod::new();
    let net = network(&node, 1, json!({}));
    let result = net.add("a", &pod);
    let own = addresses(&result);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    sh("nft add rule inet cni-bridge-firewall CNI-ADMIN ip daddr 192.0.2.2 drop");
    reaches(&pod, &WORLD, &WORLD[1..], "what it drops is dropped");
    sh("nft add rule inet cni-bridge-firewall CNI-ADMIN ip6 saddr 2001:db8::2 accept");
    reaches(&world, &own, &own[1..], "what it accepts passes the policy of iptables, too");
    // Another network has an administrator's chain of another name, and both count.
    let other = network(&node, 2, json!({"iptablesAdminChainName": "OTHERS"}));
    let second = Pod::new();
    let second_result = other.add("b", &second);
    sh("nft add rule inet cni-bridge-firewall OTHERS ip6 daddr 2001:db8::2 drop");
    reaches(&second, &WORLD, &[], "");
    net.check("a", &pod, &result).unwrap();
    other.check("b", &second, &second_result).unwrap();

    net.del("a", &pod.path(), &result);
    other.del("b", &second.path(), &second_result);
    let rules = node.ruleset();
    assert!(rules.contains("ip daddr 192.0.2.2 drop") && rules.contains("ip6 daddr 2001:db8::2 drop"), "{rules}");
    let third = Pod::new();
    let again = net.add("c", &third);
    reaches(&third, &WORLD, &[], "they still count");
    sh("nft 'flush chain inet cni-bridge-firewall CNI-ADMIN; flush chain inet cni-bridge-firewall OTHERS'");
    net.del("c", &third.path(), &again);
    assert!(!node.ruleset().contains("cni-bridge"), "{}", node.ruleset());
}

#[test]
fn a_published_port_is_reached_past_a_forward_policy_of_drop() {
    let node = node();
    close_forward();
    let world = world();
    let pod = Pod::new();
    let net = network(&node, 1, json!({}));
    net.add("a", &pod);
    let listener = pod.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
    sh("nft 'add table ip published; add chain ip published pre { type nat hook prerouting priority dstnat; }; \
        add rule ip published pre ip daddr 192.0.2.1 tcp dport 8080 dnat to 10.1.1.2:80'");
    let dial = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        world.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    };
    assert!((0..10).any(|_| dial("192.0.2.1:8080")));
    listener.accept().unwrap();
    assert!(!dial("10.1.1.2:80"), "asked for by its own address it is not published");
}

#[test]
fn gc_removes_the_pods_of_this_network_that_are_not_on_the_list() {
    let node = node();
    let mut nets = [network(&node, 1, json!({})), network(&node, 2, json!({}))];
    nets.iter_mut().for_each(|net| net.version = "1.1.0".into());
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    let results = [nets[0].add("a", &pods[0]), nets[0].add("b", &pods[1]), nets[1].add("c", &pods[2])];
    let only = Chain { plugins: vec![nets[0].plugins[1].clone()], ..nets[0].clone() };
    let held = || {
        let rules = node.ruleset();
        results
            .iter()
            .map(|result| addresses(result).iter().filter(|ip| rules.contains(*ip)).count())
            .collect::<Vec<_>>()
    };
    only.gc(None);
    assert_eq!(held(), [2, 2, 2], "an absent list destroys nothing");
    only.gc(Some(&[("b", "eth0")]));
    assert_eq!(held(), [0, 2, 2]);
    only.gc(Some(&[("b", "eth1")]));
    assert_eq!(held(), [0, 0, 2], "another interface is another attachment");
    only.gc(Some(&[]));
    assert_eq!(held(), [0, 0, 2], "another network's");
    // Of a name longer than a comment.
    let long = "c".repeat(245);
    let previous = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.1.99/24"}]});
    assert!(call("ADD", &only.conf(0, &previous), &long, &pods[0].path()).ok);
    only.gc(Some(&[(&long, "eth0")]));
    assert!(node.ruleset().contains("10.1.1.99"));
    only.gc(Some(&[]));
    assert!(!node.ruleset().contains("10.1.1.99"));
}

// An ADD that was killed after its pod was gone, a node that was set up anew: no DEL came for the first one.
#[test]
fn an_address_given_out_again_is_its_new_pods() {
    let node = node();
    let net = network(&node, 1, json!({}));
    let only = Chain { plugins: vec![net.plugins[1].clone()], version: "1.1.0".into(), ..net };
    let previous = |pod: &Pod| {
        json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
            "ips": [{"interface": 0, "address": "10.1.1.9/24"}]})
    };
    let (old, new) = (Pod::new(), Pod::new());
    for (id, pod) in [("old", &old), ("new", &new)] {
        assert!(call("ADD", &only.conf(0, &previous(pod)), id, &pod.path()).ok);
    }
    let refused = call("CHECK", &only.conf(0, &previous(&old)), "old", &old.path());
    assert!(refused.message().contains("10.1.1.9 is not in the set pods4"), "{refused:?}");
    only.del("old", "", &Value::Null);
    assert!(call("CHECK", &only.conf(0, &previous(&new)), "new", &new.path()).ok, "the late DEL takes nothing of it");
    // A second ADD of the same attachment, with another address.
    let mut moved = previous(&new);
    moved["ips"][0]["address"] = json!("10.1.1.10/24");
    assert!(call("ADD", &only.conf(0, &moved), "new", &new.path()).ok);
    assert!(!node.ruleset().contains("10.1.1.9"), "{}", node.ruleset());
    only.del("new", "", &Value::Null);
    assert_eq!(node.ruleset(), "");
}

// A result may say an address of each of two interfaces, and the first of these may be the pod's.
#[test]
fn an_address_that_is_told_twice_is_entered_and_removed_once_and_a_policy_is_never_for_a_pods_interface() {
    let node = node();
    let net = network(&node, 1, json!({"ingressPolicy": "same-bridge"}));
    let pod = Pod::new();
    let mut previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
        "ips": [{"interface": 0, "address": "10.1.1.9/24"}, {"interface": 7, "address": "10.1.1.9/24"}]});
    let refused = call("ADD", &net.conf(1, &previous), "a", &pod.path());
    assert!(refused.message().contains("interface needs to be set"), "{refused:?}");
    assert_eq!(node.ruleset(), "");
    previous["interfaces"].as_array_mut().unwrap().push(json!({"name": "br1"}));
    assert!(call("ADD", &net.conf(1, &previous), "a", &pod.path()).ok);
    assert!(!node.ruleset().contains("\"eth0\""), "{}", node.ruleset());
    let removed = call("DEL", &net.conf(1, &previous), "a", &pod.path());
    assert!(removed.ok, "{removed:?}");
    assert_eq!(node.ruleset(), "");
}

#[test]
fn check_names_what_was_changed_since() {
    let node = node();
    close_forward();
    let net = network(&node, 1, json!({"ingressPolicy": "isolated"}));
    let pod = Pod::new();
    let result = net.add("a", &pod);
    let own = addresses(&result);
    let check = || net.check("a", &pod, &result).map_err(|answer| answer.message());
    check().unwrap();
    let main = "inet cni-bridge-firewall";
    for (change, back, words) in [
        (
            format!("delete element {main} closed {{ br1 . br1 }}"),
            format!("add element {main} closed {{ br1 . br1 }}"),
            "ingress policy of the bridge br1",
        ),
        ("flush chain ip filter FORWARD".into(), String::new(), "missing in the chain FORWARD of the table ip filter"),
        (format!("delete element {main} pods6 {{ {} }}", own[1]), String::new(), "is not in the set pods6"),
        (format!("flush chain {main} forward"), String::new(), "no rule leads to the chain CNI-ADMIN"),
        // The policy would be there in name alone.
        (format!("flush chain {main} isolation"), String::new(), "isolation has 0 rules instead of 2"),
        (format!("flush chain {main} after"), String::new(), "after has 0 rules instead of 1"),
        (
            "delete table inet cni-bridge-firewall-pods".into(),
            String::new(),
            "the pod a is not in the firewall's tables",
        ),
    ] {
        sh(&format!("nft '{change}'"));
        let said = check().unwrap_err();
        assert!(said.contains(words), "{change}: {said}");
        if back.is_empty() {
            // ADD mends what was flushed; the pod's own entries are a new ADD's.
            let previous = net.conf(1, &result);
            assert!(call("ADD", &previous, "a", &pod.path()).ok, "{change}");
        } else {
            sh(&format!("nft '{back}'"));
        }
        check().unwrap_or_else(|said| panic!("{change}: {said}"));
    }
}

#[test]
fn twenty_first_adds_at_once_make_everything_once() {
    let node = node();
    close_forward();
    let net = network(&node, 1, json!({"ingressPolicy": "same-bridge"}));
    let only = Chain { plugins: vec![net.plugins[1].clone()], ..net };
    let pods: Vec<Pod> = (0..20).map(|_| Pod::new()).collect();
    let all = |verb: &'static str| {
        std::thread::scope(|scope| {
            let calls = pods.iter().enumerate().map(|(index, pod)| {
                let only = &only;
                scope.spawn(move || {
                    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br1"}],
                        "ips": [{"address": format!("10.1.1.{}/24", index + 2)}]});
                    call(verb, &only.conf(0, &previous), &format!("pod{index}"), &pod.path())
                })
            });
            calls.collect::<Vec<_>>().into_iter().for_each(|call| {
                let answer = call.join().unwrap();
                assert!(answer.ok, "{answer:?}");
            });
        });
    };
    all("ADD");
    let main = sh("nft list table inet cni-bridge-firewall");
    assert_eq!((main.matches("jump CNI-ADMIN").count(), main.matches("jump isolation").count()), (1, 1), "{main}");
    assert_eq!(main.matches("10.1.1.").count(), 20);
    all("CHECK");
    all("DEL");
    assert!(!node.ruleset().contains("cni-bridge"), "{}", node.ruleset());
}

#[test]
fn what_the_reference_made_is_checked_and_removed() {
    let Some(dir) = reference() else { return };
    let node = node();
    let theirs = Chain { whose: Whose::Reference(dir), ..network(&node, 1, json!({"backend": "iptables"})) };
    let ours = Chain { whose: Whose::Ours, ..theirs.clone() };
    let (old, stays) = (Pod::new(), Pod::new());
    let result = theirs.add("old", &old);
    let kept = theirs.add("stays", &stays);
    let of = |result: &Value| {
        let rules = sh("iptables -S CNI-FORWARD; ip6tables -S CNI-FORWARD");
        addresses(result).iter().map(|ip| rules.matches(&format!("{ip}/")).count()).sum::<usize>()
    };
    assert_eq!((of(&result), of(&kept)), (4, 4));
    assert!(ours.whose.call("CHECK", &ours.conf(1, &result), "old", &old.path()).ok);
    ours.del("old", &old.path(), &result);
    assert_eq!((of(&result), of(&kept)), (0, 4), "and nothing of another pod");
    let refused = ours.whose.call("CHECK", &ours.conf(1, &result), "old", &old.path());
    assert!(refused.message().contains("is not in the firewall's tables"), "{refused:?}");
    // The reference forgives what it does not find.
    let pod = Pod::new();
    let made = ours.add("new", &pod);
    let done = theirs.whose.call("DEL", &theirs.conf(1, &made), "new", &pod.path());
    assert!(done.ok, "{done:?}");
}

#[test]
fn what_an_administrator_wrote_for_the_reference_still_counts() {
    let Some(dir) = reference() else { return };
    let node = node();
    close_forward();
    let _world = world();
    let ours = network(&node, 1, json!({}));
    let theirs = Chain { whose: Whose::Reference(dir), ..ours.clone() };
    theirs.add("old", &Pod::new());
    sh("iptables -A CNI-ADMIN -d 192.0.2.2 -j DROP");
    let pod = Pod::new();
    ours.add("new", &pod);
    reaches(&pod, &WORLD, &WORLD[1..], "what its chain drops is dropped");
}

#[test]
fn what_cannot_be_served_is_named() {
    let node = node();
    let net = network(&node, 1, json!({"ingressPolicy": "same-bridge"}));
    let pod = Pod::new();
    let add = |version: &str, previous: &Value| {
        call("ADD", &Chain { version: version.into(), ..net.clone() }.conf(1, previous), "a", &pod.path())
    };
    assert!(add("1.0.0", &Value::Null).message().contains("missing prevResult from earlier plugin"));
    assert_eq!(add("0.3.1", &json!({"cniVersion": "0.3.1"})).code(), 1);
    let bare = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.1.9/24"}]});
    assert!(add("1.0.0", &bare).message().contains("interface needs to be set for ingress"));
    let unknown = network(&node, 1, json!({"ingressPolicy": "nobody"}));
    assert!(
        call("ADD", &unknown.conf(1, &bare), "a", &pod.path()).message().contains("unknown ingress policy: \"nobody\"")
    );
    assert_eq!(node.ruleset(), "");
    let status = Chain { version: "1.1.0".into(), ..net };
    assert!(call("STATUS", &status.conf(1, &Value::Null), "a", "").ok);
}
