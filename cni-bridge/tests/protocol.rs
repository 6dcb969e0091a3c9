//! What a plugin owes its caller before any network is touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Node, Pod, call, command, feed, plugin};
use serde_json::json;

// Behaviour 1.
#[test]
fn without_a_command_it_introduces_itself_on_stderr() {
    let answer = feed(&mut plugin(&[]), b"");
    assert!(answer.ok && answer.text.is_empty());
    assert!(answer.stderr.contains("CNI protocol versions supported: 0.1.0, ") && answer.stderr.contains("1.1.0"));
}

// Behaviours 2, 3, 25.
#[test]
fn version_answers_one_line_of_json_with_and_without_stdin() {
    for stdin in [&b""[..], br#"{"cniVersion": "0.4.0"}"#] {
        let answer = feed(&mut plugin(&[("CNI_COMMAND", "VERSION")]), stdin);
        assert_eq!(answer.json()["supportedVersions"][6], "1.1.0");
        assert!(answer.ok && answer.stderr.is_empty());
    }
}

// Behaviours 4 to 12: code on stdout, exit status 1.
#[test]
fn a_refusal_is_a_json_object_on_stdout() {
    let full = [("CNI_CONTAINERID", "a"), ("CNI_NETNS", "/none"), ("CNI_IFNAME", "eth0")];
    let with = |verb: &'static str, stdin: &str| {
        let mut all = full.to_vec();
        all.push(("CNI_COMMAND", verb));
        feed(&mut plugin(&all), stdin.as_bytes())
    };
    assert_eq!(with("FROB", "{}").code(), 4);
    assert_eq!(with("ADD", "{").code(), 6);
    assert_eq!(with("ADD", "{}").code(), 7);
    assert_eq!(with("ADD", r#"{"name": "a/b"}"#).code(), 7);
    let version = with("ADD", r#"{"name": "a", "cniVersion": "2.0.0"}"#);
    assert_eq!(version.code(), 1);
    assert!(version.json()["details"].as_str().unwrap().contains("1.1.0"));
    let missing = feed(&mut plugin(&[("CNI_COMMAND", "ADD")]), b"{}");
    assert_eq!(missing.code(), 4);
    assert_eq!(missing.message(), "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing");
    let long = feed(
        &mut plugin(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "sixteencharacter")]),
        b"{}",
    );
    assert_eq!(long.code(), 4);
}

// Behaviours 13, 14.
#[test]
fn a_verb_newer_than_the_configuration_is_refused() {
    let node = Node::new();
    let pod = Pod::new();
    assert_eq!(call("CHECK", &node.conf(json!({"cniVersion": "0.3.1"})), "a", &pod.path()).code(), 1);
    for verb in ["GC", "STATUS"] {
        assert_eq!(call(verb, &node.conf(json!({"cniVersion": "1.0.0"})), "a", "").code(), 1);
    }
}

// Behaviour 23.
#[test]
fn a_missing_namespace_is_named_and_nothing_is_made() {
    let node = Node::new();
    let answer = call("ADD", &node.conf(json!({})), "a", "/var/run/netns/gone");
    assert_eq!(answer.code(), 4);
    assert!(answer.message().contains("CNI_NETNS") && answer.message().contains("/var/run/netns/gone"), "{answer:?}");
    let file = node.dir.path().join("plain");
    std::fs::write(&file, "").unwrap();
    let answer = call("ADD", &node.conf(json!({})), "a", file.to_str().unwrap());
    assert!(answer.message().contains("is not a network namespace"), "{answer:?}");
    let other = call("ADD", &node.conf(json!({})), "a", "/proc/self/ns/mnt");
    assert!(other.message().contains("is not a network namespace"), "a namespace of another kind: {other:?}");
    assert!(node.links().is_empty() && node.leased().is_empty());
}

// Behaviour 24, and the reference's bug of checking only after the work.
#[test]
fn its_own_namespace_is_refused_before_anything_is_done() {
    let node = Node::new();
    let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
    let answer = call("ADD", &node.conf(json!({})), "a", &own);
    assert_eq!(answer.code(), 8);
    assert!(node.links().is_empty() && node.leased().is_empty());
    let mut allowed = command("ADD", "a", &own);
    allowed.env("CNI_NETNS_OVERRIDE", "1");
    let answer = feed(&mut allowed, node.conf(json!({})).to_string().as_bytes());
    assert!(answer.ok, "{answer:?}");
    assert!(node.links().contains(&"eth0".to_owned()));
    assert!(call("DEL", &node.conf(json!({})), "a", &own).ok);
    assert_eq!(node.links(), ["br0"]);
}

// Behaviours 21, 22.
#[test]
fn cni_args_are_checked_for_add_and_never_stand_in_the_way_of_del() {
    let node = Node::new();
    let pod = Pod::new();
    let with = |verb: &str, args: &str| {
        feed(command(verb, "a", &pod.path()).env("CNI_ARGS", args), node.conf(json!({})).to_string().as_bytes())
    };
    assert!(with("ADD", "FOO=1").message().contains("unknown args"));
    assert!(with("ADD", "FOO").message().contains("invalid pair"));
    assert!(with("DEL", "FOO").ok);
    let added = with("ADD", "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.1.2.77;MAC=02:00:00:00:00:07");
    assert_eq!(added.json()["ips"][0]["address"], "10.1.2.77/24");
    assert_eq!(added.json()["interfaces"][2]["mac"], "02:00:00:00:00:07");
}

#[test]
fn an_ipam_that_is_not_installed_is_named_and_nothing_is_made() {
    let node = Node::new();
    let pod = Pod::new();
    let conf = node.conf(json!({"ipam": {"type": "nonesuch"}}));
    let asked =
        |verb| feed(command(verb, "a", &pod.path()).env("CNI_PATH", "/none:/where"), conf.to_string().as_bytes());
    for verb in ["ADD", "DEL"] {
        // What it gave, nobody else can take back: a DEL that succeeded would leak it.
        assert_eq!(asked(verb).message(), r#"failed to find plugin "nonesuch" in path [/none /where]"#);
    }
    assert!(node.links().is_empty());
}
