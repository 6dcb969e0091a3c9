//! The same configuration through ours and through the reference's plugins: the same result, the same to the kernel after
//! ADD and after DEL, and what one attached the other detaches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::chain::{Chain, Whose};
use common::picture::Picture;
use common::{Node, Pod, merge, references};
use serde_json::{Value, json};

/// A list of plugins, and what is different about it.
struct Case {
    name: &'static str,
    /// Merged into the bridge's configuration, which has IPv4 addresses and no gateway.
    bridge: Value,
    after: Vec<Value>,
    /// Only newer versions of the reference know it.
    new: bool,
}

fn bridge(name: &'static str, bridge: Value) -> Case {
    Case { name, bridge, after: Vec::new(), new: false }
}

fn newer(name: &'static str, bridge: Value) -> Case {
    Case { name, bridge, after: Vec::new(), new: true }
}

fn chained(name: &'static str, after: Value) -> Case {
    let bridge = json!({"isDefaultGateway": true, "ipam": {"ranges": [[{"subnet": "fd00:1::/64"}]]}});
    Case { name, bridge, after: vec![after], new: false }
}

impl Case {
    /// Whether it makes rules of a firewall.
    fn rules(&self) -> bool {
        let mapped =
            |plugin: &Value| plugin["runtimeConfig"]["portMappings"].is_array() || plugin["type"] == "firewall";
        self.bridge["ipMasq"] == true || self.after.iter().any(mapped)
    }

    fn chain(&self, node: &Node, whose: Whose) -> Chain {
        let mut first = node.conf(json!({}));
        for key in ["cniVersion", "name"] {
            first.as_object_mut().unwrap().remove(key);
        }
        merge(&mut first, json!({"type": "bridge"}));
        merge(&mut first, self.bridge.clone());
        if first["ipam"].is_null() {
            first.as_object_mut().unwrap().remove("ipam");
        }
        let mut after = self.after.clone();
        for plugin in after.iter_mut().filter(|plugin| plugin["type"] == "tuning") {
            plugin["dataDir"] = json!(node.dir.path().join("tuning"));
        }
        Chain::new(whose, "1.0.0", [vec![first], after].concat())
    }

    /// Attaches a pod by one and detaches it by the other, on a node of its own.
    fn see(&self, adds: &Whose, deletes: &Whose) -> Seen {
        let work = || {
            // With a /run of its own, for the reference's iptables has a lock there.
            let node = Node::with_own_state();
            let pod = Pod::new();
            let chain = self.chain(&node, adds.clone());
            let result = match chain.try_add("a", &pod) {
                Ok(result) => result,
                Err(answer) => panic!("{}: {adds:?}: {answer:?}", self.name),
            };
            // Masquerading of the reference's is not what ours looks for.
            let own = matches!(adds, Whose::Ours) || !self.rules();
            if own && matches!(deletes, Whose::Ours) {
                let chain = self.chain(&node, Whose::Ours);
                chain.check("a", &pod, &result).unwrap_or_else(|answer| panic!("{}: CHECK: {answer:?}", self.name));
            }
            let attached = [Picture::of_node(), Picture::of_pod(&pod)];
            let chain = self.chain(&node, deletes.clone());
            chain.del("a", &pod.path(), &result);
            let detached = [Picture::of_node(), Picture::of_pod(&pod)];
            let addresses = result["ips"].as_array().cloned().unwrap_or_default();
            let addresses =
                addresses.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().into());
            let traces: Vec<String> = addresses.chain(["\"a\"".to_owned(), "podnet a ".to_owned()]).collect();
            let rules = node.ruleset();
            let rules = rules.lines().filter(|line| traces.iter().any(|trace| line.contains(trace.as_str())));
            Seen {
                result: plain(result),
                attached,
                detached,
                leased: node.leased(),
                rules: rules.map(str::to_owned).collect(),
            }
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
    }
}

/// What an attachment was, and what was left of it.
#[derive(Clone)]
struct Seen {
    result: Value,
    /// The node and the pod.
    attached: [Picture; 2],
    detached: [Picture; 2],
    leased: Vec<String>,
    /// Lines of the ruleset that are about the pod.
    rules: Vec<String>,
}

impl Seen {
    fn has_ipv6(&self) -> bool {
        self.attached[1].addresses["eth0"].iter().any(|address| address.contains(':'))
    }
}

/// Differences that are meant: in which case, what the difference is about, and why.
const MEANT: [(&str, &str, &str); 3] = [
    ("port mappings", "route_localnet", "ours takes it back with the last mapping that it made"),
    ("no addresses", "arp_notify", "1.1.1 sets it where there are addresses; later versions everywhere"),
    (
        "mtu",
        "link br0",
        "ours keeps the MTU it was given when its last port goes; theirs returns to the kernel's default",
    ),
];

/// Without what is random or names this test's namespaces.
fn plain(mut result: Value) -> Value {
    for interface in result["interfaces"].as_array_mut().unwrap() {
        let name = interface["name"].as_str().unwrap();
        if name.starts_with("veth") {
            interface["name"] = json!("<veth>");
        } else if name.starts_with("bwp") {
            interface["name"] = json!("<ifb>");
        }
        interface["mac"] = json!(interface["mac"].as_str().is_some_and(|mac| mac.len() == 17));
        interface["sandbox"] = json!(interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()));
    }
    // The reference 1.1.1 writes an empty "dns" where newer ones write none.
    result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
    result
}

/// Compares all there is to compare of one case with each of the references, and says everything that differs.
fn differences(case: &Case) -> Vec<String> {
    let mut all = Vec::new();
    for (dir, new) in references() {
        if case.new && !new {
            continue;
        }
        let reference = Whose::Reference(dir.clone());
        let mut say = |what: &str, words: Vec<String>| {
            let words = words.into_iter().map(|words| format!("{what}: {words}"));
            let meant = |words: &str| MEANT.iter().any(|(name, about, _)| *name == case.name && words.contains(about));
            all.extend(
                words.filter(|words| !meant(words)).map(|words| format!("{} ({}): {words}", case.name, dir.display())),
            );
        };
        let mut ours = case.see(&Whose::Ours, &Whose::Ours);
        let over = case.see(&reference, &Whose::Ours);
        // Debian's 1.9.1 cannot delete what it made for nftables: it misreads what iptables says.
        let broken = case.bridge["ipMasqBackend"] == "nftables";
        let mut theirs = if broken { over.clone() } else { case.see(&reference, &reference) };
        // With masquerading or port mappings the reference's DEL wants chains of its own to be there, and fails.
        let back = (!case.rules()).then(|| case.see(&Whose::Ours, &reference));
        if !new {
            // It came after 1.1.1.
            ours.attached[1].sysctls.insert("ipv6/conf/eth0/keep_addr_on_down".into(), "0".into());
        }
        if !ours.has_ipv6() {
            // Ours leaves IPv6 alone in a pod that has none: each look at it in `/proc/sys` takes the longer the more
            // pods there are.
            for seen in [&mut ours, &mut theirs] {
                seen.attached[1].forget_sysctl("accept_dad");
            }
        }
        if ours.result != theirs.result {
            say("result", vec![format!("{} and {}", ours.result, theirs.result)]);
        }
        for (place, whose) in ["node", "pod"].iter().enumerate() {
            say(&format!("attached, {whose}"), ours.attached[place].differences(&theirs.attached[place]));
            for (what, other) in
                [("detached", Some(&theirs)), ("moved over", Some(&over)), ("moved back", back.as_ref())]
            {
                let words = other.map(|other| ours.detached[place].differences(&other.detached[place]));
                say(&format!("{what}, {whose}"), words.unwrap_or_default());
            }
        }
        for (what, seen) in [("ours", Some(&ours)), ("moved over", Some(&over)), ("moved back", back.as_ref())] {
            say(
                &format!("left, {what}"),
                seen.map(|seen| [seen.leased.clone(), seen.rules.clone()].concat()).unwrap_or_default(),
            );
        }
    }
    all
}

fn alike(cases: &[Case]) {
    let all: Vec<String> = cases.iter().flat_map(differences).collect();
    assert!(all.is_empty(), "{} differences, ours first:\n{}", all.len(), all.join("\n"));
}

const V6: &str = "fd00:1::/64";

#[test]
fn addresses_and_gateways() {
    alike(&[
        bridge("no gateway", json!({})),
        bridge("gateway", json!({"isGateway": true})),
        bridge("default gateway", json!({"isDefaultGateway": true})),
        bridge("IPv6", json!({"isDefaultGateway": true, "ipam": {"subnet": V6}})),
        bridge("dual stack", json!({"isDefaultGateway": true, "ipam": {"ranges": [[{"subnet": V6}]]}})),
        bridge(
            "routes",
            json!({"isGateway": true, "ipam": {"routes": [{"dst": "10.9.0.0/16"}, {"dst": "0.0.0.0/0"}]}}),
        ),
        bridge("no addresses", json!({"ipam": null})),
        bridge("own gateway", json!({"isGateway": true, "ipam": {"gateway": "10.1.2.250"}})),
        bridge("dns", json!({"isGateway": true, "dns": {"nameservers": ["10.9.9.9"], "search": ["a.example"]}})),
        bridge(
            "static",
            json!({"isGateway": true, "ipam": {"type": "static", "subnet": null,
            "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}], "routes": [{"dst": "0.0.0.0/0"}]}}),
        ),
    ]);
}

#[test]
fn what_bridge_and_port_are_told() {
    alike(&[
        bridge("masquerade", json!({"isDefaultGateway": true, "ipMasq": true})),
        bridge(
            "masquerade IPv6",
            json!({"isDefaultGateway": true, "ipMasq": true, "ipam": {"ranges": [[{"subnet": V6}]]}}),
        ),
        bridge("hairpin", json!({"isGateway": true, "hairpinMode": true})),
        bridge("promiscuous", json!({"isGateway": true, "promiscMode": true})),
        bridge("mtu", json!({"isGateway": true, "mtu": 1400})),
        bridge("mac", json!({"isGateway": true, "args": {"cni": {"mac": "02:00:00:00:00:77"}}})),
        newer("isolation", json!({"isGateway": true, "portIsolation": true})),
        newer(
            "duplicates detected",
            json!({"isGateway": true, "enabledad": true, "ipam": {"ranges": [[{"subnet": V6}]]}}),
        ),
        newer("no interface up", json!({"ipam": null, "disableContainerInterface": true})),
        newer("nftables", json!({"isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "nftables"})),
    ]);
}

#[test]
fn port_mappings() {
    let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 8053, "containerPort": 53, "protocol": "udp"}]);
    alike(&[
        chained("port mappings", json!({"type": "portmap", "snat": true, "runtimeConfig": {"portMappings": mappings}})),
        chained("no port mappings", json!({"type": "portmap", "snat": true})),
    ]);
}

#[test]
fn firewalls() {
    alike(&[chained("firewall", json!({"type": "firewall", "backend": "iptables"}))]);
}

#[test]
fn tuned_interfaces() {
    alike(&[
        chained("tuning", json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}})),
        chained("tuned link", json!({"type": "tuning", "mtu": 1380, "promisc": true, "allmulti": true})),
    ]);
}

#[test]
fn bandwidths() {
    let rates = json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000});
    alike(&[
        chained("bandwidth", rates),
        chained("bandwidth in", json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000})),
    ]);
}
