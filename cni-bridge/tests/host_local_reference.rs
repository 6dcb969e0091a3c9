//! host-local and the reference's, in turn on the same files, against a model of what must be leased.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::leases::{Ipam, command};
use common::{Answer, PLUGIN, Pod, feed, reference};
use serde_json::{Value, json};

/// Numbers that are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One call, by ours or by the reference's.
fn call(reference: Option<&Path>, verb: &str, conf: &Value, id: &str, ifname: &str) -> Answer {
    let mut ours = command(verb, id, ifname, "/dev/null");
    let Some(dir) = reference else { return feed(&mut ours, conf.to_string().as_bytes()) };
    let mut theirs = Command::new(dir.join("host-local"));
    theirs.env_clear().env("CNI_PATH", dir).env("CNI_NETNS", "/proc/1/ns/net");
    theirs.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_IFNAME", ifname);
    feed(&mut theirs, conf.to_string().as_bytes())
}

fn addresses(answer: &Answer) -> Vec<String> {
    let ips = answer.json()["ips"].as_array().unwrap().clone();
    let bare = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    ips.iter().map(bare).collect()
}

#[test]
fn whoever_adds_and_deletes_both_see_the_same_leases() {
    let Some(dir) = reference() else { return };
    let ipam = Ipam::new();
    // Small enough to be exhausted now and then.
    let ranges = json!([[{"subnet": "10.1.2.0/28"}], [{"subnet": "fd00::/123"}]]);
    let conf = ipam.conf(json!({"cniVersion": "1.0.0", "ipam": {"ranges": ranges}}));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut model: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let (mut added, mut full, mut twice) = (0, 0, 0);
    for step in 0..400 {
        let whose = (random.below(2) == 0).then_some(dir.as_path());
        let (id, ifname) = (format!("pod{}", random.below(16)), format!("eth{}", random.below(2)));
        let key = (id.clone(), ifname.clone());
        let context = format!("step {step}, {id} {ifname}, reference: {}", whose.is_some());
        if random.below(5) < 3 {
            let answer = call(whose, "ADD", &conf, &id, &ifname);
            if answer.ok {
                let ips = addresses(&answer);
                assert!(!model.contains_key(&key), "{context}: a second time");
                assert!(model.values().flatten().all(|ip| !ips.contains(ip)), "{context}: {ips:?} is another's");
                model.insert(key, ips);
                added += 1;
            } else if answer.message().contains("duplicate allocation") {
                assert!(model.contains_key(&key), "{context}: {answer:?}");
                twice += 1;
            } else {
                assert!(answer.message().contains("no IP addresses available"), "{context}: {answer:?}");
                assert_eq!(model.len(), 13, "{context}");
                full += 1;
            }
        } else {
            assert!(call(whose, "DEL", &conf, &id, &ifname).ok, "{context}");
            model.remove(&key);
        }
        let mut expected: Vec<_> = model.values().flatten().cloned().collect();
        expected.sort();
        assert_eq!(ipam.leased(), expected, "{context}");
    }
    assert!(added > 50 && full > 0 && twice > 20, "{added} added, {full} times full, {twice} twice");
    for (id, ifname) in model.keys() {
        assert!(call(None, "DEL", &conf, id, ifname).ok);
    }
    assert_eq!(ipam.leased(), Vec::<String>::new());
}

#[test]
fn the_references_plugins_call_ours_for_addresses() {
    let Some(dir) = reference() else { return };
    let ipam = Ipam::new();
    let path = ipam.dir.path().join("bin");
    std::fs::create_dir(&path).unwrap();
    for kind in ["host-local", "static"] {
        std::os::unix::fs::symlink(PLUGIN, path.join(kind)).unwrap();
    }
    let fixed = json!({"type": "static", "addresses": [{"address": "10.1.2.2/24", "gateway": "10.1.2.1"}]});
    for (main, ipam_conf) in [("ptp", ipam.conf(json!({}))["ipam"].clone()), ("bridge", fixed)] {
        for version in ["0.2.0", "0.4.0", "1.0.0"] {
            let pod = Pod::new();
            let mut conf =
                json!({"cniVersion": version, "name": "net", "type": main, "bridge": "br0", "ipam": ipam_conf});
            let run = |verb: &str, conf: &Value| {
                let mut command = Command::new(dir.join(main));
                command.env_clear().env("CNI_PATH", &path).env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "a");
                command.env("CNI_IFNAME", "eth0").env("CNI_NETNS", pod.path());
                let answer = feed(&mut command, conf.to_string().as_bytes());
                assert!(answer.ok, "{main} {version} {verb}: {}", answer.text);
                answer
            };
            let result = run("ADD", &conf).json();
            let address = if version < "0.3.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
            assert!(pod.ip(&["-o", "address"]).contains(address.as_str().unwrap()), "{result}");
            conf["prevResult"] = result;
            if version >= "0.4.0" {
                run("CHECK", &conf);
            }
            run("DEL", &conf);
            assert_eq!(ipam.leased(), Vec::<String>::new(), "{main} {version}");
        }
    }
}
