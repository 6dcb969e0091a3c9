//! Two nodes of a cluster and pods on both, with what flanneld sets up between them: a VXLAN, an MTU of 1450, a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::Command;

use common::chain::{Chain, Whose};
use common::world::{converse, dial, listen};
use common::{Pod, ip_json};
use serde_json::{Value, json};

/// The second node is number 2, of 192.0.2.2 on the wire and 10.244.2.0/24 among pods; the first is number 1.
struct Member {
    number: u8,
    host: Pod,
    files: tempfile::TempDir,
}

impl Member {
    fn new(number: u8) -> Member {
        let (host, files) = (Pod::new(), testkit::scratch());
        host.ip(&["link", "set", "lo", "up"]);
        let lease = format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.{number}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        fs::write(files.path().join("subnet.env"), lease).unwrap();
        Member { number, host, files }
    }

    fn ip(&self, words: &str) {
        self.host.ip(&words.split(' ').collect::<Vec<_>>());
    }

    /// The wire to the other node.
    fn connect(&self, other: &Member) {
        let there = ["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns"];
        testkit::run(self.host.command("ip").args(there).arg(other.host.path()));
        for member in [self, other] {
            member.ip(&format!("address add 192.0.2.{}/24 dev wire", member.number));
            member.ip("link set wire up");
        }
    }

    /// What flanneld does: a device that knows all the others, and a route to each one's pods.
    fn tunnel(&self) {
        let n = self.number;
        self.ip(&format!("link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.{n} dev wire nolearning"));
        self.ip(&format!("link set flannel.1 address 02:00:00:00:00:0{n} up"));
        self.ip(&format!("address add 10.244.{n}.0/32 dev flannel.1"));
    }

    fn knows(&self, other: &Member) {
        let n = other.number;
        self.ip(&format!("neighbour add 10.244.{n}.0 lladdr 02:00:00:00:00:0{n} dev flannel.1"));
        self.ip(&format!("route add 10.244.{n}.0/24 via 10.244.{n}.0 dev flannel.1 onlink"));
        let entry =
            ["fdb", "append", &format!("02:00:00:00:00:0{n}"), "dev", "flannel.1", "dst", &format!("192.0.2.{n}")];
        testkit::run(self.host.command("bridge").args(entry));
    }

    fn chain(&self) -> Chain {
        let at = |name: &str| json!(self.files.path().join(name));
        let flannel = json!({
            "type": "flannel", "subnetFile": at("subnet.env"), "dataDir": at("flannel"),
            "ipam": {"dataDir": at("leases")}, "delegate": {"hairpinMode": true, "isDefaultGateway": true},
        });
        Chain::new(Whose::Ours, "1.0.0", vec![flannel])
    }

    fn add(&self, id: &str) -> (Pod, Value) {
        let pod = Pod::new();
        let result = self.host.inside(|| self.chain().add(id, &pod));
        (pod, result)
    }

    /// A counter of the IP layer (`/proc/net/snmp`: a line of names, a line of numbers).
    fn ip_statistic(&self, name: &str) -> String {
        let text = testkit::output(self.host.command("cat").arg("/proc/net/snmp"));
        let mut lines = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
        let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
        names.zip(numbers).find(|(each, _)| *each == name).unwrap().1.to_owned()
    }

    fn leases(&self) -> Vec<String> {
        let all = fs::read_dir(self.files.path().join("leases/podnet")).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }
}

#[test]
fn a_pod_of_one_node_reaches_a_pod_of_the_other() {
    let (first, second) = (Member::new(1), Member::new(2));
    first.connect(&second);
    [&first, &second].iter().for_each(|member| member.tunnel());
    first.knows(&second);
    second.knows(&first);
    let (a, result) = first.add("a");
    let (b, _) = second.add("b");
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/24");
    for (pod, there) in [(&a, "10.244.2.2"), (&b, "10.244.1.2"), (&a, "10.244.2.1"), (&b, "10.244.2.1")] {
        assert!(pod.pings(there), "{there}");
    }
    for (member, pod) in [(&first, &a), (&second, &b)] {
        let mtu = |command: &mut Command| ip_json(command)["mtu"].clone();
        assert_eq!(mtu(pod.command("ip").args(["-j", "link", "show", "eth0"])), 1450);
        assert_eq!(mtu(member.host.command("ip").args(["-j", "link", "show", "cni0"])), 1450);
    }
    // The pod itself is seen: inside of the cluster nobody masquerades.
    let listener = b.inside(listen);
    let seen = converse(&listener, |port| a.inside(|| dial("10.244.2.2", port)));
    assert_eq!(seen.to_string(), "10.244.1.2");
    // Full packets fit into the tunnel: none is too big for the wire, and none is taken apart.
    let sent = vec![7; 1 << 20];
    let port = listener.local_addr().unwrap().port();
    let mut stream = a.inside(|| dial("10.244.2.2", port));
    let (mut accepted, _) = listener.accept().unwrap();
    let writer = std::thread::spawn(move || stream.write_all(&sent).unwrap());
    let mut heard = Vec::new();
    accepted.read_to_end(&mut heard).unwrap();
    writer.join().unwrap();
    assert_eq!(heard.len(), 1 << 20);
    assert_eq!(first.ip_statistic("FragCreates"), "0");
    for (member, pod, id) in [(&first, &a, "a"), (&second, &b, "b")] {
        member.host.inside(|| member.chain().del(id, &pod.path(), &Value::Null));
        assert_eq!(member.leases(), Vec::<String>::new());
    }
    assert_eq!(fs::read_dir(first.files.path().join("flannel")).unwrap().count(), 0);
}
