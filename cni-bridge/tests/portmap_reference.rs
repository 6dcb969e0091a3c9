//! Host ports on a node that moves over from the reference plugins: each one's DEL, and what passes meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::Command;

use common::chain::{Chain, Whose};
use common::world::{World, converse, dial, listen_at, reaches};
use common::{Node, Pod, reference};
use serde_json::{Value, json};

fn chain(node: &Node, whose: Whose, port: u16) -> Chain {
    let ipam = json!({"type": "host-local", "dataDir": node.dir.path().join("leases"),
        "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]});
    let bridge = json!({"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let mapping = |protocol: &str| json!({"hostPort": port, "containerPort": 80, "protocol": protocol});
    let offers = json!({"portMappings": [mapping("tcp"), mapping("udp")]});
    Chain::new(whose, "1.0.0", vec![bridge, portmap]).offering(offers)
}

/// Whether what the reference makes can be seen: `iptables-nft`, and its modules in the kernel.
fn iptables_nft() -> bool {
    let is_nft = testkit::output(Command::new("iptables").arg("-V")).contains("nf_tables");
    let ways = ["-m comment --comment x -m multiport -p tcp --dports 1", "-m addrtype --dst-type LOCAL"];
    let works = ways.iter().all(|way| {
        let rule = format!("-t nat -A OUTPUT {way} -j ACCEPT");
        testkit::attempt(Command::new("iptables").args(rule.split(' '))).status.success()
    });
    testkit::attempt(Command::new("iptables").args(["-t", "nat", "-F"]));
    if !is_nft || !works {
        testkit::skip("iptables is not iptables-nft, or the kernel lacks its matches multiport and addrtype");
    }
    is_nft && works
}

/// The lines of the rules that are about one pod.
fn traces(node: &Node) -> Vec<String> {
    node.ruleset()
        .lines()
        .filter(|line| line.contains("CNI-DN-") || line.contains("id: \""))
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_the_reference_mapped_goes_with_our_del_of_the_same_pod_and_no_other() {
    let Some(dir) = reference() else { return };
    let node = Node::new();
    if !iptables_nft() {
        return;
    }
    let world = World::new();
    let (a, b) = (Pod::new(), Pod::new());
    let theirs = |port| chain(&node, Whose::Reference(dir.clone()), port);
    let ours = |port| chain(&node, Whose::Ours, port);
    let result = theirs(1000).add("a", &a);
    let only_a = traces(&node).len();
    let other = theirs(2000).add("b", &b);
    let both = traces(&node).len();
    assert!(only_a > 0 && both > only_a, "{}", node.ruleset());
    ours(1000).del("a", &a.path(), &result);
    assert_eq!(traces(&node).len(), both - only_a, "{:#?}", traces(&node));
    let listener = b.inside(|| listen_at(80));
    converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", 2000)));
    assert!(!world.host.inside(|| reaches("192.0.2.1", 1000)));
    // From the ids alone, and again.
    ours(2000).offering(json!({})).del("b", "", &other);
    assert_eq!(traces(&node), Vec::<String>::new());
    ours(2000).del("b", "", &Value::Null);
    drop(result);
}

#[test]
fn pods_of_both_are_reached_beside_each_other() {
    let Some(dir) = reference() else { return };
    let node = Node::new();
    if !iptables_nft() {
        return;
    }
    let world = World::new();
    let (a, b) = (Pod::new(), Pod::new());
    let (theirs, ours) = (chain(&node, Whose::Reference(dir), 1000), chain(&node, Whose::Ours, 2000));
    let first = theirs.add("a", &a);
    let second = ours.add("b", &b);
    let (to_a, to_b) = (a.inside(|| listen_at(80)), b.inside(|| listen_at(80)));
    for address in ["192.0.2.1", "2001:db8::1"] {
        converse(&to_a, |_| world.host.inside(|| dial(address, 1000)));
        converse(&to_b, |_| world.host.inside(|| dial(address, 2000)));
    }
    for (port, listener) in [(1000, &to_a), (2000, &to_b)] {
        converse(listener, |_| dial("127.0.0.1", port));
        converse(listener, |_| b.inside(|| dial("192.0.2.1", port)));
        converse(listener, |_| a.inside(|| dial("192.0.2.1", port)));
    }
    // Each leaves the other's alone.
    ours.del("b", &b.path(), &second);
    converse(&to_a, |_| world.host.inside(|| dial("192.0.2.1", 1000)));
    theirs.del("a", &a.path(), &first);
    assert_eq!(traces(&node), Vec::<String>::new());
}

/// As the reference's nftables backend (1.6 and later) writes them; Debian 12's does not have it.
#[test]
fn what_the_references_nftables_backend_mapped_goes_too() {
    let node = Node::new();
    let script = node.dir.path().join("rules");
    let mut text = String::new();
    for (family, to) in [("ip", "10.1.2.3"), ("ip6", "[fd00::3]")] {
        text += &format!(
            "table {family} cni_hostport {{\n chain prerouting {{ type nat hook prerouting priority dstnat; }}\n \
             chain hostports {{\n  tcp dport 1000 dnat to {to}:80 comment \"a\"\n  tcp dport 2000 dnat to {to}:80 comment \"b\"\n }}\n \
             chain masquerading {{\n  type nat hook postrouting priority srcnat;\n  masquerade comment \"a\"\n  masquerade comment \"b\"\n }}\n}}\n"
        );
    }
    std::fs::write(&script, text).unwrap();
    testkit::run(Command::new("nft").arg("-f").arg(&script));
    let left = || {
        let rules = node.ruleset();
        ["comment \"a\"", "comment \"b\""].map(|comment| rules.matches(comment).count())
    };
    assert_eq!(left(), [4, 4]);
    chain(&node, Whose::Ours, 1000).del("a", "", &Value::Null);
    assert_eq!(left(), [0, 4]);
    chain(&node, Whose::Ours, 1000).offering(json!({})).del("b", "", &Value::Null);
    assert_eq!(left(), [0, 0]);
}
