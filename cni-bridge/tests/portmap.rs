//! Host ports, with packets from everywhere they may come from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use common::ports::{TCP, chain, mapping, route_localnet, sysctl};
use common::world::{World, converse, dial, ip, listen_at, reaches, udp_at};
use common::{Node, Pod};
use serde_json::json;

/// Whether the kernel passes bridged packets through netfilter, switched so for this node.
fn bridge_netfilter(on: bool) -> bool {
    let keys = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
    if !std::path::Path::new("/proc/sys/net/bridge").exists() {
        return !on;
    }
    keys.iter().for_each(|key| sysctl(key, if on { "1" } else { "0" }));
    true
}

// Behaviour 98.
#[test]
fn a_host_port_is_reached_from_outside_and_the_pod_sees_who_calls() {
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    let chain = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    let result = chain.add("a", &pod);
    let listener = pod.inside(|| listen_at(80));
    for (to, from) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let seen = converse(&listener, |_| world.host.inside(|| dial(to, TCP)));
        assert_eq!(seen.to_string(), from);
    }
    assert!(!world.host.inside(|| reaches("192.0.2.1", TCP + 1)));
    chain.check("a", &pod, &result).unwrap();
    chain.del("a", &pod.path(), &result);
    assert!(!world.host.inside(|| reaches("192.0.2.1", TCP)));
    assert_eq!(node.ruleset(), "");
}

// Behaviour 98.
#[test]
fn the_node_reaches_it_by_its_addresses_and_by_its_loopback() {
    let node = Node::new();
    let (_world, pod) = (World::new(), Pod::new());
    let chain = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    let result = chain.add("a", &pod);
    let listener = pod.inside(|| listen_at(80));
    for (to, from) in [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("10.1.2.1", "10.1.2.1"),
        ("127.0.0.1", "10.1.2.1"),
        ("127.0.0.9", "10.1.2.1"),
    ] {
        assert_eq!(converse(&listener, |_| dial(to, TCP)).to_string(), from, "as seen by the pod, from {to}");
    }
    // The kernel lets nothing from ::1 out: refused, and not waited for.
    let refusal = std::net::TcpStream::connect(("::1", TCP)).unwrap_err();
    assert_eq!(refusal.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(route_localnet(), "2");
    chain.del("a", &pod.path(), &result);
    assert_eq!(route_localnet(), "0", "as it was");
}

// Behaviour 98: hairpin, with bridged packets passing netfilter and not.
#[test]
fn the_pod_itself_and_its_neighbours_reach_it_by_the_nodes_address() {
    for on in [false, true] {
        let node = Node::new();
        if !bridge_netfilter(on) {
            testkit::skip("the kernel has no bridge netfilter (CONFIG_BRIDGE_NETFILTER)");
            continue;
        }
        let _world = World::new();
        let (pod, neighbour) = (Pod::new(), Pod::new());
        let mut chain = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
        // Netfilter sends such a packet back by the port it came from, and only a port in this mode takes it.
        chain.plugins[0]["hairpinMode"] = json!(on);
        chain.add("a", &pod);
        chain.clone().offering(json!({})).add("b", &neighbour);
        let listener = pod.inside(|| listen_at(80));
        for (address, gateway, beside) in
            [("192.0.2.1", "10.1.2.1", "10.1.2.3"), ("2001:db8::1", "fd00:1::1", "fd00:1::3")]
        {
            let from_itself = converse(&listener, |_| pod.inside(|| dial(address, TCP)));
            assert_eq!(from_itself.to_string(), gateway, "bridge netfilter {on}");
            let from_neighbour = converse(&listener, |_| neighbour.inside(|| dial(address, TCP)));
            let expected = if on { beside } else { gateway };
            assert_eq!(from_neighbour.to_string(), expected, "bridge netfilter {on}");
        }
    }
}

#[test]
fn a_pod_of_another_network_is_not_masqueraded() {
    let node = Node::new();
    let _world = World::new();
    let (pod, other) = (Pod::new(), Pod::new());
    let first = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    first.add("a", &pod);
    let mut second = chain(&node, json!({}), &[]);
    second.plugins[0]["bridge"] = json!("br1");
    second.plugins[0]["ipam"] =
        json!({"type": "host-local", "dataDir": node.dir.path().join("leases"), "subnet": "10.7.0.0/24"});
    second.name = "other".into();
    second.add("b", &other);
    let listener = pod.inside(|| listen_at(80));
    assert_eq!(converse(&listener, |_| other.inside(|| dial("192.0.2.1", TCP))).to_string(), "10.7.0.2");
}

#[test]
fn an_address_restricts_a_port_and_comes_before_all_addresses() {
    let node = Node::new();
    let world = World::new();
    ip("address add 192.0.2.5/24 dev up0");
    let (one, all) = (Pod::new(), Pod::new());
    let mut only = mapping(TCP, "tcp");
    only["hostIP"] = json!("192.0.2.5");
    let chain_one = chain(&node, json!({}), &[only]);
    let result = chain_one.add("one", &one);
    let listener = one.inside(|| listen_at(80));
    converse(&listener, |_| world.host.inside(|| dial("192.0.2.5", TCP)));
    converse(&listener, |_| dial("192.0.2.5", TCP));
    assert!(!world.host.inside(|| reaches("192.0.2.1", TCP)) && !reaches("127.0.0.1", TCP));
    assert!(!world.host.inside(|| reaches("2001:db8::1", TCP)), "an address of the other family is none");
    let chain_all = chain(&node, json!({}), &[mapping(TCP, "tcp")]);
    chain_all.add("all", &all);
    let everywhere = all.inside(|| listen_at(80));
    converse(&everywhere, |_| world.host.inside(|| dial("192.0.2.1", TCP)));
    converse(&listener, |_| world.host.inside(|| dial("192.0.2.5", TCP)));
    chain_one.del("one", "", &result);
    converse(&everywhere, |_| world.host.inside(|| dial("192.0.2.5", TCP)));
}

#[test]
fn the_unspecified_address_is_every_address_of_its_family() {
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    let mut v4 = mapping(TCP, "tcp");
    v4["hostIP"] = json!("0.0.0.0");
    chain(&node, json!({}), &[v4]).add("a", &pod);
    let listener = pod.inside(|| listen_at(80));
    converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", TCP)));
    assert!(!world.host.inside(|| reaches("2001:db8::1", TCP)));
}

/// A socket of a client that says `word` to the node's port 53 from port 5000 each time.
fn ask(socket: &UdpSocket, word: &str) {
    socket.send_to(word.as_bytes(), "192.0.2.1:53").unwrap();
}

fn heard(socket: &UdpSocket) -> String {
    let mut buffer = [0; 16];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

// Behaviour 99.
#[test]
fn udp_follows_the_pod_at_once_when_it_comes_goes_and_is_replaced() {
    let node = Node::new();
    let world = World::new();
    let chain = chain(&node, json!({}), &[json!({"hostPort": 53, "containerPort": 5353, "protocol": "udp"})]);
    let client = world.host.inside(|| UdpSocket::bind("192.0.2.2:5000").unwrap());
    // Conntrack only looks where a rule needs it.
    let early = Pod::new();
    self::chain(&node, json!({}), &[mapping(TCP, "tcp")]).add("early", &early);
    assert!(world.host.pings("192.0.2.1"), "nothing waits for its neighbour's address");
    // The node itself was asked before there was a pod: a connection that ended at its closed port.
    ask(&client, "nobody");
    let (first, second) = (Pod::new(), Pod::new());
    let result = chain.add("first", &first);
    let there = first.inside(|| udp_at(5353));
    ask(&client, "one");
    assert_eq!(heard(&there), "one", "the connection from before was forgotten");
    chain.del("first", &first.path(), &result);
    let own = UdpSocket::bind("192.0.2.1:53").unwrap();
    own.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    ask(&client, "two");
    assert_eq!(heard(&own), "two", "forgotten with the pod");
    drop(own);
    chain.add("second", &second);
    let there = second.inside(|| udp_at(5353));
    ask(&client, "three");
    assert_eq!(heard(&there), "three");
}

#[test]
fn udp_connections_that_only_pass_by_are_left_alone() {
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    sysctl("ipv4/ip_forward", "1");
    // The pod asks a name server of the world's; then a pod with host port 53 comes.
    chain(&node, json!({}), &[]).add("asks", &pod);
    world.host.ip(&["route", "add", "10.1.2.0/24", "via", "192.0.2.1"]);
    let server = world.host.inside(|| UdpSocket::bind("192.0.2.2:53").unwrap());
    let asking = pod.inside(|| UdpSocket::bind("0.0.0.0:5000").unwrap());
    // Conntrack only looks where a rule needs it.
    let early = Pod::new();
    chain(&node, json!({}), &[mapping(TCP, "tcp")]).add("early", &early);
    asking.send_to(b"query", "192.0.2.2:53").unwrap();
    assert_eq!(heard(&server), "query");
    let flows = || cni_bridge::netlink::conntrack::udp_to(true, &[53]).unwrap();
    let before = flows();
    assert_eq!(before.len(), 1, "{before:?}");
    let (other, udp) = (Pod::new(), chain(&node, json!({}), &[mapping(53, "udp")]));
    let result = udp.add("other", &other);
    assert_eq!(flows(), before);
    udp.del("other", "", &result);
    assert_eq!(flows(), before);
}

#[test]
fn all_tracked_connections_to_several_ports_are_found_and_only_those() {
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    chain(&node, json!({}), &[mapping(TCP, "tcp")]).add("a", &pod);
    assert!(world.host.pings("192.0.2.1"), "nothing waits for its neighbour's address");
    let client = world.host.inside(|| UdpSocket::bind("192.0.2.2:5000").unwrap());
    for port in [1001, 1002, 1003] {
        client.send_to(b"x", ("192.0.2.1", port)).unwrap();
    }
    let to = |ports: &[u16]| {
        let flows = cni_bridge::netlink::conntrack::udp_to(true, ports).unwrap();
        let mut found: Vec<_> = flows.iter().map(|flow| flow.to.port()).collect();
        found.sort_unstable();
        found
    };
    assert_eq!((to(&[1002]), to(&[1001, 1003, 9])), (vec![1002], vec![1001, 1003]));
    assert_eq!(cni_bridge::netlink::conntrack::udp_to(false, &[1001]).unwrap(), []);
    let flows = cni_bridge::netlink::conntrack::udp_to(true, &[1001]).unwrap();
    cni_bridge::netlink::conntrack::forget(&flows).unwrap();
    cni_bridge::netlink::conntrack::forget(&flows).unwrap();
    assert_eq!(to(&[1001, 1002, 1003]), [1002, 1003]);
}

#[test]
fn two_pods_may_swap_their_ports() {
    let node = Node::new();
    let world = World::new();
    let (a, b) = (Pod::new(), Pod::new());
    let with = |port| chain(&node, json!({}), &[mapping(port, "tcp")]);
    let (first, second) = (with(1000).add("a", &a), with(2000).add("b", &b));
    with(1000).del("a", "", &first);
    with(2000).del("b", "", &second);
    let (a, b) = (Pod::new(), Pod::new());
    with(2000).add("a", &a);
    with(1000).add("b", &b);
    let (to_a, to_b) = (a.inside(|| listen_at(80)), b.inside(|| listen_at(80)));
    converse(&to_a, |_| world.host.inside(|| dial("192.0.2.1", 2000)));
    converse(&to_b, |_| world.host.inside(|| dial("192.0.2.1", 1000)));
}

// Behaviour 101.
#[test]
fn who_is_masqueraded_is_as_snat_and_masq_all_say() {
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    for (keys, itself, everybody, seen) in [
        (json!({}), 2, 0, "192.0.2.2"),
        (json!({"masqAll": true}), 0, 2, "10.1.2.1"),
        (json!({"snat": false}), 0, 0, "192.0.2.2"),
        (json!({"snat": false, "masqAll": true}), 0, 0, "192.0.2.2"),
    ] {
        let chain = chain(&node, keys.clone(), &[mapping(TCP, "tcp"), mapping(TCP + 1, "tcp")]);
        let result = chain.add("a", &pod);
        chain.check("a", &pod, &result).unwrap();
        let rules = node.ruleset();
        let count = |set: &str| rules.matches(&format!("comment \"{set} ")).count();
        assert_eq!((count("itself"), count("neighbours"), count("everybody")), (itself, itself, everybody), "{keys}");
        assert_eq!(route_localnet(), if keys["snat"] == json!(false) { "0" } else { "2" });
        let listener = pod.inside(|| listen_at(80));
        assert_eq!(converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", TCP))).to_string(), seen, "{keys}");
        chain.del("a", &pod.path(), &result);
    }
}

#[test]
fn conditions_say_whom_the_ports_are_for() {
    for keys in [
        json!({"conditionsV4": ["!", "-s", "192.0.2.2"], "backend": "iptables"}),
        json!({"conditionsV4": ["ip saddr != 192.0.2.2"], "backend": "nftables", "markMasqBit": 5}),
    ] {
        let node = Node::new();
        let (world, pod) = (World::new(), Pod::new());
        world.host.ip(&["address", "add", "192.0.2.3/24", "dev", "down0"]);
        let chain = chain(&node, keys.clone(), &[mapping(TCP, "tcp")]);
        let result = chain.add("a", &pod);
        let listener = pod.inside(|| listen_at(80));
        assert!(!world.host.inside(|| reaches("192.0.2.1", TCP)), "{keys}");
        world.host.ip(&["route", "add", "192.0.2.1/32", "dev", "down0", "src", "192.0.2.3"]);
        assert_eq!(converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", TCP))).to_string(), "192.0.2.3");
        let rules = node.ruleset();
        assert!(rules.contains("ip saddr != 192.0.2.2 fib daddr type local jump hostports"), "{rules}");
        chain.check("a", &pod, &result).unwrap();
        chain.del("a", "", &result);
        assert_eq!(node.ruleset(), "");
    }
}

#[test]
fn the_loopback_of_the_node_stays_its_own() {
    let node = Node::new();
    let pod = Pod::new();
    // Without the guard, route_localnet would let this pass: CVE-2020-8558.
    let private = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    chain(&node, json!({}), &[mapping(TCP, "tcp")]).add("a", &pod);
    assert_eq!(route_localnet(), "2");
    pod.ip(&["route", "add", "127.0.0.0/8", "via", "10.1.2.1", "table", "100"]);
    pod.ip(&["rule", "add", "pref", "0", "table", "100"]);
    pod.ip(&["rule", "del", "table", "local"]);
    pod.ip(&["rule", "add", "pref", "5", "table", "local"]);
    let port = private.local_addr().unwrap().port();
    pod.inside(|| sysctl("ipv4/conf/eth0/route_localnet", "1"));
    assert!(!pod.inside(|| reaches("127.0.0.1", port)));
    testkit::run(Command::new("nft").args(["flush", "chain", "ip", "cni-bridge-hostports", "loopback"]));
    assert!(pod.inside(|| reaches("127.0.0.1", port)), "this test would see it");
}

/// CRC-32C, which RFC 9260 appendix A asks of a packet of SCTP.
fn crc32c(bytes: &[u8]) -> u32 {
    let fold = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    };
    !bytes.iter().fold(!0, fold)
}

/// A packet of SCTP that begins an association, with an IPv4 header that the kernel completes.
fn sctp_init(to: [u8; 4], port: u16) -> Vec<u8> {
    let mut sctp = [&5000u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 8]].concat();
    // INIT: type, flags, length, then tag, window, streams out and in, first number.
    sctp.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&sctp);
    sctp[8..12].copy_from_slice(&sum.to_le_bytes());
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 132, 0, 0, 192, 0, 2, 2];
    packet.extend(to);
    packet.extend(sctp);
    packet
}

// The kernel of the node only needs to know SCTP's connections, not SCTP itself.
#[test]
fn sctp_is_sent_on_to_the_pod() {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
    let node = Node::new();
    let (world, pod) = (World::new(), Pod::new());
    chain(&node, json!({}), &[mapping(3868, "sctp")]).add("a", &pod);
    let counted = "add table ip t; add chain ip t c { type filter hook prerouting priority 0; }; \
                   add rule ip t c ip saddr 192.0.2.2 sctp dport 80 counter";
    testkit::run(pod.command("nft").arg(counted));
    assert!(world.host.pings("192.0.2.1"), "nothing waits for its neighbour's address");
    assert!(pod.pings("10.1.2.1"), "nor there");
    world.host.inside(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
        let to = SockaddrIn::new(192, 0, 2, 1, 0);
        sendto(std::os::fd::AsRawFd::as_raw_fd(&raw), &sctp_init([192, 0, 2, 1], 3868), &to, MsgFlags::empty())
            .unwrap();
    });
    let rules = testkit::output(pod.command("nft").args(["list", "table", "ip", "t"]));
    if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed").exists() {
        testkit::skip("the kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP)");
        return;
    }
    assert!(rules.contains("counter packets 1"), "{rules}");
}
