//! The rules written by netlink, read back by `nft`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::net::IpAddr;

use cni_bridge::netlink::nft::rule::{state, status};
use cni_bridge::netlink::nft::set::concatenate;
use cni_bridge::netlink::nft::{
    Base, Batch, Element, Exists, Family, Held, Holds, Hook, Is, Key, Kind, NftSocket, Place, Rule, Set, Table, Type,
    Verdict, priority,
};
use common::Node;
use nix::errno::Errno;

fn commit(write: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new("test");
    write(&mut batch);
    NftSocket::open().unwrap().commit(batch).unwrap();
}

fn refused(write: impl FnOnce(&mut Batch)) -> Errno {
    let mut batch = Batch::new("test");
    write(&mut batch);
    NftSocket::open().unwrap().commit(batch).unwrap_err().errno().unwrap()
}

/// What `nft` lists between the braces of the chain `c`.
fn listed(node: &Node, family: Family, rule: Rule) -> String {
    let table = Table::new(family, "t");
    commit(|batch| {
        batch.add_table(table, Exists::Refused, "");
        batch.add_chain(table, "other", Exists::Refused, "");
        batch.add_chain(table, "c", Exists::Refused, "");
        batch.add_rule(table, "c", Place::Last, &rule);
    });
    let ruleset = node.ruleset();
    commit(|batch| batch.delete_table(table));
    let inside = ruleset.split("chain c {").nth(1).unwrap_or_else(|| panic!("{ruleset}"));
    inside.split('}').next().unwrap().trim().to_owned()
}

#[test]
fn rules_are_what_nft_calls_them() {
    let node = Node::new();
    let (ip, ip6, inet, bridge) = (Family::Ip, Family::Ip6, Family::Inet, Family::Bridge);
    let (v4, v6): (IpAddr, IpAddr) = ("10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap());
    let new = Rule::new;
    let cases = [
        (ip, new(ip).source(Is::Equal, "10.1.2.0/24".parse().unwrap()).accept(), "ip saddr 10.1.2.0/24 accept"),
        (ip, new(ip).destination(Is::NotEqual, v4.into()).drop(), "ip daddr != 10.1.2.3 drop"),
        (ip6, new(ip6).source(Is::Equal, "fd00::/64".parse().unwrap()).back(), "ip6 saddr fd00::/64 return"),
        (inet, new(inet).destination(Is::Equal, v6.into()).jump("other"), "ip6 daddr fd00::3 jump other"),
        (inet, new(inet).no_multicast(v4).goto("other"), "ip daddr != 224.0.0.0/4 goto other"),
        (
            inet,
            new(inet).input(Is::Equal, "br0").output(Is::NotEqual, "lo").accept(),
            r#"iifname "br0" oifname != "lo" accept"#,
        ),
        (inet, new(inet).input_index(Is::Equal, 1).accept(), r#"iif "lo" accept"#),
        (inet, new(inet).state(state::ESTABLISHED | state::RELATED).accept(), "ct state established,related accept"),
        (inet, new(inet).state(state::INVALID).drop(), "ct state invalid drop"),
        (inet, new(inet).status(status::DESTINATION_TRANSLATED).accept(), "ct status dnat accept"),
        (inet, new(inet).destination_is_local().jump("other"), "fib daddr type local jump other"),
        (inet, new(inet).destination_port(6, 8080).count().accept(), "tcp dport 8080 counter packets 0 bytes 0 accept"),
        (ip, new(ip).set_mark_bits(0x2000), "meta mark set meta mark | 0x00002000"),
        (ip, new(ip).clear_mark_bits(0x2000), "meta mark set meta mark & 0xffffdfff"),
        (ip, new(ip).mark(0x2000, Is::Equal, 0x2000).accept(), "meta mark & 0x00002000 == 0x00002000 accept"),
        (
            ip,
            new(ip).connection_mark(0xff, Is::NotEqual, 1).set_connection_mark(7),
            "ct mark & 0x000000ff != 0x00000001 ct mark set 0x00000007",
        ),
        (
            bridge,
            new(bridge).link_source(Is::NotEqual, [2, 0, 0, 0, 0, 9]).drop(),
            "ether saddr != 02:00:00:00:00:09 drop",
        ),
        (
            bridge,
            new(bridge).source(Is::Equal, v4.into()).accept().comment("a b"),
            r#"ip saddr 10.1.2.3 accept comment "a b""#,
        ),
        (ip, new(ip).comment("nothing but this"), r#"comment "nothing but this""#),
    ];
    for (family, rule, expected) in cases {
        let said = listed(&node, family, rule);
        // Newer versions of nft write bits that are compared in another way.
        assert!(
            said == expected
                || said.replace("meta mark & 0x00002000 == 0x00002000", "meta mark 0x00002000/0x00002000") == expected,
            "{said}\n{expected}"
        );
    }
}

#[test]
fn translation_needs_a_chain_at_a_hook_and_is_what_nft_calls_it() {
    let node = Node::new();
    for (family, ip, expected) in [
        (Family::Ip, "10.1.2.3", "tcp dport 8080 dnat to 10.1.2.3:80"),
        (Family::Ip6, "fd00::3", "tcp dport 8080 dnat to [fd00::3]:80"),
        (Family::Inet, "10.1.2.3", "tcp dport 8080 dnat ip to 10.1.2.3:80"),
    ] {
        let table = Table::new(family, "t");
        let ip: IpAddr = ip.parse().unwrap();
        commit(|batch| {
            batch.add_table(table, Exists::Refused, "of the test");
            batch.add_base_chain(table, "pre", Base::new(Kind::Nat, Hook::Prerouting, priority::DNAT));
            batch.add_base_chain(table, "post", Base { drop: true, ..Base::new(Kind::Nat, Hook::Postrouting, 101) });
            batch.add_rule(
                table,
                "pre",
                Place::Last,
                &Rule::new(family).destination_port(6, 8080).to_destination(ip, Some(80)),
            );
            batch.add_rule(table, "pre", Place::First, &Rule::new(family).protocol(17).to_destination(ip, None));
            batch.add_rule(table, "post", Place::Last, &Rule::new(family).from_source(ip, None));
            batch.add_rule(table, "post", Place::Last, &Rule::new(family).masquerade());
        });
        let rules = node.ruleset();
        let before = rules.find("meta l4proto").unwrap_or_else(|| panic!("{rules}"));
        assert!(before < rules.find(expected).unwrap_or_else(|| panic!("{expected} is not in {rules}")));
        for line in [
            r#"comment "of the test""#,
            "type nat hook prerouting priority dstnat; policy accept;",
            "type nat hook postrouting priority srcnat + 1; policy drop;",
            "snat ",
            "masquerade",
        ] {
            assert!(rules.contains(line), "{line} is not in {rules}");
        }
        assert_eq!(NftSocket::open().unwrap().table_comment(table).unwrap().as_deref(), Some("of the test"));
        commit(|batch| batch.delete_table(table));
    }
}

#[test]
fn chains_hang_on_the_hooks_of_their_family() {
    let node = Node::new();
    for (family, hook, device, expected) in [
        (Family::Bridge, Hook::Prerouting, None, "type filter hook prerouting priority -300; policy accept;"),
        (Family::Bridge, Hook::Forward, None, "type filter hook forward priority -300; policy accept;"),
        (
            Family::Netdev,
            Hook::Ingress,
            Some("lo"),
            "type filter hook ingress device \"lo\" priority -300; policy accept;",
        ),
        (Family::Inet, Hook::Output, None, "type filter hook output priority raw; policy accept;"),
    ] {
        let table = Table::new(family, "t");
        commit(|batch| {
            batch.add_table(table, Exists::Refused, "");
            batch.add_base_chain(table, "c", Base { device, ..Base::new(Kind::Filter, hook, priority::RAW) });
        });
        let rules = node.ruleset();
        assert!(rules.replace("dstnat", "-300").contains(expected), "{expected} is not in {rules}");
        commit(|batch| batch.delete_table(table));
    }
}

#[test]
fn sets_and_maps_hold_keys_addresses_and_verdicts() {
    let node = Node::new();
    let table = Table::new(Family::Ip, "t");
    let key = |protocol: u8, port: u16| concatenate(&[&[protocol], &port.to_be_bytes()]);
    let to = |ip: [u8; 4], port: u16| Held::Data(concatenate(&[&ip, &port.to_be_bytes()]));
    let ports = [Type::Protocol, Type::Port];
    commit(|batch| {
        batch.add_table(table, Exists::Refused, "");
        batch.add_set(table, &Set { name: "ports", key: &ports, holds: Holds::Data(&[Type::Ipv4, Type::Port]) });
        batch.add_set(table, &Set { name: "inputs", key: &[Type::Interface], holds: Holds::Verdicts });
        batch.add_set(table, &Set { name: "pairs", key: &[Type::Interface, Type::Ipv4], holds: Holds::Nothing });
        batch.add_chain(table, "pod", Exists::Refused, "podnet abc eth0");
        batch.add_base_chain(table, "pre", Base::new(Kind::Nat, Hook::Prerouting, priority::DNAT));
        let rule = Rule::new(Family::Ip);
        batch.add_rule(table, "pre", Place::Last, &rule.clone().decide_by(&[Key::In], "inputs"));
        batch.add_rule(table, "pre", Place::Last, &rule.clone().is_in(&[Key::In, Key::Source], "pairs").accept());
        batch.add_rule(table, "pre", Place::Last, &rule.clone().is_not_in(&[Key::In, Key::Source], "pairs").back());
        batch.add_rule(
            table,
            "pre",
            Place::Last,
            &rule.to_mapped_destination(&[Key::Protocol, Key::DestinationPort], "ports"),
        );
        let jump = Held::Verdict(Verdict::Jump("pod".into()));
        let name = cni_bridge::netlink::nft::rule::interface("veth0");
        batch.add_elements(
            table,
            "inputs",
            Exists::Refused,
            &[Element { key: name.clone(), held: jump, comment: "of abc".into() }],
        );
        batch.add_elements(
            table,
            "ports",
            Exists::Refused,
            &[Element { key: key(6, 8080), held: to([10, 1, 2, 3], 80), comment: "web".into() }],
        );
        batch.add_elements(table, "pairs", Exists::Fine, &[Element::of(concatenate(&[&name, &[10, 1, 2, 3]]))]);
    });
    let rules = node.ruleset();
    for line in [
        "type inet_proto . inet_service : ipv4_addr . inet_service",
        r#"elements = { tcp . 8080 comment "web" : 10.1.2.3 . 80 }"#,
        "type ifname : verdict",
        r#"elements = { "veth0" comment "of abc" : jump pod }"#,
        "type ifname . ipv4_addr",
        r#"elements = { "veth0" . 10.1.2.3 }"#,
        "iifname vmap @inputs",
        "iifname . ip saddr @pairs accept",
        "iifname . ip saddr != @pairs return",
        "dnat ip to meta l4proto . th dport map @ports",
        r#"comment "podnet abc eth0""#,
    ] {
        assert!(rules.contains(line), "{line} is not in {rules}");
    }
    let mut socket = NftSocket::open().unwrap();
    assert_eq!(socket.table_use(table).unwrap(), Some(5), "three sets and two chains");
    let found = socket.element(table, "ports", &key(6, 8080)).unwrap().unwrap();
    assert_eq!((found.comment.as_str(), found.data.get(..4)), ("web", Some(&[10, 1, 2, 3][..])));
    assert_eq!(socket.element(table, "ports", &key(17, 8080)).unwrap(), None);
    assert_eq!(socket.element(table, "missing", &key(17, 8080)).unwrap(), None);
    assert_eq!(socket.elements(table, "inputs").unwrap()[0].leads_to.as_deref(), Some("pod"));
    // Taken, in both ways; and a chain or a set in use.
    let other = [Element { key: key(6, 8080), held: to([10, 1, 2, 4], 80), comment: String::new() }];
    assert_eq!(refused(|batch| batch.add_elements(table, "ports", Exists::Refused, &other)), Errno::EEXIST);
    assert_eq!(refused(|batch| batch.delete_chain(table, "pod")), Errno::EBUSY);
    assert_eq!(refused(|batch| batch.delete_table_if_empty(table)), Errno::EBUSY);
    assert_eq!(refused(|batch| batch.delete_elements(table, "ports", &[Element::of(key(6, 1))])), Errno::ENOENT);
    let emptied = |batch: &mut Batch| {
        batch.flush_chain(table, "pre");
        batch.delete_set_if_empty(table, "ports");
    };
    assert_eq!(refused(emptied), Errno::EBUSY, "it has an element");
    commit(|batch| batch.delete_elements(table, "ports", &other));
    commit(|batch| {
        emptied(batch);
        batch.delete_table(table);
    });
    assert_eq!(node.ruleset(), "");
}

#[test]
fn more_elements_than_a_message_holds_are_added_and_listed() {
    let node = Node::new();
    let table = Table::new(Family::Inet, "t");
    let elements: Vec<_> = (0..2000u16)
        .map(|port| Element { key: port.to_be_bytes().into(), held: Held::Nothing, comment: "c".repeat(250) })
        .collect();
    commit(|batch| {
        batch.add_table(table, Exists::Refused, "");
        batch.add_set(table, &Set { name: "s", key: &[Type::Port], holds: Holds::Nothing });
        batch.add_elements(table, "s", Exists::Refused, &elements);
    });
    assert_eq!(NftSocket::open().unwrap().elements(table, "s").unwrap().len(), 2000);
    commit(|batch| batch.delete_elements(table, "s", &elements));
    assert_eq!(NftSocket::open().unwrap().elements(table, "s").unwrap(), []);
    drop(node);
}

#[test]
fn one_chains_rules_are_listed_with_comments_and_targets_and_deleted_by_handle() {
    let node = Node::new();
    let table = Table::new(Family::Ip, "t");
    let rule = || Rule::new(Family::Ip);
    commit(|batch| {
        batch.add_table(table, Exists::Refused, "");
        for chain in ["a", "b", "c"] {
            batch.add_chain(table, chain, Exists::Refused, "");
        }
        batch.add_rule(table, "a", Place::Last, &rule().jump("b").comment("first"));
        batch.add_rule(table, "a", Place::Last, &rule().goto("c").comment("second"));
        batch.add_rule(table, "b", Place::Last, &rule().accept());
    });
    let mut socket = NftSocket::open().unwrap();
    let rules = socket.rules(table, "a").unwrap();
    let seen: Vec<_> = rules.iter().map(|rule| (rule.comment.as_str(), rule.leads_to.join(","))).collect();
    assert_eq!(seen, [("first", "b".into()), ("second", "c".into())]);
    assert_eq!(socket.rules(table, "missing").unwrap(), []);
    assert_eq!(socket.rules(Table::new(Family::Ip, "missing"), "a").unwrap(), []);
    commit(|batch| {
        batch.add_rule(table, "a", Place::After(rules[0].handle), &rule().accept().comment("after"));
        batch.add_rule(table, "a", Place::Before(rules[0].handle), &rule().accept().comment("before"));
        batch.delete_rule(table, "a", rules[1].handle);
    });
    let comments: Vec<_> = socket.rules(table, "a").unwrap().into_iter().map(|rule| rule.comment).collect();
    assert_eq!(comments, ["before", "first", "after"]);
    assert_eq!(refused(|batch| batch.delete_rule(table, "a", rules[1].handle)), Errno::ENOENT);
    let found = socket.chain(table, "c").unwrap().unwrap();
    assert_eq!(socket.chain(table, "missing").unwrap(), None);
    assert_eq!(socket.chains(table).unwrap().len(), 3);
    let mut batch = Batch::new("test");
    batch.delete_chain_by_handle(table, found.handle);
    assert!(socket.commit_unless(batch, &[Errno::ENOENT]).unwrap());
    let mut batch = Batch::new("test");
    batch.delete_chain_by_handle(table, found.handle);
    assert!(!socket.commit_unless(batch, &[Errno::ENOENT]).unwrap(), "it is gone");
    assert_eq!(refused(|batch| batch.delete_chain_if_empty(table, "a")), Errno::EBUSY);
    commit(|batch| {
        batch.flush_chain(table, "a");
        batch.delete_chain_if_empty(table, "a");
    });
    drop(node);
}
