//! A node that moves over: what the reference left in nf_tables for an attachment goes with our DEL.
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

/// What `nft` lists, but for the empty chains of iptables' tables.
fn traces(node: &Node) -> Vec<String> {
    let all = node.ruleset();
    all.lines().filter(|line| line.contains("CNI-") || line.contains("id: \"")).map(str::to_owned).collect()
}

// Its chains are made by whatever `iptables` is; where that is iptables-legacy they are not in nf_tables.
#[test]
fn masquerading_by_iptables_goes_with_its_pod_and_no_other() {
    let Some(dir) = reference() else { return };
    if !testkit::output(Command::new("iptables").arg("-V")).contains("nf_tables") {
        testkit::skip("iptables is not iptables-nft");
        return;
    }
    let node = Node::new();
    let (a, b) = (Pod::new(), Pod::new());
    let conf = node.dual(json!({"cniVersion": "1.0.0", "ipMasq": true}));
    let mut result = Value::Null;
    for (id, pod) in [("a", &a), ("b", &b)] {
        let added = call_reference(&dir, "ADD", &conf, id, &pod.path());
        assert!(added.ok, "{added:?}");
        result = added.json();
    }
    let mut told = conf.clone();
    told["prevResult"] = result;
    let checked = call("CHECK", &told, "b", &b.path());
    assert!(checked.ok, "it goes on as it is: {checked:?}");
    let both = traces(&node);
    assert!(!both.is_empty(), "{}", node.ruleset());
    // Without the namespace, which is where the reference reads the addresses from.
    let done = call("DEL", &conf, "a", "");
    assert!(done.ok, "{done:?}");
    let left = traces(&node);
    assert_eq!(2 * left.len(), both.len(), "half of it was a's: {left:#?}");
    assert!(left.iter().all(|line| !line.contains("id: \"a\"")), "{left:#?}");
    assert!(call("DEL", &conf, "b", &b.path()).ok && call("DEL", &conf, "b", &b.path()).ok);
    assert_eq!(traces(&node), Vec::<String>::new());
}

/// As the reference's nftables backend (1.6 and later) writes them; Debian 12's does not have it yet.
fn rules_of_nftables_backend(network: &str, id: &str, address: &str) -> String {
    // sha512sum of the network, and of `eth0:<id>`.
    let digits = |text: &str| {
        let sum = testkit::output(Command::new("sh").args(["-c", &format!("printf %s '{text}' | sha512sum")]));
        sum[..16].to_owned()
    };
    let comment = format!("{}-{}, net: {network}, if: eth0, id: {id}", digits(network), digits(&format!("eth0:{id}")));
    format!(
        "add rule inet cni_plugins_masquerade masq_checks ip saddr {address} ip daddr != 10.1.2.0/24 masquerade comment \"{comment}\"\n"
    )
}

#[test]
fn masquerading_by_nftables_goes_with_its_pod_and_with_gc() {
    let node = Node::new();
    let script = node.dir.path().join("rules");
    let rules = [("podnet", "a"), ("podnet", "b"), ("podnet", "c"), ("other", "a")];
    let mut text =
        "add table inet cni_plugins_masquerade\nadd chain inet cni_plugins_masquerade masq_checks\n".to_owned();
    for (number, (network, id)) in rules.iter().enumerate() {
        text += &rules_of_nftables_backend(network, id, &format!("10.1.2.{}", number + 2));
    }
    std::fs::write(&script, text).unwrap();
    testkit::run(Command::new("nft").arg("-f").arg(&script));
    let left = || -> Vec<String> {
        let all = node.ruleset();
        let rules = all.lines().filter_map(|line| Some(line.split_once("net: ")?.1.trim_end_matches('"').to_owned()));
        rules.collect()
    };
    assert_eq!(left().len(), 4);
    let mut conf = node.conf(json!({}));
    assert!(call("DEL", &conf, "a", "").ok);
    assert_eq!(left(), ["podnet, if: eth0, id: b", "podnet, if: eth0, id: c", "other, if: eth0, id: a"]);
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c", "ifname": "eth0"}]);
    assert!(call("GC", &conf, "", "").ok);
    assert_eq!(left(), ["podnet, if: eth0, id: c", "other, if: eth0, id: a"]);
}

// As the reference's `macspoofchk` leaves them.
#[test]
fn its_check_of_mac_addresses_goes_too() {
    let node = Node::new();
    let mut text =
        "add table bridge nat\nadd chain bridge nat PREROUTING { type filter hook prerouting priority -300; }\n"
            .to_owned();
    for id in ["a", "b"] {
        let chain = format!("cni-br-iface-{id}-eth0");
        text += &format!(
            "add chain bridge nat {chain}\nadd chain bridge nat {chain}-mac\n\
             add rule bridge nat PREROUTING iifname veth{id} jump {chain} comment \"macspoofchk-{id}-eth0\"\n\
             add rule bridge nat {chain} jump {chain}-mac\nadd rule bridge nat {chain}-mac ether saddr 02:00:00:00:00:01 return\n\
             add rule bridge nat {chain}-mac drop\n"
        );
    }
    let script = node.dir.path().join("rules");
    std::fs::write(&script, text).unwrap();
    if !testkit::attempt(Command::new("nft").arg("-f").arg(&script)).status.success() {
        testkit::skip("this kernel has no nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE)");
        return;
    }
    assert!(call("DEL", &node.conf(json!({})), "a", "").ok);
    let rules = node.ruleset();
    assert!(!rules.contains("iface-a-eth0") && rules.contains("iface-b-eth0-mac"), "{rules}");
    assert!(call("DEL", &node.conf(json!({})), "b", "").ok);
    assert!(!node.ruleset().contains("cni-br-iface"), "{}", node.ruleset());
}
