//! Type bandwidth. Behaviour 105.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::chain::{Chain, Whose};
use common::{Node, Pod, call, merge, reference};
use serde_json::{Value, json};

/// A bridge 10.1.2.1/24, then bandwidth.
fn chain(node: &Node, whose: Whose, limits: Value) -> Chain {
    let mut bandwidth = json!({"type": "bandwidth"});
    merge(&mut bandwidth, limits);
    let mut bridge = node.conf(json!({"type": "bridge", "isGateway": true}));
    bridge.as_object_mut().unwrap().retain(|key, _| key != "cniVersion" && key != "name");
    let version = if matches!(whose, Whose::Reference(_)) { "1.0.0" } else { "1.1.0" };
    Chain::new(whose, version, vec![bridge, bandwidth])
}

fn both() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 400_000})
}

/// What limits there are, in tc's words; devices that are called differently each time by their kind.
fn limits() -> Vec<String> {
    let text = testkit::output(Command::new("tc").args(["-d", "qdisc", "show"]));
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("qdisc tbf") || line.starts_with("qdisc ingress"))
        .map(|line| {
            let words = line.split_whitespace().map(|word| if word.starts_with("veth") { "veth" } else { word });
            // How often the device is held is not of the limit.
            let words = words.filter(|word| *word != "refcnt" && word.parse::<u32>().is_err());
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    lines
}

fn ifbs(node: &Node) -> Vec<String> {
    node.links().into_iter().filter(|name| name.starts_with("bwp")).collect()
}

#[test]
fn both_directions_are_limited_and_the_device_is_in_the_result() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, Whose::Ours, both());
    let result = chain.add("a", &pod);
    let [ifb] = ifbs(&node).try_into().unwrap();
    let interfaces = result["interfaces"].as_array().unwrap();
    let link = node.link(&ifb);
    assert_eq!(interfaces.len(), 4);
    assert_eq!((&interfaces[3]["name"], &interfaces[3]["mac"]), (&json!(ifb), &link["address"]));
    assert_eq!(interfaces[3].get("sandbox"), None, "it is the node's");
    assert_eq!(
        (&link["mtu"], &link["txqlen"], link["flags"].to_string().contains("\"UP\"")),
        (&json!(1500), &Value::Null, true)
    );
    assert_eq!(link["ifalias"], json!("cni-bridge:podnet:a:eth0"));
    let expected = [
        "qdisc ingress ffff: dev veth parent ffff:fff1 ----------------".into(),
        format!("qdisc tbf 1: dev {ifb} root rate 4Mbit burst 50000b/1 mpu 0b lat 25ms linklayer unspec"),
        "qdisc tbf 1: dev veth root rate 8Mbit burst 100000b/1 mpu 0b lat 25ms linklayer unspec".into(),
    ];
    assert_eq!(limits(), expected);
    chain.check("a", &pod, &result).unwrap();
    for _ in 0..2 {
        chain.del("a", &pod.path(), &result);
        assert_eq!((node.links(), limits()), (vec!["br0".into()], Vec::new()));
    }
}

#[test]
fn kernel_state_and_result_are_the_references_and_each_removes_the_others() {
    let Some(dir) = reference() else { return };
    let (ours, theirs) = (Whose::Ours, Whose::Reference(dir));
    let seen = |one: &Whose, other: &Whose| {
        let (node, pod) = (Node::new(), Pod::new());
        // An odd number has to be rounded alike.
        let conf = json!({"ingressRate": 1_234_567, "ingressBurst": 765_432, "egressRate": 80_000_000_000_u64, "egressBurst": 8_000_000_000_u64});
        let mut chain = chain(&node, one.clone(), conf);
        chain.version = "1.0.0".into();
        let result = chain.add("a", &pod);
        chain.whose = other.clone();
        let checked = chain.whose.call("CHECK", &chain.conf(1, &result), "a", &pod.path());
        assert!(checked.ok, "{other:?}: {checked:?}");
        let state = (ifbs(&node), limits(), filters(&node));
        chain.del("a", &pod.path(), &result);
        assert_eq!((node.links(), limits()), (vec!["br0".into()], Vec::new()), "DEL by {other:?}");
        let names =
            result["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()[..3].to_owned());
        (state, names.collect::<Vec<_>>())
    };
    assert_eq!(seen(&ours, &theirs), seen(&theirs, &ours));
}

/// The filters of what the pod sends. The reference has the redirection twice, the second of which is never reached.
fn filters(node: &Node) -> Vec<String> {
    let host = node.links().into_iter().find(|name| name.starts_with("veth")).unwrap();
    let text = testkit::output(Command::new("tc").args(["filter", "show", "dev", &host, "parent", "ffff:"]));
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("filter") || line.starts_with("match"))
        .map(str::to_owned)
        .collect()
}

/// Sends that much over a connection; returns how long the last byte took to arrive.
fn transfer(bytes: usize, listener: &TcpListener, dial: impl FnOnce() -> TcpStream + Send) -> Duration {
    std::thread::scope(|scope| {
        let started = Instant::now();
        let sender = scope.spawn(move || dial().write_all(&vec![0; bytes]).unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        accepted.read_to_end(&mut heard).unwrap();
        assert_eq!(heard.len(), bytes);
        sender.join().unwrap();
        started.elapsed()
    })
}

fn dial(ip: &str, port: u16) -> TcpStream {
    TcpStream::connect(SocketAddr::new(ip.parse().unwrap(), port)).unwrap()
}

const BYTES: usize = 120_000;

/// How long they take to the pod.
fn to(pod: &Pod) -> Duration {
    let inside = pod.inside(|| TcpListener::bind("10.1.2.2:0").unwrap());
    let port = inside.local_addr().unwrap().port();
    // A thread of this one: it is on the node too.
    transfer(BYTES, &inside, || dial("10.1.2.2", port))
}

/// How long they take from the pod.
fn from(pod: &Pod) -> Duration {
    let outside = TcpListener::bind("10.1.2.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    transfer(BYTES, &outside, || pod.inside(|| dial("10.1.2.1", port)))
}

// The lower bound is the token bucket's own: it lets through its burst and then its rate, whatever the machine does.
// An unlimited transfer takes a hundredth of it; on a machine that is busy, one of some.
#[test]
fn a_transfer_takes_as_long_as_the_limit_says_in_the_direction_that_has_one() {
    let node = Node::new();
    // 200 kB a second, after 20 kB.
    let bound = Duration::from_millis(490);
    let limit = |direction: &str| json!({format!("{direction}Rate"): 1_600_000, format!("{direction}Burst"): 160_000});
    let cases = [(json!({}), [false, false]), (limit("ingress"), [true, false]), (limit("egress"), [false, true])];
    for (conf, limited) in cases {
        let pod = Pod::new();
        let mut chain = chain(&node, Whose::Ours, conf.clone());
        chain.plugins[0]["runtimeConfig"] = json!({"ips": ["10.1.2.2"]});
        let result = chain.add("a", &pod);
        for (transfer, is_limited) in [to, from].iter().zip(limited) {
            let took: Vec<Duration> = match is_limited {
                true => vec![transfer(&pod)],
                false => (0..10).map(|_| transfer(&pod)).take_while(|took| *took >= bound).collect(),
            };
            let is_slow = if is_limited { took[0] >= bound } else { took.len() == 10 };
            assert_eq!(is_slow, is_limited, "{conf}: {took:?}");
        }
        if limited[1] {
            let device = testkit::output(Command::new("ip").args(["-s", "-j", "link", "show", &ifbs(&node)[0]]));
            let device: Value = serde_json::from_str(&device).unwrap();
            let sent = device[0]["stats64"]["tx"]["bytes"].as_u64().unwrap();
            assert!(sent > BYTES as u64, "all of it went by the device");
        }
        chain.del("a", &pod.path(), &result);
    }
}

#[test]
fn static_limits_win_and_none_is_a_pass_through() {
    let node = Node::new();
    let offer =
        json!({"bandwidth": {"IngressRate": 800_000, "IngressBurst": 80_000, "EgressRate": 0, "EgressBurst": 0}});
    let with = |extra: Value| {
        let mut conf = json!({"capabilities": {"bandwidth": true}});
        merge(&mut conf, extra);
        chain(&node, Whose::Ours, conf).offering(offer.clone())
    };
    for (extra, words) in [
        (json!({}), "rate 800Kbit burst 10000b"),
        (json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}), "rate 8Mbit burst 100000b"),
    ] {
        let pod = Pod::new();
        let chain = with(extra);
        let result = chain.add("a", &pod);
        assert!(limits().len() == 1 && limits()[0].contains(words), "{words}: {:?}", limits());
        assert_eq!((result["interfaces"].as_array().unwrap().len(), ifbs(&node)), (3, Vec::new()));
        chain.check("a", &pod, &result).unwrap();
        chain.del("a", &pod.path(), &result);
    }
    let pod = Pod::new();
    let none = with(json!({"ingressRate": 0}));
    let before = none.whose.call("ADD", &none.conf(0, &Value::Null), "a", &pod.path()).json();
    let after = none.whose.call("ADD", &none.conf(1, &before), "a", &pod.path()).json();
    assert_eq!((&before, limits()), (&after, Vec::new()), "the static zero wins, and is no limit");
    // After a plugin that makes no veth pair, too.
    let bare = json!({"cniVersion": "1.1.0", "ips": []});
    for verb in ["ADD", "CHECK"] {
        let answer = none.whose.call(verb, &none.conf(1, &bare), "a", &pod.path());
        assert!(answer.ok, "{verb}: {answer:?}");
    }
}

#[test]
fn without_a_peer_on_the_node_nothing_is_done() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, Whose::Ours, both());
    let bare = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}]});
    let add = |previous: &Value| call("ADD", &chain.conf(1, previous), "a", &pod.path());
    assert!(add(&Value::Null).message().contains("must be called as chained plugin"));
    assert!(add(&bare).message().contains("container interface eth0 has no veth peer"), "no interface at all");
    testkit::run(pod.command("ip").args(["link", "add", "eth0", "type", "bridge"]));
    assert!(add(&bare).message().contains("container interface eth0 has no veth peer"), "no veth");
    pod.ip(&["link", "delete", "eth0"]);
    testkit::run(pod.command("ip").args(["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]));
    assert!(add(&bare).message().contains("has no veth peer on the node"), "the peer is in the pod");
    pod.ip(&["link", "delete", "eth0"]);
    let uplink = ["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns"];
    testkit::run(Command::new("ip").args(uplink).arg(pod.path()));
    assert!(add(&bare).message().contains("up0 is not in it"), "the peer is not one of this result");
    pod.ip(&["link", "delete", "eth0"]);
    // The peer is in a third namespace; on the node its index is another pair's.
    let third = Pod::new();
    testkit::run(
        Command::new("ip").args(["link", "add", "decoy", "index", "77", "type", "veth", "peer", "name", "decoy1"]),
    );
    let pair = ["link", "add", "eth0", "type", "veth", "peer", "name", "far0", "index", "77", "netns"];
    testkit::run(pod.command("ip").args(pair).arg(third.path()));
    let mut decoyed = bare.clone();
    decoyed["interfaces"] = json!([{"name": "decoy"}, {"name": "eth0", "sandbox": pod.path()}]);
    assert!(add(&decoyed).message().contains("has no veth peer on the node"), "the decoy is somebody else's");
    assert_eq!((ifbs(&node), limits()), (vec![], vec![]));
}

#[test]
fn a_failed_add_leaves_nothing() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, Whose::Ours, both());
    let before = chain.whose.call("ADD", &chain.conf(0, &Value::Null), "a", &pod.path()).json();
    let host = before["interfaces"][1]["name"].as_str().unwrap();
    let add = || call("ADD", &chain.conf(1, &before), "a", &pod.path());
    let tc = |args: &str| testkit::run(Command::new("tc").args(args.split(' ').map(|word| word.replace("HOST", host))));
    // Somebody else's, in the way of the last step and of the first.
    for (there, gone, words) in [
        ("qdisc add dev HOST ingress", "qdisc delete dev HOST ingress", "have filters look at what comes in"),
        ("qdisc add dev HOST root handle 5: pfifo", "qdisc delete dev HOST root", "limit what leaves"),
    ] {
        tc(there);
        let state = testkit::output(Command::new("tc").args(["qdisc", "show"]));
        let refused = add();
        assert!(refused.message().contains(words) && refused.message().contains("File exists"), "{refused:?}");
        assert_eq!(ifbs(&node), [""; 0]);
        assert_eq!(testkit::output(Command::new("tc").args(["qdisc", "show"])), state, "{words}");
        tc(gone);
    }
    assert!(add().ok);
    let refused = add();
    assert!(refused.message().contains("exists already"), "{refused:?}");
    assert_eq!((ifbs(&node).len(), limits().len()), (1, 3), "what the first ADD made stays");
}

#[test]
fn check_names_what_was_changed_since() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, Whose::Ours, both());
    let result = chain.add("a", &pod);
    let host = result["interfaces"][1]["name"].as_str().unwrap();
    let ifb = result["interfaces"][3]["name"].as_str().unwrap();
    let set = |device: &str, limit: &str| {
        let args = ["qdisc", "change", "dev", device, "root", "handle", "1:", "tbf"];
        testkit::run(Command::new("tc").args(args).args(limit.split(' ')));
    };
    let check = || chain.check("a", &pod, &result).unwrap_err().message();
    set(ifb, "rate 5mbit burst 50000 limit 62500");
    assert!(check().contains(&format!("{ifb}: Rate doesn't match: 625000 bytes a second, not 500000")), "{}", check());
    set(ifb, "rate 4mbit burst 50000 limit 62500");
    chain.check("a", &pod, &result).unwrap();
    set(host, "rate 8mbit burst 100000 limit 125001");
    assert!(check().contains("Limit doesn't match: 125001 bytes, not 125000"), "{}", check());
    set(host, "rate 8mbit burst 90000 limit 125000");
    assert!(check().contains("Buffer doesn't match"), "{}", check());
    testkit::run(Command::new("tc").args(["qdisc", "delete", "dev", host, "root"]));
    assert!(check().contains("what leaves it is not limited"), "{}", check());
    testkit::run(
        Command::new("tc")
            .args(["qdisc", "add", "dev", host, "root", "handle", "1:", "tbf"])
            .args("rate 8mbit burst 100000 limit 125000".split(' ')),
    );
    // The device is there, with its limit, and nothing comes to it.
    testkit::run(Command::new("tc").args(["filter", "delete", "dev", host, "parent", "ffff:"]));
    assert!(check().contains(&format!("is not redirected to {ifb}")), "{}", check());
    testkit::run(Command::new("tc").args(["qdisc", "delete", "dev", host, "ingress"]));
    assert!(check().contains(&format!("is not redirected to {ifb}")), "{}", check());
    testkit::run(Command::new("ip").args(["link", "delete", ifb]));
    assert!(check().contains("is missing"), "{}", check());
}

#[test]
fn the_slowest_limit_with_the_largest_burst_is_found_as_it_was_set() {
    let node = Node::new();
    let pod = Pod::new();
    let limits = json!({"ingressRate": 8, "ingressBurst": 34_359_738_352_u64});
    let chain = chain(&node, Whose::Ours, limits);
    let result = chain.add("a", &pod);
    chain.check("a", &pod, &result).unwrap();
}

#[test]
fn two_interfaces_of_a_pod_in_one_network_have_a_device_each() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, Whose::Ours, both());
    let first = chain.add("a", &pod);
    let as_second = |verb: &str, conf: &Value| {
        let mut command = common::command(verb, "a", &pod.path());
        common::feed(command.env("CNI_IFNAME", "net1"), conf.to_string().as_bytes())
    };
    let bridged = as_second("ADD", &chain.conf(0, &Value::Null)).json();
    let second = as_second("ADD", &chain.conf(1, &bridged));
    assert!(second.ok, "{second:?}");
    assert_eq!(ifbs(&node).len(), 2);
    assert!(as_second("CHECK", &chain.conf(1, &second.json())).ok);
    assert!(as_second("DEL", &chain.conf(1, &second.json())).ok);
    assert_eq!(ifbs(&node), [first["interfaces"][3]["name"].as_str().unwrap()]);
    assert!(as_second("DEL", &chain.conf(1, &second.json())).ok, "again");
    chain.check("a", &pod, &first).unwrap();
}

#[test]
fn del_needs_no_pod_and_gc_removes_this_networks_devices_alone() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    let chain = chain(&node, Whose::Ours, both());
    for (id, pod) in ["a", "b", "c"].iter().zip(&pods) {
        chain.add(id, pod);
    }
    chain.del("c", "", &Value::Null);
    assert_eq!(ifbs(&node).len(), 2);
    let other = Chain { name: "other".into(), ..chain.clone() };
    other.add("c", &pods[2]);
    testkit::run(Command::new("ip").args(["link", "add", "bwpforeign", "type", "ifb"]));
    let only = Chain { plugins: vec![chain.plugins[1].clone()], ..chain.clone() };
    only.gc(None);
    assert_eq!(ifbs(&node).len(), 4, "an absent list destroys nothing");
    only.gc(Some(&[("a", "eth0")]));
    assert_eq!(ifbs(&node).len(), 3);
    only.gc(Some(&[]));
    assert_eq!(ifbs(&node).len(), 2, "one of another network, one of nobody we know");
}
