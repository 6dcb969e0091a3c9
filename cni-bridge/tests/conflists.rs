//! The configurations that container engines ship, unmodified, in a directory of plugins as `scripts/install` makes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use common::chain::{Chain, Whose, link_all};
use common::world::{World, converse, dial, ip, listen, listen_at, reaches};
use common::{Node, Pod};
use serde_json::{Value, json};

/// A node on which an engine with this list has attached two pods.
struct Engine {
    node: Node,
    world: World,
    chain: Chain,
    first: (Pod, Value),
    second: (Pod, Value),
}

const MAPPING: &str = r#"[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]"#;

impl Engine {
    fn start(file: &str) -> Engine {
        Engine::with(file, Node::with_own_state())
    }

    fn with(file: &str, node: Node) -> Engine {
        let world = World::new();
        let list = fs::read(testkit::testdata(&format!("conflists/{file}"))).unwrap();
        let whose = link_all(&node.dir.path().join("bin"));
        let chain = Chain::of_list(whose, &serde_json::from_slice(&list).unwrap());
        let add = |id: &str, mappings: &str| {
            let offers = json!({"portMappings": serde_json::from_str::<Value>(mappings).unwrap()});
            let pod = Pod::new();
            let result = chain.clone().offering(offers).add(id, &pod);
            (pod, result)
        };
        let (first, second) = (add("first", MAPPING), add("second", "[]"));
        Engine { node, world, chain, first, second }
    }

    fn addresses((_, result): &(Pod, Value)) -> Vec<String> {
        let all = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap());
        all.map(|cidr| cidr.split('/').next().unwrap().to_owned()).collect()
    }

    fn pods_reach_each_other_and(&self, gateways: &[&str]) {
        for gateway in gateways {
            assert!(self.first.0.pings(gateway) && self.second.0.pings(gateway), "{gateway}");
        }
        let addresses = Engine::addresses(&self.second);
        assert_eq!(addresses.len(), gateways.len());
        for address in addresses {
            assert!(self.first.0.pings(&address), "{address}");
        }
    }

    /// With the node's address, for the world has no route to pods.
    fn pods_reach_the_world(&self, world: &str, node: &str) {
        let listener = self.world.host.inside(listen);
        let seen = converse(&listener, |port| self.first.0.inside(|| dial(world, port)));
        assert_eq!(seen.to_string(), node);
    }

    fn the_world_reaches_the_port(&self) {
        let listener = self.first.0.inside(|| listen_at(80));
        let seen = converse(&listener, |_| self.world.host.inside(|| dial("192.0.2.1", 8080)));
        assert_eq!(seen.to_string(), "192.0.2.2");
    }

    fn check(&self) {
        for (id, (pod, result)) in [("first", &self.first), ("second", &self.second)] {
            let mut chain = self.chain.clone();
            chain.offers = json!({"portMappings": []});
            if id == "first" {
                chain.offers = json!({"portMappings": serde_json::from_str::<Value>(MAPPING).unwrap()});
            }
            chain.check(id, pod, result).unwrap_or_else(|answer| panic!("CHECK {id}: {answer:?}"));
        }
    }

    /// DEL as engines call it: in any order, again, and once without the namespace. Nothing of a pod is left.
    fn stop(self, bridge: &str) {
        let addresses = [Engine::addresses(&self.first), Engine::addresses(&self.second)].concat();
        self.chain.del("second", &self.second.0.path(), &self.second.1);
        self.chain.del("first", "", &self.first.1);
        self.chain.del("first", &self.first.0.path(), &self.first.1);
        let left: Vec<String> = self.node.links().into_iter().filter(|name| name != "up0").collect();
        assert_eq!(left, [bridge]);
        let rules = self.node.ruleset();
        for word in addresses.iter().map(String::as_str).chain(["first", "second", "8080"]) {
            assert!(!rules.contains(word), "{word} is left in {rules}");
        }
        let leases = Path::new("/var/lib/cni/networks").join(&self.chain.name);
        let left: Vec<_> = fs::read_dir(leases).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| addresses.iter().any(|address| name == &**address)), "leases: {left:?}");
        for directory in ["/run/cni/tuning", "/var/lib/cni/flannel"] {
            let left: Vec<_> = fs::read_dir(directory).into_iter().flatten().collect();
            assert!(left.is_empty(), "{directory}: {left:?}");
        }
        assert!(!self.world.host.inside(|| reaches("192.0.2.1", 8080)), "the port is mapped no more");
    }
}

#[test]
fn containerd() {
    let engine = Engine::start("containerd.conflist");
    engine.pods_reach_each_other_and(&["10.88.0.1", "2001:4860:4860::1"]);
    engine.pods_reach_the_world("192.0.2.2", "192.0.2.1");
    engine.pods_reach_the_world("2001:db8::2", "2001:db8::1");
    engine.the_world_reaches_the_port();
    assert_eq!(engine.node.link("cni0")["promiscuity"], 1);
    engine.check();
    // It calls this, too, for every pod.
    let pod = Pod::new();
    let loopback = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    assert!(engine.chain.whose.call("ADD", &loopback, "first", &pod.path()).ok && pod.pings("127.0.0.1"));
    engine.stop("cni0");
}

#[test]
fn kube_flannel() {
    let node = Node::with_own_state();
    fs::create_dir("/run/flannel").unwrap();
    let leased = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write("/run/flannel/subnet.env", leased).unwrap();
    let engine = Engine::with("kube-flannel.conflist", node);
    assert_eq!(Engine::addresses(&engine.first), ["10.244.7.2"]);
    assert_eq!(engine.node.link("cni0")["mtu"], 1450);
    engine.pods_reach_each_other_and(&["10.244.7.1"]);
    // flanneld masquerades, not the plugin: the world sees the pod itself.
    engine.world.host.ip(&["route", "add", "10.244.7.0/24", "via", "192.0.2.1"]);
    engine.pods_reach_the_world("192.0.2.2", "10.244.7.2");
    engine.the_world_reaches_the_port();
    engine.stop("cni0");
}

#[test]
fn crio() {
    let engine = Engine::start("crio.conflist");
    engine.pods_reach_each_other_and(&["10.85.0.1", "1100:200::1"]);
    engine.pods_reach_the_world("192.0.2.2", "192.0.2.1");
    engine.check();
    engine.stop("cni0");
}

#[test]
fn podman_4() {
    let engine = Engine::start("podman-4.conflist");
    engine.pods_reach_each_other_and(&["10.88.0.1"]);
    engine.pods_reach_the_world("192.0.2.2", "192.0.2.1");
    engine.the_world_reaches_the_port();
    engine.check();
    engine.stop("cni-podman0");
}

#[test]
fn nerdctl() {
    let engine = Engine::start("nerdctl.conflist");
    engine.pods_reach_each_other_and(&["10.4.0.1"]);
    engine.pods_reach_the_world("192.0.2.2", "192.0.2.1");
    engine.the_world_reaches_the_port();
    engine.check();
    // Its firewall keeps its networks apart, each on its bridge.
    let mut other = Chain { name: "other".into(), ..engine.chain.clone() };
    other.plugins[0]["bridge"] = json!("other0");
    other.plugins[0]["ipam"]["ranges"] = json!([[{"subnet": "10.9.0.0/24"}]]);
    let stranger = Pod::new();
    let strangers = other.add("stranger", &stranger);
    let listener = engine.first.0.inside(listen);
    let port = listener.local_addr().unwrap().port();
    assert!(engine.second.0.inside(|| reaches("10.4.0.2", port)), "of its own bridge");
    assert!(!stranger.inside(|| reaches("10.4.0.2", port)), "of another network's bridge");
    other.del("stranger", &stranger.path(), &strangers);
    ip("link delete other0");
    engine.stop("nerdctl0");
}

// What the two lists of this project's own are for is told in the README.
#[test]
fn this_projects_own() {
    for (file, gateways) in
        [("10-node.conflist", &["10.244.1.1"][..]), ("20-dual-stack.conflist", &["10.244.1.1", "fd00:10:244:1::1"])]
    {
        std::thread::spawn(move || {
            let engine = Engine::start(file);
            engine.pods_reach_each_other_and(gateways);
            engine.pods_reach_the_world("192.0.2.2", "192.0.2.1");
            engine.check();
            engine.stop("cni0");
        })
        .join()
        .unwrap();
    }
}

/// The configurations are read as they are by a directory's plugins: every type in them is there.
#[test]
fn every_type_in_the_configurations_is_installed() {
    let directory = testkit::scratch();
    let whose = link_all(&directory.path().join("bin"));
    let Whose::Linked(bin) = whose else { panic!("{whose:?}") };
    for file in fs::read_dir(testkit::testdata("conflists")).unwrap() {
        let list: Value = serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        for plugin in list["plugins"].as_array().unwrap() {
            for kind in [&plugin["type"], &plugin["ipam"]["type"]].into_iter().filter_map(Value::as_str) {
                assert!(bin.join(kind).exists(), "{kind}");
            }
        }
    }
}
