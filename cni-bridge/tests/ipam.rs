//! Bridge with an IPAM plugin of somebody else's: called by the rules of delegation, whatever version it answers in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Answer, Node, Pod, command, feed, ip_json};
use serde_json::{Value, json};

/// A node with a plugin `lease` that answers ADD with `answer`, keeps what it was told, and notes its verbs.
struct Leased {
    node: Node,
    network: &'static str,
}

impl Leased {
    /// Networks have names of their own: tables of nftables are per network, and a test's node is its own anyway.
    fn new(answer: &Value) -> Leased {
        let leased = Leased { node: Node::new(), network: "foreign" };
        leased.answer(answer);
        leased
    }

    fn answer(&self, answer: &Value) {
        let dir = self.node.dir.path().display();
        let script = format!(
            "#!/bin/sh\ncat > {dir}/told.$CNI_COMMAND\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $TRACEPARENT\" >> {dir}/calls\n\
             [ -e {dir}/fail.$CNI_COMMAND ] && {{ echo '{{\"code\":50,\"msg\":\"no lease today\"}}'; exit 1; }}\n\
             [ $CNI_COMMAND != ADD ] || cat <<'END'\n{answer}\nEND\n"
        );
        common::script(&self.node.dir.path().join("lease"), &script);
    }

    fn fail(&self, verb: &str) -> PathBuf {
        let path = self.node.dir.path().join(format!("fail.{verb}"));
        fs::write(&path, "").unwrap();
        path
    }

    /// The calls since the last look.
    fn calls(&self) -> Vec<String> {
        let path = self.node.dir.path().join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn told(&self, verb: &str) -> Value {
        serde_json::from_slice(&fs::read(self.node.dir.path().join(format!("told.{verb}"))).unwrap()).unwrap()
    }

    fn conf(&self, extra: Value) -> Value {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": self.network, "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
            "ipMasq": true, "ipam": {"type": "lease", "own": {"Key": [1]}},
        });
        common::merge(&mut conf, extra);
        conf
    }

    fn call(&self, verb: &str, conf: &Value, id: &str, netns: &str) -> Answer {
        let mut command = command(verb, id, netns);
        command.env("CNI_PATH", format!("/none:{}", self.node.dir.path().display())).env("TRACEPARENT", "trace");
        feed(command.env("PATH", std::env::var_os("PATH").unwrap()), conf.to_string().as_bytes())
    }
}

fn dhcp() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.5.0.7/24", "gateway": "10.5.0.254"}, {"address": "10.6.0.7/24"}, {"address": "fd00:5::7/64"}],
        "routes": [{"dst": "192.168.0.0/16", "gw": "10.5.0.9"}, {"dst": "172.16.0.0/12"}],
        "dns": {"nameservers": ["10.5.0.53"], "domain": "example.org"},
    })
}

// Behaviours 34, 35, 36, 76 with somebody else's addresses.
#[test]
fn addresses_gateways_routes_and_dns_of_another_plugin_are_the_pods() {
    let leased = Leased::new(&dhcp());
    let pod = Pod::new();
    let conf = leased.conf(json!({}));
    let done = leased.call("ADD", &conf, "a", &pod.path());
    assert!(done.ok, "{done:?}");
    let result = done.json();
    let told: Vec<_> = result["ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| (ip["address"].as_str().unwrap(), ip["gateway"].as_str().unwrap(), ip["interface"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        told,
        [("10.5.0.7/24", "10.5.0.254", 2), ("10.6.0.7/24", "10.6.0.1", 2), ("fd00:5::7/64", "fd00:5::1", 2)],
        "a gateway nobody named is the first address"
    );
    assert_eq!(result["dns"], json!({"nameservers": ["10.5.0.53"], "domain": "example.org"}));
    let routes = pod.ip(&["route"]);
    for route in ["default via 10.5.0.254", "192.168.0.0/16 via 10.5.0.9", "172.16.0.0/12 via 10.5.0.254"] {
        assert!(routes.contains(route), "{route}: {routes}");
    }
    assert!(pod.ip(&["-6", "route"]).contains("default via fd00:5::1"));
    let bridge = ip_json(std::process::Command::new("ip").args(["-j", "address", "show", "br0"])).to_string();
    for gateway in ["10.5.0.254", "10.6.0.1", "fd00:5::1"] {
        assert!(bridge.contains(gateway), "{gateway}: {bridge}");
    }
    assert!(pod.pings("10.5.0.254") && pod.pings("fd00:5::1"));
    // The whole configuration and the whole environment, as they came.
    assert_eq!((leased.told("ADD"), leased.calls()), (conf.clone(), vec!["ADD a eth0 trace".to_owned()]));

    let mut check = conf.clone();
    check["prevResult"] = result;
    assert!(leased.call("CHECK", &check, "a", &pod.path()).ok);
    assert_eq!(
        (leased.calls(), leased.told("CHECK")["prevResult"].is_object()),
        (vec!["CHECK a eth0 trace".to_owned()], true)
    );
    let failing = leased.fail("CHECK");
    assert_eq!(leased.call("CHECK", &check, "a", &pod.path()).message(), "plugin lease: no lease today");
    fs::remove_file(failing).unwrap();

    assert!(leased.call("DEL", &conf, "a", &pod.path()).ok && leased.call("DEL", &conf, "a", "").ok);
    assert_eq!(leased.node.ruleset(), "");
    assert_eq!(leased.node.links(), ["br0"]);
}

#[test]
fn an_answer_in_any_version_is_understood() {
    for (version, answer) in [
        (
            "0.2.0",
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.5.0.7/24", "gateway": "10.5.0.1", "routes": [{"dst": "192.168.0.0/16"}]}}),
        ),
        (
            "0.4.0",
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.5.0.7/24", "gateway": "10.5.0.1"}], "routes": [{"dst": "192.168.0.0/16"}]}),
        ),
        (
            "1.1.0",
            json!({"cniVersion": "1.1.0", "ips": [{"address": "10.5.0.7/24", "gateway": "10.5.0.1"}], "routes": [{"dst": "192.168.0.0/16"}]}),
        ),
    ] {
        let leased = Leased::new(&answer);
        let pod = Pod::new();
        let done = leased.call("ADD", &leased.conf(json!({"cniVersion": "1.0.0"})), "a", &pod.path());
        assert!(done.ok, "{version}: {done:?}");
        assert!(pod.ip(&["route"]).contains("192.168.0.0/16 via 10.5.0.1"), "{version}");
    }
}

// Behaviour 50.
#[test]
fn whatever_fails_afterwards_is_followed_by_the_other_plugins_del() {
    let leased = Leased::new(
        &json!({"cniVersion": "1.0.0", "ips": [{"address": "10.5.0.7/24"}], "routes": [{"dst": "192.168.0.0/16", "gw": "172.30.0.1"}]}),
    );
    let pod = Pod::new();
    let nothing_is_left = |calls: &[&str]| {
        assert_eq!(leased.calls(), calls);
        assert_eq!(leased.node.ruleset(), "");
        assert!(!pod.ip(&["link"]).contains("eth0"));
        assert!(leased.node.links().iter().all(|link| link == "br0"));
    };
    let both = ["ADD a eth0 trace", "DEL a eth0 trace"];
    let refused = leased.call("ADD", &leased.conf(json!({})), "a", &pod.path());
    assert!(refused.message().contains("add the route to 192.168.0.0/16"), "{refused:?}");
    nothing_is_left(&both);
    // It fails itself: the specification wants its DEL all the same.
    let failing = leased.fail("ADD");
    let refused = leased.call("ADD", &leased.conf(json!({})), "a", &pod.path());
    assert_eq!((refused.code(), refused.message().as_str()), (50, "plugin lease: no lease today"));
    nothing_is_left(&both);
    fs::remove_file(failing).unwrap();
    // It answers without an address.
    leased.answer(&json!({"cniVersion": "1.0.0"}));
    let refused = leased.call("ADD", &leased.conf(json!({})), "a", &pod.path());
    assert_eq!(refused.message(), "IPAM plugin returned missing IP config");
    nothing_is_left(&both);
    // Its DEL fails as well: both are told.
    leased.fail("DEL");
    let refused = leased.call("ADD", &leased.conf(json!({})), "a", &pod.path());
    assert!(refused.text.contains("undoing failed: plugin lease: no lease today"), "{refused:?}");
    assert_eq!(leased.call("DEL", &leased.conf(json!({})), "a", &pod.path()).message(), "plugin lease: no lease today");
}

// The masquerading of a network whose leases somebody else counts.
#[test]
fn the_last_pod_of_another_plugin_ends_the_masquerading_and_no_earlier_one() {
    let leased = Leased::new(&dhcp());
    let (a, b) = (Pod::new(), Pod::new());
    let conf = leased.conf(json!({}));
    assert!(leased.call("ADD", &conf, "a", &a.path()).ok);
    leased.answer(&json!({"cniVersion": "1.0.0", "ips": [{"address": "10.5.0.8/24", "gateway": "10.5.0.254"}]}));
    let forced = leased.conf(json!({"forceAddress": true}));
    assert!(leased.call("ADD", &forced, "b", &b.path()).ok);
    let masquerades = || leased.node.ruleset().matches("ip saddr 10.5.0.0/24").count();
    assert_eq!(masquerades(), 1);
    assert!(leased.call("DEL", &conf, "a", &a.path()).ok && leased.call("DEL", &conf, "never", "").ok);
    assert_eq!(masquerades(), 1, "b needs it");
    assert!(leased.call("DEL", &conf, "b", "").ok);
    assert_eq!(leased.node.ruleset(), "");
    // GC does the same for who was never taken down, and asks the other plugin too.
    for (id, pod) in [("a", &a), ("b", &b)] {
        assert!(leased.call("ADD", &forced, id, &pod.path()).ok, "{id}");
        assert!(!leased.calls().is_empty());
    }
    let gc = |valid: Value| leased.call("GC", &leased.conf(json!({"cni.dev/valid-attachments": valid})), "", "");
    assert!(gc(json!([{"containerID": "b", "ifname": "eth0"}])).ok);
    assert_eq!((masquerades(), leased.calls()), (1, vec!["GC  eth0 trace".to_owned()]));
    assert!(!a.ip(&["link"]).contains("eth0") && b.ip(&["link"]).contains("eth0"));
    assert!(gc(json!([])).ok);
    assert_eq!((leased.node.ruleset(), leased.node.links()), (String::new(), vec!["br0".to_owned()]));
}

#[test]
fn status_is_the_other_plugins_too() {
    let leased = Leased::new(&dhcp());
    assert!(leased.call("STATUS", &leased.conf(json!({})), "", "").ok);
    assert_eq!(leased.calls(), ["STATUS  eth0 trace"]);
    leased.fail("STATUS");
    let refused = leased.call("STATUS", &leased.conf(json!({})), "", "");
    assert_eq!((refused.code(), refused.message().as_str()), (50, "plugin lease: no lease today"));
}

// Ours, run in this process, but for its files and its answer like any other.
#[test]
fn static_addresses_are_given_without_a_plugin_to_call() {
    let node = Node::new();
    let pod = Pod::new();
    let mut conf = json!({
        "cniVersion": "1.0.0", "name": "foreign", "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true,
        "ipam": {"type": "static", "addresses": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}], "routes": [{"dst": "0.0.0.0/0"}]},
    });
    let result = node.add(&conf, "a", &pod);
    assert_eq!(result["ips"][0], json!({"address": "10.7.0.9/24", "gateway": "10.7.0.1", "interface": 2}));
    assert!(pod.ip(&["route"]).contains("default via 10.7.0.1") && pod.pings("10.7.0.1"));
    conf["prevResult"] = result;
    assert!(common::call("CHECK", &conf, "a", &pod.path()).ok);
    node.del(&conf, "a", &pod);
    assert_eq!((node.links(), node.ruleset()), (vec!["br0".to_owned()], String::new()));
}

// libcni takes such a result for one of the configuration's version.
#[test]
fn an_answer_without_a_version_is_of_the_configurations() {
    let leased = Leased::new(&json!({"ips": [{"address": "10.5.0.7/24"}]}));
    let pod = Pod::new();
    let done = leased.call("ADD", &leased.conf(json!({})), "a", &pod.path());
    assert!(done.ok, "{done:?}");
    assert_eq!(done.json()["ips"][0]["address"], "10.5.0.7/24");
}

#[test]
fn what_is_no_answer_is_said_to_be_the_plugins_and_not_the_configurations() {
    let leased = Leased::new(&Value::Null);
    let pod = Pod::new();
    let add = |script: &str| {
        common::script(&leased.node.dir.path().join("lease"), &format!("#!/bin/sh\n{script}\n"));
        leased.call("ADD", &leased.conf(json!({})), "a", &pod.path())
    };
    let refused = add("echo hello").message();
    assert!(refused.starts_with("the result of lease is unreadable: it is not JSON: "), "{refused}");
    let refused = add("head -c 100000 /dev/zero | tr '\\0' x; exit 1").json();
    assert!((1000..2000).contains(&refused["details"].as_str().unwrap().len()), "nobody reads more");
}

#[test]
fn a_plugin_that_talks_before_it_reads_a_long_configuration_is_heard_and_fed() {
    let leased = Leased::new(&Value::Null);
    let pod = Pod::new();
    let script = r#"#!/bin/sh
        timeout 20 sh -c 'head -c 200000 /dev/zero | tr "\0" " "' || { cat > /dev/null; echo nobody listens; exit 1; }
        echo '{"ips": [{"address": "10.5.0.7/24"}]}'
        cat > /dev/null"#;
    common::script(&leased.node.dir.path().join("lease"), script);
    let added = leased.call("ADD", &leased.conf(json!({"long": "x".repeat(200_000)})), "a", &pod.path());
    assert!(added.ok, "{added:?}");
}
