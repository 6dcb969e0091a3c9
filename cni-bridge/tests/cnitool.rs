//! Called by libcni's own tool: every type, the chain of five, in every version of the specification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Output};

use cni_bridge::plugin::of_name;
use cni_bridge::spec::Version;
use common::chain::link_all;
use common::world::{World, converse, dial, listen_at};
use common::{Node, Pod, merge};
use serde_json::{Value, json};

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The tool on a node with all our plugins and one network, `podnet`. libcni keeps its results below /var/lib, which is
/// the node's own.
struct Tool {
    path: String,
    node: Node,
}

impl Tool {
    /// None where `CNITOOL` does not name the tool.
    fn new() -> Option<Tool> {
        let Ok(path) = std::env::var("CNITOOL") else {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                let how = "go install github.com/containernetworking/cni/cnitool@v1.3.0";
                testkit::skip(&format!("CNITOOL does not name a cnitool ({how})"));
            });
            return None;
        };
        let node = Node::with_own_state();
        link_all(&node.dir.path().join("bin"));
        fs::create_dir(node.dir.path().join("conf")).unwrap();
        Some(Tool { path, node })
    }

    fn configure(&self, version: &str, plugins: &[Value]) {
        let list = json!({"cniVersion": version, "name": "podnet", "plugins": plugins});
        fs::write(self.node.dir.path().join("conf/podnet.conflist"), list.to_string()).unwrap();
    }

    fn command(&self, verb: &str, netns: &str) -> Command {
        let dir = self.node.dir.path();
        let mut command = Command::new(&self.path);
        command.args([verb, "podnet", netns]);
        command.env("CNI_PATH", dir.join("bin")).env("NETCONFPATH", dir.join("conf"));
        command
    }

    /// With what a runtime offers, by capability.
    fn offer(&self, verb: &str, netns: &str, offers: &Value) -> String {
        said(verb, &testkit::attempt(self.command(verb, netns).env("CAP_ARGS", offers.to_string())))
    }

    fn must(&self, verb: &str, netns: &str) -> String {
        said(verb, &testkit::attempt(&mut self.command(verb, netns)))
    }

    /// Everything in its turn, as far as the version knows it; and DEL twice.
    fn life(&self, version: &str, offers: &Value, alive: impl FnOnce(&Pod, &Value)) {
        let pod = Pod::new();
        let result = self.offer("add", &pod.path(), offers);
        alive(&pod, &serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error}: {result}")));
        if version >= "0.4.0" {
            self.offer("check", &pod.path(), offers);
        }
        if version >= "1.1.0" {
            self.must("status", &pod.path());
        }
        self.offer("del", &pod.path(), offers);
        self.offer("del", &pod.path(), offers);
    }

    fn nothing_is_left(&self, what: &str) {
        let links: Vec<String> = self.node.links().into_iter().filter(|name| name != "up0" && name != "br0").collect();
        let rules = self.node.ruleset();
        let about: Vec<_> =
            rules.lines().filter(|line| line.contains("10.1.2.2") || line.contains("cnitool")).collect();
        assert_eq!((links, self.node.leased(), about), (vec![], vec![], vec![]), "{what}");
    }
}

fn said(verb: &str, done: &Output) -> String {
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "cnitool {verb}: {text} {}", String::from_utf8_lossy(&done.stderr));
    text
}

fn bridge(tool: &Tool) -> Value {
    let mut conf = tool.node.dual(json!({"type": "bridge", "ipMasq": true, "mtu": 1450, "hairpinMode": true}));
    conf.as_object_mut().unwrap().retain(|key, _| key != "cniVersion" && key != "name");
    conf
}

fn speaks(kind: &str, version: &str) -> bool {
    of_name(kind).is_some_and(|kind| Version::parse(version).is_ok_and(|version| version >= kind.oldest))
}

#[test]
fn a_bridge_in_every_version() {
    let Some(tool) = Tool::new() else { return };
    for version in VERSIONS {
        tool.configure(version, &[bridge(&tool)]);
        tool.life(version, &json!({}), |pod, _| {
            assert!(pod.pings("10.1.2.1"), "{version}");
            assert!(pod.pings("fd00:1::1"), "{version}: {}", pod.ip(&["neighbour"]));
        });
        tool.nothing_is_left(version);
        assert_eq!(tool.node.ruleset(), "", "{version}");
    }
}

#[test]
fn five_plugins_in_every_version() {
    let Some(tool) = Tool::new() else { return };
    let world = World::new();
    let chain = [
        bridge(&tool),
        json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}),
        json!({"type": "firewall", "ingressPolicy": "same-bridge"}),
        json!({"type": "tuning", "capabilities": {"mac": true}, "mtu": 1400, "sysctl": {"net.core.somaxconn": "200"}}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
    ];
    let offers = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 800_000_000, "ingressBurst": 80_000_000,
            "egressRate": 800_000_000, "egressBurst": 80_000_000},
        "mac": "02:00:00:00:00:77",
    });
    for version in VERSIONS {
        // Chaining came with 0.3.0.
        let plugins: Vec<Value> = chain
            .iter()
            .filter(|plugin| plugin["type"] == "bridge" || version >= "0.3.0")
            .filter(|plugin| speaks(plugin["type"].as_str().unwrap(), version))
            .cloned()
            .collect();
        tool.configure(version, &plugins);
        let has = |kind: &str| plugins.iter().any(|plugin| plugin["type"] == kind);
        tool.life(version, &offers, |pod, _| {
            assert!(pod.pings("10.1.2.1"), "{version}");
            assert!(pod.pings("fd00:1::1"), "{version}: {}", pod.ip(&["neighbour"]));
            let link = pod.ip(&["link", "show", "eth0"]);
            assert_eq!(
                link.contains("mtu 1400") && link.contains("02:00:00:00:00:77"),
                has("tuning"),
                "{version}: {link}"
            );
            assert_eq!(tool.node.links().iter().any(|name| name.starts_with("bwp")), has("bandwidth"), "{version}");
            if has("portmap") {
                let listener = pod.inside(|| listen_at(80));
                let seen = converse(&listener, |_| world.host.inside(|| dial("192.0.2.1", 8080)));
                assert_eq!(seen.to_string(), "192.0.2.2", "{version}");
            }
        });
        tool.nothing_is_left(version);
    }
}

#[test]
fn loopback_in_every_version() {
    let Some(tool) = Tool::new() else { return };
    for version in VERSIONS {
        tool.configure(version, &[json!({"type": "loopback"})]);
        tool.life(version, &json!({}), |pod, _| assert!(pod.pings("127.0.0.1"), "{version}"));
    }
}

#[test]
fn static_addresses_in_every_version() {
    let Some(tool) = Tool::new() else { return };
    for version in VERSIONS {
        let mut plugin = bridge(&tool);
        merge(&mut plugin, json!({"ipam": null}));
        plugin["ipam"] = json!({"type": "static", "routes": [{"dst": "0.0.0.0/0"}],
            "addresses": [{"address": "10.1.2.2/24", "gateway": "10.1.2.1"}]});
        tool.configure(version, &[plugin]);
        tool.life(version, &json!({}), |pod, _| assert!(pod.pings("10.1.2.1"), "{version}"));
        tool.nothing_is_left(version);
    }
}

#[test]
fn flannel_in_every_version() {
    let Some(tool) = Tool::new() else { return };
    fs::create_dir("/run/flannel").unwrap();
    let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.2.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    fs::write("/run/flannel/subnet.env", lease).unwrap();
    let leases = tool.node.dir.path().join("leases");
    for version in VERSIONS {
        let delegate = json!({"bridge": "br0", "hairpinMode": true, "isDefaultGateway": true});
        let plugin = json!({"type": "flannel", "delegate": delegate, "ipam": {"dataDir": leases}});
        tool.configure(version, &[plugin]);
        tool.life(version, &json!({}), |pod, _| {
            assert!(pod.pings("10.1.2.1"), "{version}");
            assert!(pod.ip(&["link", "show", "eth0"]).contains("mtu 1450"), "{version}");
        });
        tool.nothing_is_left(version);
    }
}

#[test]
fn fifty_pods_at_once() {
    let Some(tool) = Tool::new() else { return };
    let chained =
        ["portmap", "firewall", "tuning"].map(|kind| json!({"type": kind, "capabilities": {"portMappings": true}}));
    let chain = [vec![bridge(&tool)], chained.to_vec()].concat();
    tool.configure("1.1.0", &chain);
    let pods: Vec<Pod> = (0..50).map(|_| Pod::new()).collect();
    let all = |verb: &'static str| -> Vec<Output> {
        std::thread::scope(|scope| {
            let calls = pods.iter().enumerate().map(|(index, pod)| {
                let mapping = json!({"hostPort": 8000 + index, "containerPort": 80, "protocol": "tcp"});
                let mut command = tool.command(verb, &pod.path());
                command.env("CAP_ARGS", json!({"portMappings": [mapping]}).to_string());
                scope.spawn(move || testkit::attempt(&mut command))
            });
            calls.collect::<Vec<_>>().into_iter().map(|call| call.join().unwrap()).collect()
        })
    };
    let mut addresses = std::collections::BTreeSet::new();
    for done in all("add") {
        let result: Value = serde_json::from_str(&said("add", &done)).unwrap();
        for ip in result["ips"].as_array().unwrap() {
            assert!(addresses.insert(ip["address"].to_string()), "{ip} twice");
        }
    }
    assert_eq!((addresses.len(), tool.node.leased().len(), tool.node.links().len()), (100, 100, 51));
    assert!(pods[0].pings("10.1.2.1") && pods[49].pings("fd00:1::1"));
    for verb in ["check", "del"] {
        all(verb).iter().for_each(|done| drop(said(verb, done)));
    }
    tool.nothing_is_left("fifty");
}

#[test]
fn an_error_reaches_the_caller_in_words() {
    let Some(tool) = Tool::new() else { return };
    let mut conf = bridge(&tool);
    merge(&mut conf, json!({"vlan": 5000}));
    tool.configure("1.0.0", &[conf]);
    let done = testkit::attempt(&mut tool.command("add", &Pod::new().path()));
    let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert!(!done.status.success() && said.contains("invalid VLAN ID 5000"), "{said}");
}

#[test]
fn gc_without_a_list_detaches_what_libcni_knows_and_nothing_else() {
    let Some(tool) = Tool::new() else { return };
    tool.configure("1.1.0", &[bridge(&tool)]);
    let mut conf = bridge(&tool);
    merge(&mut conf, json!({"cniVersion": "1.1.0", "name": "podnet"}));
    let (known, unknown) = (Pod::new(), Pod::new());
    tool.must("add", &known.path());
    tool.node.add(&conf, "unknown", &unknown);
    assert_eq!(tool.node.leased(), ["10.1.2.2", "10.1.2.3", "fd00:1::2", "fd00:1::3"]);
    // cnitool names nobody as valid: libcni calls DEL for each attachment it remembers, then GC without a list.
    tool.must("gc", &known.path());
    assert_eq!(tool.node.leased(), ["10.1.2.3", "fd00:1::3"]);
    assert!(unknown.ip(&["link"]).contains("eth0"));
    tool.node.del(&conf, "unknown", &unknown);
}
