//! Type tuning. Behaviour 104.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::chain::{Chain, Whose};
use common::{Node, Pod, call, ip_json, merge, reference};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

fn data_dir(node: &Node) -> PathBuf {
    node.dir.path().join("tuning")
}

/// A bridge without addresses, then tuning.
fn chain(node: &Node, whose: Whose, extra: Value) -> Chain {
    let mut tuning = json!({"type": "tuning", "dataDir": data_dir(node)});
    merge(&mut tuning, extra);
    let version = if matches!(whose, Whose::Ours) { "1.1.0" } else { "1.0.0" };
    Chain::new(whose, version, vec![json!({"type": "bridge", "bridge": "br0"}), tuning])
}

fn everything() -> Value {
    json!({
        "mac": "02:00:00:00:00:77", "promisc": true, "mtu": 1380, "allmulti": true, "txQLen": 77,
        "sysctl": {"net.core.somaxconn": "321", "net.ipv4.conf.IFNAME.arp_filter": "1"},
    })
}

/// As far as the reference 1.1.1 knows it.
fn everything_of_old() -> Value {
    json!({"mac": "02:00:00:00:00:77", "promisc": true, "mtu": 1380, "allmulti": true, "sysctl": {"net.core.somaxconn": "321"}})
}

/// What tuning can change of eth0.
fn picture(pod: &Pod) -> Value {
    let link = ip_json(pod.command("ip").args(["-j", "-d", "link", "show", "eth0"]));
    let flag = |name: &str| link["flags"].as_array().unwrap().contains(&json!(name));
    json!({"mac": link["address"], "mtu": link["mtu"], "txqlen": link["txqlen"], "promisc": flag("PROMISC"), "allmulti": flag("ALLMULTI")})
}

fn sysctl(pod: &Pod, key: &str) -> String {
    testkit::output(pod.command("cat").arg(format!("/proc/sys/{key}")))
}

fn backups(node: &Node) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data_dir(node)) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn properties_and_parameters_are_set_and_the_properties_given_back() {
    let node = Node::new();
    let pod = Pod::new();
    let chain = chain(&node, Whose::Ours, everything());
    let bridged = chain.whose.call("ADD", &chain.conf(0, &Value::Null), "a", &pod.path()).json();
    let before = picture(&pod);
    let added = chain.whose.call("ADD", &chain.conf(1, &bridged), "a", &pod.path());
    assert!(added.ok, "{added:?}");
    let tuned = json!({"mac": "02:00:00:00:00:77", "mtu": 1380, "txqlen": 77, "promisc": true, "allmulti": true});
    assert_eq!(picture(&pod), tuned);
    assert_eq!(sysctl(&pod, "net/core/somaxconn"), "321");
    assert_eq!(sysctl(&pod, "net/ipv4/conf/eth0/arp_filter"), "1");
    let mut expected = bridged.clone();
    expected["interfaces"][2]["mac"] = json!("02:00:00:00:00:77");
    expected["interfaces"][2]["mtu"] = json!(1380);
    assert_eq!(added.json(), expected, "the pod's interface, and nothing else");
    assert_eq!(backups(&node), ["a_eth0.json"]);
    chain.check("a", &pod, &added.json()).unwrap();

    let conf = chain.conf(1, &added.json());
    for _ in 0..2 {
        let done = call("DEL", &conf, "a", &pod.path());
        assert!(done.ok && done.text.is_empty(), "{done:?}");
        assert_eq!(picture(&pod), before);
        assert_eq!(backups(&node), [""; 0]);
    }
}

#[test]
fn each_one_gives_back_what_the_other_took() {
    let Some(dir) = reference() else { return };
    let node = Node::new();
    let (ours, theirs) = (Whose::Ours, Whose::Reference(dir));
    for (one, other) in [(&ours, &theirs), (&theirs, &ours)] {
        let pod = Pod::new();
        let chain = chain(&node, one.clone(), everything_of_old());
        let chain = Chain { version: "1.0.0".into(), ..chain };
        let bridged = chain.whose.call("ADD", &chain.conf(0, &Value::Null), "a", &pod.path()).json();
        let before = picture(&pod);
        let added = one.call("ADD", &chain.conf(1, &bridged), "a", &pod.path());
        assert!(added.ok && picture(&pod) != before, "{one:?}: {added:?}");
        let conf = chain.conf(1, &added.json());
        let checked = other.call("CHECK", &conf, "a", &pod.path());
        assert!(checked.ok, "{other:?}: {checked:?}");
        let done = other.call("DEL", &conf, "a", &pod.path());
        assert!(done.ok, "{other:?}: {done:?}");
        assert_eq!((picture(&pod), backups(&node)), (before, Vec::new()), "{other:?}");
        chain.del("a", &pod.path(), &added.json());
    }
}

#[test]
fn results_and_kernel_state_are_the_references() {
    let Some(dir) = reference() else { return };
    let seen = |whose: Whose| {
        let node = Node::new();
        let pod = Pod::new();
        let chain = Chain { version: "1.0.0".into(), ..chain(&node, whose, everything_of_old()) };
        let result = chain.add("a", &pod);
        let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|i| i["mac"].clone()).collect();
        let mut picture = picture(&pod);
        // Not set here, and its bridge's pairs have none.
        picture["txqlen"].take();
        (names[2].clone(), picture, sysctl(&pod, "net/core/somaxconn"))
    };
    assert_eq!(seen(Whose::Ours), seen(Whose::Reference(dir)));
}

// The first step that fails is another one each time: a later parameter, a property the kernel refuses.
#[test]
fn a_failed_add_takes_everything_back() {
    let node = Node::new();
    let pod = Pod::new();
    let cases = [
        ("net.ipv4.nonsense", json!({"sysctl": {"net.core.somaxconn": "321", "net.ipv4.nonsense": "1"}})),
        ("does not take \\\"x\\\"", json!({"sysctl": {"net.core.somaxconn": "321", "net.ipv4.ip_forward": "x"}})),
        ("cannot give eth0 the MTU 100000", {
            let mut all = everything();
            all["mtu"] = json!(100_000);
            all
        }),
    ];
    let base = chain(&node, Whose::Ours, json!({}));
    let bridged = base.whose.call("ADD", &base.conf(0, &Value::Null), "a", &pod.path()).json();
    let state = || (picture(&pod), sysctl(&pod, "net/core/somaxconn"), sysctl(&pod, "net/ipv4/conf/eth0/arp_filter"));
    let before = state();
    for (words, extra) in cases {
        let chain = chain(&node, Whose::Ours, extra);
        let refused = call("ADD", &chain.conf(1, &bridged), "a", &pod.path());
        assert!(!refused.ok && refused.text.contains(words), "{words}: {refused:?}");
        assert_eq!((state(), backups(&node)), (before.clone(), Vec::new()), "{words}");
    }
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_before_anything_is_changed() {
    let node = Node::new();
    let pod = Pod::new();
    let base = chain(&node, Whose::Ours, json!({}));
    let bridged = base.whose.call("ADD", &base.conf(0, &Value::Null), "a", &pod.path()).json();
    let before = picture(&pod);
    let with = |members: &str| {
        let mut conf = chain(&node, Whose::Ours, json!({"mtu": 1300})).conf(1, &bridged).to_string();
        conf.insert_str(1, members);
        common::feed(&mut common::command("ADD", "a", &pod.path()), conf.as_bytes())
    };
    for (members, words) in [
        (r#""sysctl": {"net.core.somaxconn": "1", "net.core.somaxconn": "2"},"#, "duplicated sysctl keys"),
        (r#""sysctl": {"kernel.hostname": "pwned"},"#, "invalid net sysctl key"),
        (r#""sysctl": {"net.core.somaxconn": 1},"#, "sysctl: "),
        (r#""mac": "no",  "#, "mac: \"no\" is not a MAC address"),
    ] {
        let refused = with(members);
        assert!(refused.message().contains(words), "{members}: {refused:?}");
        assert_eq!((picture(&pod), backups(&node)), (before.clone(), Vec::new()), "{members}");
    }
    let refused = call("ADD", &chain(&node, Whose::Ours, json!({})).conf(1, &Value::Null), "a", &pod.path());
    assert!(refused.message().contains("Required prevResult missing"), "{refused:?}");
    let mut command = common::command("ADD", "a", &pod.path());
    let refused = common::feed(command.env("CNI_IFNAME", "../eth0"), b"{}");
    assert_eq!(refused.code(), 4, "a name that would lead to another file");
}

#[test]
fn only_parameters_on_the_administrators_list_are_set() {
    let node = Node::new();
    // The machine's /etc is covered for this thread and its children alone.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("none"), "/etc", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::create_dir_all("/etc/cni/tuning").unwrap();
    fs::write("/etc/cni/tuning/allowlist.conf", "\n  ^net\\.core\\.[a-z]+$ \n^net.ipv4.conf.IFNAME.arp_filter$\n")
        .unwrap();
    let allowed = chain(&node, Whose::Ours, everything());
    let pod = Pod::new();
    allowed.add("a", &pod);
    assert_eq!(sysctl(&pod, "net/core/somaxconn"), "321");
    let refused_one = json!({"sysctl": {"net.core.somaxconn": "5", "net.ipv4.ip_forward": "1"}});
    let refused = chain(&node, Whose::Ours, refused_one).try_add("b", &Pod::new()).unwrap_err();
    assert!(refused.message().contains("Sysctl net.ipv4.ip_forward is not allowed"), "{refused:?}");
    assert!(refused.json()["details"].as_str().unwrap().contains("arp_filter"), "{refused:?}");
    fs::write("/etc/cni/tuning/allowlist.conf", "(net").unwrap();
    let refused = allowed.try_add("c", &Pod::new()).unwrap_err();
    assert!(refused.message().contains("\"(net\" is no regular expression"), "{refused:?}");
}

#[test]
fn check_names_what_was_changed_since() {
    let node = Node::new();
    let pod = Pod::new();
    let mut extra = everything();
    extra["sysctl"]["net.ipv4.ip_local_port_range"] = json!("20000 30000");
    let chain = chain(&node, Whose::Ours, extra);
    let result = chain.add("a", &pod);
    chain.check("a", &pod, &result).unwrap();
    let changes: [(&[&str], &[&str], &str); 5] = [
        (&["mtu", "1400"], &["mtu", "1380"], "to have MTU 1380 and has MTU 1400"),
        (&["address", "02:00:00:00:00:78"], &["address", "02:00:00:00:00:77"], "has MAC address 02:00:00:00:00:78"),
        (&["promisc", "off"], &["promisc", "on"], "has promiscuous mode off"),
        (&["allmulticast", "off"], &["allmulticast", "on"], "has all-multicast mode off"),
        (&["txqueuelen", "5"], &["txqueuelen", "77"], "transmit queue length 77 and has transmit queue length 5"),
    ];
    for (change, back, words) in changes {
        pod.ip(&[&["link", "set", "eth0"], change].concat());
        let refused = chain.whose.call("CHECK", &chain.conf(1, &result), "a", &pod.path());
        assert!(refused.message().contains(words), "{refused:?}");
        assert_eq!(refused.code(), 101);
        pod.ip(&[&["link", "set", "eth0"], back].concat());
    }
    testkit::run(pod.command("sh").args(["-c", "echo 2000 3000 > /proc/sys/net/ipv4/ip_local_port_range"]));
    let refused = chain.check("a", &pod, &result).unwrap_err();
    assert!(refused.message().contains("net.ipv4.ip_local_port_range"), "{refused:?}");
}

#[test]
fn a_pod_that_is_gone_leaves_no_backup() {
    let node = Node::new();
    let chain = chain(&node, Whose::Ours, everything());
    for netns in ["", "/nonexistent"] {
        let pod = Pod::new();
        let result = chain.add("a", &pod);
        drop(pod);
        assert_eq!(backups(&node), ["a_eth0.json"]);
        chain.del("a", netns, &result);
        assert_eq!(backups(&node), [""; 0]);
    }
    chain.del(&"long".repeat(100), "", &Value::Null);
    fs::write(data_dir(&node).join("b_eth0.json"), "{cut off").unwrap();
    fs::write(data_dir(&node).join("@podnet@b_eth0.json"), "{cut o").unwrap();
    chain.del("b", "", &Value::Null);
    assert_eq!(backups(&node), [""; 0], "nothing can be given back from it");
}

#[test]
fn what_cannot_be_given_back_keeps_no_pod_from_being_removed() {
    let node = Node::new();
    let chain = chain(&node, Whose::Ours, json!({"mtu": 1380, "txQLen": 77}));
    let pod = Pod::new();
    let result = chain.add("a", &pod);
    fs::write(data_dir(&node).join("a_eth0.json"), r#"{"mtu": 99999999, "txQLen": 55}"#).unwrap();
    assert!(chain.whose.call("DEL", &chain.conf(1, &result), "a", &pod.path()).ok);
    assert!(pod.ip(&["link", "show", "eth0"]).contains("qlen 55"));
    assert_eq!(backups(&node), [""; 0]);
}

// The file's name is the reference's, and does not tell two such attachments apart.
#[test]
fn what_another_attachment_of_such_a_name_had_is_not_given_to_this_one() {
    let node = Node::new();
    let chain = chain(&node, Whose::Ours, json!({"mtu": 1380}));
    let pod = Pod::new();
    let before = chain.whose.call("ADD", &chain.conf(0, &Value::Null), "a", &pod.path()).json();
    fs::create_dir_all(data_dir(&node)).unwrap();
    let file = data_dir(&node).join("a_eth0.json");
    let theirs = r#"{"mtu":1200,"network":"other","attachment":{"containerID":"a","ifname":"eth0"}}"#;
    fs::write(&file, theirs).unwrap();
    let conf = chain.conf(1, &before);
    assert!(chain.whose.call("DEL", &conf, "a", &pod.path()).ok);
    assert!(pod.ip(&["link", "show", "eth0"]).contains("mtu 1500"));
    assert_eq!(fs::read_to_string(&file).unwrap(), theirs);
}

// A directory of backups that others can write to.
#[test]
fn a_backup_is_never_written_through_a_link() {
    let node = Node::new();
    let chain = chain(&node, Whose::Ours, json!({"mtu": 1380}));
    fs::create_dir_all(data_dir(&node)).unwrap();
    let precious = node.dir.path().join("precious");
    fs::write(&precious, "as it was").unwrap();
    for name in ["@podnet@a_eth0.json", "a_eth0.json"] {
        std::os::unix::fs::symlink(&precious, data_dir(&node).join(name)).unwrap();
    }
    let pod = Pod::new();
    let result = chain.add("a", &pod);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "as it was");
    chain.del("a", &pod.path(), &result);
    assert_eq!(backups(&node), [""; 0]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "as it was");
}

// Two in one list, as a network operator's file after another's.
#[test]
fn of_two_in_a_list_the_first_ones_values_come_back() {
    let node = Node::new();
    let pod = Pod::new();
    let mut chain = chain(&node, Whose::Ours, json!({"mtu": 1400}));
    let mut second = chain.plugins[1].clone();
    merge(&mut second, json!({"mtu": 1300, "txQLen": 5}));
    chain.plugins.push(second);
    let result = chain.add("a", &pod);
    assert_eq!((picture(&pod)["mtu"].clone(), result["interfaces"][2]["mtu"].clone()), (json!(1300), json!(1300)));
    for place in [2, 1] {
        assert!(call("DEL", &chain.conf(place, &result), "a", &pod.path()).ok);
        assert_eq!(picture(&pod)["mtu"], json!(1500));
    }
}

#[test]
fn gc_removes_the_backups_of_this_network_alone() {
    let node = Node::new();
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    let chain = chain(&node, Whose::Ours, everything());
    for (id, pod) in ["a", "b"].iter().zip(&pods) {
        chain.add(id, pod);
    }
    let mut other = chain.conf(1, &Value::Null);
    other["name"] = json!("other");
    other["prevResult"] = json!({"cniVersion": "1.1.0"});
    let refused = call("ADD", &other, "c", &pods[2].path());
    assert!(refused.message().contains("conf/eth0/arp_filter: No such file"), "{refused:?}");
    testkit::run(pods[2].command("ip").args(["link", "add", "eth0", "type", "bridge"]));
    assert!(call("ADD", &other, "c", &pods[2].path()).ok);
    // As the reference writes it: of no network.
    fs::write(data_dir(&node).join("d_eth0.json"), r#"{"mtu": 1500}"#).unwrap();
    // Of ADDs that were killed while they wrote.
    fs::write(data_dir(&node).join("@podnet@e_eth0.json"), "{cut o").unwrap();
    fs::write(data_dir(&node).join("@other@f_eth0.json"), "{cut o").unwrap();
    chain.gc(None);
    assert_eq!(backups(&node).len(), 6, "an absent list destroys nothing");
    chain.gc(Some(&[("a", "eth0")]));
    assert_eq!(backups(&node), ["@other@f_eth0.json", "a_eth0.json", "c_eth0.json", "d_eth0.json"]);
    chain.gc(Some(&[]));
    assert_eq!(backups(&node), ["@other@f_eth0.json", "c_eth0.json", "d_eth0.json"]);
}
