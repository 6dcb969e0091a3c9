//! Type `flannel`: flanneld's file, the plugin called with it, and what becomes of both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Answer, Node, Pod, command, feed, ip_json, reference};
use serde_json::{Value, json};

const V4: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
const V6: &str = "FLANNEL_IPV6_NETWORK=fd00:10::/56\nFLANNEL_IPV6_SUBNET=fd00:10:0:1::1/64\n";

struct Flannel {
    node: Node,
}

impl Flannel {
    fn new(subnet: &str) -> Flannel {
        let flannel = Flannel { node: Node::new() };
        fs::write(flannel.subnet_file(), subnet).unwrap();
        flannel
    }

    fn subnet_file(&self) -> PathBuf {
        self.node.dir.path().join("subnet.env")
    }

    fn notes(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.node.dir.path().join("flannel")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// As kube-flannel installs it.
    fn conf(&self, extra: Value) -> Value {
        let dir = self.node.dir.path();
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "podnet", "type": "flannel",
            "subnetFile": self.subnet_file(), "dataDir": dir.join("flannel"),
            "delegate": {"bridge": "br0", "hairpinMode": true, "isDefaultGateway": true},
            "ipam": {"dataDir": dir.join("leases")},
        });
        common::merge(&mut conf, extra);
        conf
    }

    fn call(&self, verb: &str, conf: &Value, id: &str, netns: &str) -> Answer {
        feed(command(verb, id, netns).env("CNI_PATH", self.node.dir.path()), conf.to_string().as_bytes())
    }

    fn add(&self, conf: &Value, id: &str, pod: &Pod) -> Value {
        let done = self.call("ADD", conf, id, &pod.path());
        assert!(done.ok, "{done:?}");
        done.json()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(
            (self.node.links(), self.node.leased(), self.node.ruleset(), self.notes()),
            (vec!["br0".to_owned()], vec![], String::new(), vec![])
        );
    }
}

#[test]
fn a_pod_gets_an_address_of_the_nodes_subnet_and_routes_to_the_cluster() {
    let flannel = Flannel::new(&format!("{V4}{V6}"));
    let (a, b) = (Pod::new(), Pod::new());
    let mut conf = flannel.conf(json!({"runtimeConfig": {"mac": "02:00:00:00:00:07"}}));
    let result = flannel.add(&conf, "a", &a);
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/24");
    assert_eq!(result["ips"][1]["address"], "fd00:10:0:1::2/64");
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:07", "what the runtime asks for is passed on");
    let routes = a.ip(&["route"]);
    assert!(routes.contains("10.244.0.0/16 via 10.244.1.1") && routes.contains("default via 10.244.1.1"), "{routes}");
    assert!(a.ip(&["-6", "route"]).contains("fd00:10::/56 via fd00:10:0:1::1"));
    assert_eq!(ip_json(a.command("ip").args(["-j", "link", "show", "eth0"]))["mtu"], 1450);
    assert_eq!(flannel.node.ruleset(), "", "flanneld masquerades");
    flannel.add(&flannel.conf(json!({})), "b", &b);
    assert!(a.pings("10.244.1.3") && b.pings("fd00:10:0:1::2"));
    conf["prevResult"] = result;
    assert_eq!(flannel.notes().len(), 2);
    assert!(flannel.call("CHECK", &conf, "a", &a.path()).ok);
    assert!(flannel.call("DEL", &conf, "a", &a.path()).ok);
    assert!(flannel.call("DEL", &conf, "b", "").ok && flannel.call("DEL", &conf, "b", "").ok);
    flannel.assert_nothing_is_left();
}

#[test]
fn where_flanneld_does_not_masquerade_the_bridge_does() {
    let flannel = Flannel::new(&V4.replace("IPMASQ=true", "IPMASQ=false"));
    let pod = Pod::new();
    flannel.add(&flannel.conf(json!({})), "a", &pod);
    assert!(flannel.node.ruleset().contains("ip saddr 10.244.1.0/24"));
    assert!(flannel.call("DEL", &flannel.conf(json!({})), "a", "").ok);
    flannel.assert_nothing_is_left();
}

// Each of these leaks the address and the interface with the reference.
#[test]
fn del_finds_everything_whatever_has_become_of_note_and_file() {
    let flannel = Flannel::new(&V4.replace("IPMASQ=true", "IPMASQ=false"));
    let note = flannel.node.dir.path().join("flannel/a");
    let changes: [&dyn Fn(); 5] = [
        &|| fs::remove_file(&note).unwrap(),
        &|| fs::write(&note, "{").unwrap(),
        &|| fs::write(&note, json!({"name": "other", "type": "bridge"}).to_string()).unwrap(),
        &|| fs::write(flannel.subnet_file(), V4.replace("10.244.1.1", "10.244.9.1")).unwrap(),
        &|| {
            fs::remove_file(&note).unwrap();
            fs::remove_file(flannel.subnet_file()).unwrap();
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        fs::write(flannel.subnet_file(), V4.replace("IPMASQ=true", "IPMASQ=false")).unwrap();
        let pod = Pod::new();
        flannel.add(&flannel.conf(json!({})), "a", &pod);
        change();
        for time in ["first", "second"] {
            let done = flannel.call("DEL", &flannel.conf(json!({})), "a", &pod.path());
            assert!(done.ok, "{time} DEL after change {number}: {done:?}");
        }
        let _ = fs::remove_file(&note); // another network's stays
        flannel.assert_nothing_is_left();
    }
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_left() {
    let flannel = Flannel::new(V4);
    let pod = Pod::new();
    let refused = |extra: Value| flannel.call("ADD", &flannel.conf(extra), "a", &pod.path()).message();
    assert!(refused(json!({"delegate": {"name": "x"}})).contains("must not have 'name' field"));
    assert!(refused(json!({"delegate": {"ipam": {}}})).contains("must not have 'ipam' field"));
    assert!(refused(json!({"delegate": {"type": "nonesuch"}})).contains(r#"failed to find plugin "nonesuch""#));
    assert!(
        refused(json!({"ipam": {"routes": [{"dst": "192.168.0.0/16", "gw": "172.16.0.1"}]}})).contains("add the route")
    );
    assert_eq!((flannel.node.leased().len(), flannel.notes().len()), (0, 0));
    fs::write(flannel.subnet_file(), "FLANNEL_MTU=1450\n").unwrap();
    assert!(refused(json!({})).contains("subnet.env is missing FLANNEL_NETWORK"));
    fs::remove_file(flannel.subnet_file()).unwrap();
    assert!(refused(json!({})).contains("failed to load flannel 'subnet.env' file"));
    assert!(flannel.notes().is_empty());
}

#[test]
fn status_says_that_flanneld_is_not_ready() {
    let flannel = Flannel::new(V4);
    let conf = flannel.conf(json!({"cniVersion": "1.1.0"}));
    assert!(flannel.call("STATUS", &conf, "", "").ok);
    fs::remove_file(flannel.subnet_file()).unwrap();
    let refused = flannel.call("STATUS", &conf, "", "");
    assert_eq!(refused.code(), 50);
    assert!(refused.text.contains("check the flannel pod log"), "{refused:?}");
    // And the other plugin's status is asked.
    fs::write(flannel.subnet_file(), V4.replace("10.244.1.1/24", "10.244.1.1/30")).unwrap();
    assert!(flannel.call("STATUS", &conf, "", "").ok);
    let pod = Pod::new();
    flannel.add(&conf, "a", &pod);
    assert_eq!(flannel.call("STATUS", &conf, "", "").code(), 50, "the one address is taken");
}

#[test]
fn check_finds_what_the_bridge_finds_and_a_subnet_that_is_no_more() {
    let flannel = Flannel::new(V4);
    let pod = Pod::new();
    let mut conf = flannel.conf(json!({}));
    conf["prevResult"] = flannel.add(&conf, "a", &pod);
    let check = || flannel.call("CHECK", &conf, "a", &pod.path());
    assert!(check().ok);
    fs::write(flannel.subnet_file(), V4.replace("10.244.1.1", "10.244.9.1")).unwrap();
    assert!(check().message().contains("has an address of 10.244.1.0/24, and the node's subnet is 10.244.9.0/24 now"));
    fs::remove_file(flannel.subnet_file()).unwrap();
    assert!(check().ok, "without the file nobody can say");
    pod.ip(&["route", "delete", "10.244.0.0/16"]);
    assert!(check().message().contains("lost its route to 10.244.0.0/16"));
}

#[test]
fn gc_collects_what_is_not_listed() {
    let flannel = Flannel::new(V4);
    let mut conf = flannel.conf(json!({"cniVersion": "1.1.0"}));
    let pods = [Pod::new(), Pod::new()];
    flannel.add(&conf, "a", &pods[0]);
    flannel.add(&conf, "b", &pods[1]);
    assert!(flannel.call("GC", &conf, "", "").ok);
    assert_eq!((flannel.node.leased().len(), flannel.notes().len()), (2, 2), "an absent list destroys nothing");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert!(flannel.call("GC", &conf, "", "").ok);
    assert_eq!((flannel.node.leased(), flannel.notes()), (vec!["10.244.1.2".to_owned()], vec!["a".to_owned()]));
    assert!(pods[0].ip(&["link"]).contains("eth0") && !pods[1].ip(&["link"]).contains("eth0"));
}

// Any other plugin is executed, with what flanneld wrote.
#[test]
fn another_plugin_is_called_by_its_name() {
    let flannel = Flannel::new(V4);
    let dir = flannel.node.dir.path();
    let script = format!(
        "#!/bin/sh\ncat > {0}/$CNI_COMMAND.json\n[ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.244.1.9/24\"}}]}}'\n",
        dir.display()
    );
    common::script(&dir.join("other"), &script);
    let pod = Pod::new();
    let conf = flannel.conf(json!({"delegate": {"type": "other"}}));
    assert_eq!(flannel.add(&conf, "a", &pod)["ips"][0]["address"], "10.244.1.9/24");
    let told =
        |verb: &str| -> Value { serde_json::from_slice(&fs::read(dir.join(format!("{verb}.json"))).unwrap()).unwrap() };
    assert_eq!(
        (&told("ADD")["mtu"], &told("ADD")["type"], &told("ADD")["name"]),
        (&json!(1450), &json!("other"), &json!("podnet"))
    );
    assert_eq!(told("ADD")["ipam"]["ranges"], json!([[{"subnet": "10.244.1.0/24"}]]));
    fs::write(flannel.subnet_file(), V4.replace("10.244.1.1", "10.244.9.1")).unwrap();
    assert!(flannel.call("DEL", &conf, "a", &pod.path()).ok);
    assert_eq!(told("DEL")["ipam"]["ranges"], json!([[{"subnet": "10.244.1.0/24"}]]), "as it was added");
    // Lost the note, and the file: the runtime remembers the address.
    let mut conf = conf;
    fs::remove_file(flannel.subnet_file()).unwrap();
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.9/24"}]});
    assert!(flannel.call("DEL", &conf, "a", &pod.path()).ok);
    assert_eq!(told("DEL")["ipam"]["ranges"], json!([[{"subnet": "10.244.1.0/24"}]]));
}

// A node that moves over: what flannel-io's plugin noted when it called the reference bridge.
#[test]
fn what_the_reference_noted_is_undone() {
    let Some(dir) = reference() else { return };
    let flannel = Flannel::new(V4);
    let pod = Pod::new();
    let noted = json!({
        "cniVersion": "1.0.0", "name": "podnet", "type": "bridge", "bridge": "br0", "isGateway": true,
        "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false, "mtu": 1450,
        "ipam": {
            "type": "host-local", "dataDir": flannel.node.dir.path().join("leases"),
            "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "10.244.0.0/16"}],
        },
    });
    let mut add = Command::new(dir.join("bridge"));
    add.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "a").env("CNI_IFNAME", "eth0").env("CNI_NETNS", pod.path());
    assert!(feed(add.env("CNI_PATH", &dir), noted.to_string().as_bytes()).ok);
    fs::create_dir(flannel.node.dir.path().join("flannel")).unwrap();
    fs::write(flannel.node.dir.path().join("flannel/a"), noted.to_string()).unwrap();
    assert!(flannel.call("DEL", &flannel.conf(json!({})), "a", &pod.path()).ok);
    flannel.assert_nothing_is_left();
}
