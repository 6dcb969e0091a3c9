//! Type `host-local` by its own name, as any other plugin calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::leases::{Ipam, add, call, command, del, refused};
use common::{PLUGIN, feed, merge};
use serde_json::{Value, json};

// Behaviours 73, 74, 75, 76, 81.
#[test]
fn leases_routes_and_the_last_address_are_as_the_reference_writes_them() {
    let ipam = Ipam::new();
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "1.1.1.1"}, {"dst": "2001:db8::/32", "mtu": 1400}]);
    let conf = ipam.conf(
        json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]], "routes": routes}}),
    );
    let answer = call("ADD", &conf, "a");
    let result = answer.json();
    assert_eq!(answer.stderr, "");
    assert_eq!(
        result["ips"],
        json!([{"address": "10.1.2.2/24", "gateway": "10.1.2.1"},
        {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"}])
    );
    assert_eq!((&result["routes"], &result["cniVersion"]), (&routes, &json!("1.1.0")));
    assert!(result.get("interfaces").is_none() && result.get("dns").is_none());
    assert_eq!((ipam.text("10.1.2.2"), ipam.text("2001:db8:1::2")), ("a\r\neth0".into(), "a\r\neth0".into()));
    assert_eq!(
        (ipam.text("last_reserved_ip.0"), ipam.text("last_reserved_ip.1")),
        ("10.1.2.2".into(), "2001:db8:1::2".into())
    );
    assert!(call("CHECK", &conf, "a").ok);
    del(&conf, "a");
    assert_eq!(ipam.leased(), Vec::<String>::new());
    assert_eq!(ipam.text("last_reserved_ip.0"), "10.1.2.2", "the round goes on");
    let gone = call("CHECK", &conf, "a");
    assert_eq!(gone.message(), "host-local: Failed to find address added by container a");
}

// Behaviours 16, 17, 18, 34.
#[test]
fn the_result_has_the_form_of_each_version() {
    let ipam = Ipam::new();
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let conf = ipam.conf(json!({"cniVersion": version}));
        let result = call("ADD", &conf, "a").json();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result.get("ip4").is_some(), version < "0.3.0", "{result}");
        assert_eq!(result["ips"][0]["version"] == "4", ("0.3.0".."1.0.0").contains(&version));
        assert_eq!(result.get("dns").is_some(), version < "1.0.0", "{result}");
        del(&conf, "a");
    }
    let two = ipam.conf(
        json!({"cniVersion": "0.2.0", "ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/24"}]]}}),
    );
    assert_eq!(refused(&two, "a"), "CNI version 0.2.0 does not support more than 1 address per family");
    assert_eq!(ipam.leased(), Vec::<String>::new());
}

// Behaviours 77, 78, 79, 80.
#[test]
fn attachments_are_told_apart_by_network_id_and_interface() {
    let ipam = Ipam::new();
    let conf = ipam.conf(json!({}));
    let other = ipam.conf(json!({"name": "other"}));
    assert_eq!((add(&conf, "a"), add(&other, "a")), (vec!["10.1.2.2/24".to_owned()], vec!["10.1.2.2/24".to_owned()]));
    assert_eq!(
        refused(&conf, "a"),
        "failed to allocate for range 0: 10.1.2.2 has been allocated to a, duplicate allocation is not allowed"
    );
    let second = feed(&mut command("ADD", "a", "eth1", "/dev/null"), conf.to_string().as_bytes());
    assert_eq!(second.json()["ips"][0]["address"], "10.1.2.3/24", "another interface of the container");
    assert_eq!(add(&conf, "b"), ["10.1.2.4/24"]);
    del(&conf, "a");
    assert_eq!(ipam.leased(), ["10.1.2.3", "10.1.2.4"]);
    del(&conf, "unknown");
    ipam.lease("10.1.2.9", "legacy", false);
    ipam.lease("10.1.2.10", "legacy2\n", false);
    for id in ["legacy", "legacy2"] {
        assert!(refused(&conf, id).contains("duplicate allocation"), "{id}");
        assert!(call("CHECK", &conf, id).ok, "{id}");
        del(&conf, id);
    }
    assert_eq!(ipam.leased(), ["10.1.2.3", "10.1.2.4"]);
    assert!(ipam.dir.path().join("other/10.1.2.2").exists(), "the other network keeps its own");
}

// Behaviours 19, 82, 83, 84.
#[test]
fn addresses_asked_for_come_from_every_source() {
    let ipam = Ipam::new();
    let both = json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.4.0.0/24"}], [{"subnet": "2001:db8:1::/64"}]]}});
    let with = |extra: Value| {
        let mut conf = ipam.conf(both.clone());
        merge(&mut conf, extra);
        conf
    };
    assert_eq!(
        add(&with(json!({"args": {"cni": {"ips": ["10.4.0.50", "2001:db8:1::999"]}}})), "a"),
        ["10.4.0.50/24", "2001:db8:1::999/64"]
    );
    assert_eq!(
        add(&with(json!({"RuntimeConfig": {"IPs": ["2001:DB8:1:0::77/64"]}})), "b"),
        ["10.4.0.51/24", "2001:db8:1::77/64"]
    );
    let args = feed(
        command("ADD", "c", "eth0", "/dev/null").env("CNI_ARGS", "IgnoreUnknown=1;X=y;IP=10.1.2.88"),
        with(json!({})).to_string().as_bytes(),
    );
    assert_eq!(args.json()["ips"][0]["address"], "10.1.2.88/24");
    let bad = feed(
        command("ADD", "d", "eth0", "/dev/null").env("CNI_ARGS", "IP=10.1.2"),
        with(json!({})).to_string().as_bytes(),
    );
    assert_eq!((bad.code(), bad.message().as_str()), (4, "CNI_ARGS: invalid IP address 10.1.2"));
    let ranges = json!({"runtimeConfig": {"ipRanges": [[{"Subnet": "10.9.0.0/24", "RangeStart": "10.9.0.20", "RangeEnd": "", "Gateway": "10.9.0.254"}]]}});
    let first = call("ADD", &with(ranges), "e").json();
    assert_eq!(first["ips"][0], json!({"address": "10.9.0.20/24", "gateway": "10.9.0.254"}), "{first}");
}

// Behaviours 85, 86.
#[test]
fn what_is_asked_for_and_not_to_be_had_fails_and_leaves_nothing() {
    let ipam = Ipam::new();
    let asking = |ips: &[&str]| {
        ipam.conf(json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.99"}], [{"subnet": "10.4.0.0/24"}]]}, "args": {"cni": {"ips": ips}}}))
    };
    assert_eq!(add(&asking(&["10.1.2.9"]), "a"), ["10.1.2.9/24", "10.4.0.2/24"]);
    let held = ipam.leased();
    for (ips, message) in [
        (
            vec!["10.4.0.9", "10.1.2.9"],
            "failed to allocate for range 0: requested IP address 10.1.2.9 is not available in range set 10.1.2.1-10.1.2.99",
        ),
        (vec!["10.4.0.1"], "failed to allocate for range 1: requested ip 10.4.0.1 is subnet's gateway"),
        (vec!["10.1.2.8", "10.1.2.7"], "failed to allocate all requested IPs: 10.1.2.8"),
        (vec!["10.1.2.8", "10.1.2.200"], "failed to allocate all requested IPs: 10.1.2.200"),
        (vec!["10.7.0.1", "10.8.0.1"], "failed to allocate all requested IPs: 10.7.0.1 10.8.0.1"),
    ] {
        let conf = asking(&ips);
        let said = refused(&conf, "b");
        assert!(
            said == message || ips == ["10.1.2.8", "10.1.2.7"] && said.starts_with("failed to allocate all"),
            "{ips:?}: {said}"
        );
        assert_eq!(ipam.leased(), held, "{ips:?}");
    }
}

// Behaviours 87, 88, 89.
#[test]
fn addresses_go_round_and_an_exhausted_network_says_whose_they_are() {
    let ipam = Ipam::new();
    let conf = ipam.of("10.1.2.0/29");
    for (id, address) in [("a", 2), ("b", 3), ("c", 4)] {
        assert_eq!(add(&conf, id), [format!("10.1.2.{address}/29")]);
    }
    del(&conf, "b");
    assert_eq!(add(&conf, "d"), ["10.1.2.5/29"], "what was given back just now is not given out at once");
    assert_eq!(add(&conf, "e"), ["10.1.2.6/29"]);
    assert!(call("STATUS", &conf, "").ok);
    assert_eq!(add(&conf, "f"), ["10.1.2.3/29"]);
    let full = call("ADD", &conf, "g");
    assert_eq!(full.code(), 100);
    assert_eq!(
        full.message(),
        "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.6"
    );
    let details = full.json()["details"].as_str().unwrap().to_owned();
    for words in
        ["5 of 5 addresses of \"net\" are leased, to 5 containers", "10.1.2.2 by a", ipam.net().to_str().unwrap()]
    {
        assert!(details.contains(words), "{words}: {details}");
    }
    let status = call("STATUS", &conf, "");
    assert_eq!(
        (status.code(), status.message().as_str()),
        (50, "no IP addresses available in range set: 10.1.2.1-10.1.2.6")
    );
    assert!(status.json()["details"].as_str().unwrap().contains("5 of 5"));
    del(&conf, "c");
    assert!(call("STATUS", &conf, "").ok);
    assert_eq!(add(&conf, "g"), ["10.1.2.4/29"]);
}

// Behaviour 90.
#[test]
fn ranges_that_cannot_be_are_refused_by_name_and_del_works_nevertheless() {
    let ipam = Ipam::new();
    add(&ipam.conf(json!({})), "a");
    let ranges = |ranges: Value| ipam.conf(json!({"ipam": {"ranges": ranges}}));
    for (wrong, words) in [
        (json!([[{"subnet": "10.1.2.0/31"}]]), "Network 10.1.2.0/31 too small to allocate from"),
        (json!([[{"subnet": "10.1.2.1/24"}]]), "Network has host bits set"),
        (json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1"}]]), "10.1.3.1 is not in network"),
        (json!([[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.1"}]]), "10.1.3.1 is not in network"),
        (json!([[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.0.0/16"}]]), "overlap"),
        (json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.0.0/16"}]]), "overlap"),
        (json!([[{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]]), "mixed address families"),
        (json!([[]]), "a set of ranges is empty"),
        (json!([[{"subnet": "::ffff:10.1.2.0/120"}]]), "IPv4"),
        (json!([]), "no IP ranges specified"),
    ] {
        let answer = call("ADD", &ranges(wrong.clone()), "b");
        assert_eq!(answer.code(), 7, "{wrong}");
        assert!(answer.message().contains(words), "{wrong}: {}", answer.message());
        assert!(call("STATUS", &ranges(wrong), "").message().contains(words));
    }
    assert_eq!(
        call("ADD", &json!({"cniVersion": "1.0.0", "name": "net"}), "b").message(),
        "IPAM config missing 'ipam' key"
    );
    del(&ranges(json!([[{"subnet": "10.1.2.0/31"}]])), "a");
    assert_eq!(ipam.leased(), Vec::<String>::new());
}

// Behaviours 36, 91.
#[test]
fn name_servers_come_from_the_file_that_is_named() {
    let ipam = Ipam::new();
    let file = ipam.dir.path().join("resolv.conf");
    fs::write(
        &file,
        "# comment\nnameserver 192.0.2.3\ndomain localdomain\nsearch a b\noptions four five\nnameserver\n",
    )
    .unwrap();
    let conf = ipam.conf(json!({"ipam": {"resolvConf": file}}));
    assert_eq!(
        call("ADD", &conf, "a").json()["dns"],
        json!({"nameservers": ["192.0.2.3"], "domain": "localdomain", "search": ["a", "b"], "options": ["four", "five"]})
    );
    fs::remove_file(&file).unwrap();
    assert!(refused(&conf, "b").contains(file.to_str().unwrap()));
    assert_eq!(call("STATUS", &conf, "").code(), 50);
    del(&conf, "a");
    assert_eq!(ipam.leased(), Vec::<String>::new());
}

// Behaviour 92.
#[test]
fn fifty_at_once_get_fifty_addresses_and_the_reference_waits_for_the_same_lock() {
    let ipam = Ipam::new();
    let conf = ipam.conf(json!({})).to_string();
    let start = |number: usize| {
        let mut command = command("ADD", &format!("pod{number}"), "eth0", "/dev/null");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), conf.as_bytes()).unwrap();
        child
    };
    let children: Vec<_> = (0..50).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(ipam.leased().len(), 50);
    // The lock as the reference takes it.
    let lock = File::open(ipam.net().join("lock")).unwrap();
    lock.lock().unwrap();
    let mut waiting = start(50);
    let pid = waiting.id().to_string();
    while !fs::read_to_string("/proc/locks").unwrap().lines().any(|line| line.contains("->") && line.contains(&pid)) {
        assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
        std::thread::yield_now();
    }
    drop(lock);
    assert!(waiting.wait().unwrap().success());
    assert_eq!(ipam.leased().len(), 51);
}

#[test]
fn gc_frees_what_is_not_on_the_list_of_this_network_only() {
    let ipam = Ipam::new();
    let conf = ipam.conf(json!({}));
    for id in ["a", "b", "c"] {
        add(&conf, id);
    }
    add(&ipam.conf(json!({"name": "other"})), "z");
    ipam.lease("10.1.2.50", "legacy", false);
    ipam.lease("10.1.2.51", "gone", false);
    ipam.lease("10.1.2.52", "", false);
    assert!(call("GC", &conf, "").ok, "without a list");
    assert_eq!(ipam.leased().len(), 6);
    for (key, valid, left) in [
        (
            "cni.dev/valid-attachments",
            json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth9"}, {"containerID": "c", "ifname": "eth0"}, {"containerID": "legacy", "ifname": "net7"}]),
            vec!["10.1.2.2", "10.1.2.4", "10.1.2.50"],
        ),
        ("cni.dev/attachments", json!([{"containerID": "a", "ifname": "eth0"}]), vec!["10.1.2.2"]),
        ("cni.dev/valid-attachments", json!([]), vec![]),
    ] {
        let answer = call("GC", &ipam.conf(json!({key: valid})), "");
        assert!(answer.ok && answer.text.is_empty(), "{answer:?}");
        assert_eq!(ipam.leased(), left);
    }
    assert!(ipam.dir.path().join("other/10.1.2.2").exists());
    assert!(ipam.net().join("last_reserved_ip.0").exists() && ipam.net().join("lock").exists());
}

#[test]
fn files_that_a_crash_left_empty_are_free() {
    let ipam = Ipam::new();
    ipam.lease("10.1.2.2", "", false);
    let conf = ipam.of("10.1.2.0/30");
    assert!(call("STATUS", &conf, "").ok, "it counts as free");
    assert_eq!(add(&conf, "a"), ["10.1.2.2/30"]);
    assert_eq!(ipam.text("10.1.2.2"), "a\r\neth0");
}

#[test]
fn a_directory_that_cannot_be_written_is_reported_by_status() {
    let ipam = Ipam::new();
    let at = |path: &str| ipam.conf(json!({"ipam": {"dataDir": path}}));
    let inside = at("/dev/null/leases");
    let status = call("STATUS", &inside, "");
    assert_eq!(
        (status.code(), status.message().as_str()),
        (50, "cannot write to /dev/null: Not a directory (os error 20)")
    );
    assert_eq!(call("ADD", &inside, "a").code(), 5);
    assert!(call("DEL", &inside, "a").ok);
    assert!(call("STATUS", &at(ipam.dir.path().join("not/there/yet").to_str().unwrap()), "").ok);
    assert!(!ipam.dir.path().join("not").exists());
    // Read-only, and full.
    let (plugin, data) = (ipam.dir.path().join("host-local"), ipam.dir.path().join("data"));
    std::os::unix::fs::symlink(PLUGIN, &plugin).unwrap();
    fs::create_dir(&data).unwrap();
    for (mount, reason) in
        [("mount -o ro -t tmpfs none", "Read-only file system"), ("mount -o size=4k -t tmpfs none", "No space left")]
    {
        let script = format!(r#"{mount} "$0" && {{ [ "$1" = ro ] || echo full > "$0/file"; }} && exec "$2""#);
        let mode = if reason.starts_with("Read") { "ro" } else { "full" };
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).args([data.to_str().unwrap(), mode, plugin.to_str().unwrap()]);
        let status = feed(command.env("CNI_COMMAND", "STATUS"), at(data.to_str().unwrap()).to_string().as_bytes());
        assert_eq!(status.code(), 50, "{status:?}");
        assert!(status.message().contains(reason) && status.message().contains(data.to_str().unwrap()), "{status:?}");
    }
}
