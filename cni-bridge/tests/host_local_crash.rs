//! host-local killed at each of its system calls: a lease is whole or absent, and what is left goes with DEL or GC.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::leases::{Ipam, add, call, del};
use common::{Answer, PLUGIN, feed};
use serde_json::{Value, json};

/// The plugin under strace, under its own name.
struct Traced {
    program: PathBuf,
    output: PathBuf,
}

impl Traced {
    /// None where strace is not installed.
    fn new(dir: &Path) -> Option<Traced> {
        if Command::new("strace").arg("-V").output().is_err() {
            testkit::skip("strace is not installed");
            return None;
        }
        let traced = Traced { program: dir.join("host-local"), output: dir.join("trace") };
        std::os::unix::fs::symlink(PLUGIN, &traced.program).unwrap();
        Some(traced)
    }

    fn run(&self, verb: &str, conf: &Value, id: &str, options: &[&str]) -> Answer {
        let mut command = Command::new("strace");
        command.arg("-f").arg("-o").arg(&self.output).args(options).arg(&self.program);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0");
        feed(command.env("CNI_NETNS", "/proc/self/ns/net"), conf.to_string().as_bytes())
    }

    /// How many system calls a whole run makes.
    fn count(&self, verb: &str, conf: &Value, id: &str) -> usize {
        let answer = self.run(verb, conf, id, &[]);
        assert!(answer.ok, "{answer:?}");
        fs::read_to_string(&self.output).unwrap().lines().filter(|line| line.contains('(')).count()
    }

    /// Runs until its system call of that number, and no further.
    fn kill(&self, verb: &str, conf: &Value, id: &str, number: usize) {
        self.run(verb, conf, id, &["-e", &format!("inject=all:signal=SIGKILL:when={number}")]);
    }
}

/// Every lease is whole, and there are no files but the reference's.
fn assert_whole(ipam: &Ipam, number: usize) {
    let Ok(entries) = fs::read_dir(ipam.net()) else { return };
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name == "lock" || name.starts_with("last_reserved_ip.");
        let text = ipam.text(&name);
        let whole = name.parse::<std::net::IpAddr>().is_ok() && text.ends_with("\r\neth0");
        assert!(known || whole, "killed at call {number}: {name} has {text:?}");
    }
}

fn dual(ipam: &Ipam) -> Value {
    ipam.conf(json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]}}))
}

#[test]
fn an_add_killed_at_any_system_call_leaves_whole_leases_that_del_or_gc_frees() {
    let ipam = Ipam::new();
    let Some(traced) = Traced::new(ipam.dir.path()) else { return };
    let conf = dual(&ipam);
    add(&conf, "stays");
    let calls = traced.count("ADD", &conf, "warm");
    del(&conf, "warm");
    assert!(calls > 50, "{calls} system calls");
    let mut left = 0;
    for number in 1..=calls {
        let id = format!("add-{number}");
        traced.kill("ADD", &conf, &id, number);
        assert_whole(&ipam, number);
        left += usize::from(ipam.leased().len() > 2);
        if number % 2 == 0 {
            del(&conf, &id);
        } else {
            let mut gc = conf.clone();
            gc["cni.dev/valid-attachments"] = json!([{"containerID": "stays", "ifname": "eth0"}]);
            assert!(call("GC", &gc, "").ok);
        }
        assert_eq!(ipam.leased().len(), 2, "killed at call {number}: {:?}", ipam.leased());
    }
    assert!(left > 5, "{left} of {calls} kills left a lease: the others came too early or too late");
    assert!(call("CHECK", &conf, "stays").ok);
    assert_eq!(add(&conf, "next").len(), 2);
}

#[test]
fn a_del_killed_at_any_system_call_is_finished_by_the_next_or_by_gc() {
    let ipam = Ipam::new();
    let Some(traced) = Traced::new(ipam.dir.path()) else { return };
    let conf = dual(&ipam);
    add(&conf, "stays");
    add(&conf, "warm");
    let calls = traced.count("DEL", &conf, "warm");
    for number in 1..=calls {
        let id = format!("del-{number}");
        add(&conf, &id);
        traced.kill("DEL", &conf, &id, number);
        assert_whole(&ipam, number);
        if number % 2 == 0 {
            del(&conf, &id);
        } else {
            let mut gc = conf.clone();
            gc["cni.dev/valid-attachments"] = json!([{"containerID": "stays", "ifname": "eth0"}]);
            assert!(call("GC", &gc, "").ok);
        }
        assert_eq!(ipam.leased().len(), 2, "killed at call {number}: {:?}", ipam.leased());
    }
    // The last one: with it goes what is ours.
    for number in 1..=calls {
        let id = format!("last-{number}");
        del(&conf, "stays");
        add(&conf, &id);
        traced.kill("DEL", &conf, &id, number);
        del(&conf, &id);
        assert_eq!(ipam.leased(), Vec::<String>::new(), "killed at call {number}");
        assert!(!ipam.dir.path().join(".net").exists(), "killed at call {number}");
    }
}
