//! A node of its own for each test, pods on it, and calls of the plugin as a runtime makes them.
#![allow(dead_code)] // each test file uses its part

pub mod chain;
pub mod leases;
pub mod picture;
pub mod ports;
pub mod world;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_cni-bridge");

/// The thread's private network namespace, and a directory for leases and configurations.
pub struct Node {
    pub dir: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Node {
        testkit::enter_node();
        Node { dir: testkit::scratch() }
    }

    /// A node whose `/run` and `/var/lib` are its own: for configurations that say nothing of where state is kept.
    pub fn with_own_state() -> Node {
        let node = Node::new();
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let script = "mount --make-rprivate / && mount -t tmpfs none /run && mount -t tmpfs none /var/lib";
        testkit::run(Command::new("sh").args(["-c", script]));
        node
    }

    pub fn leases(&self) -> PathBuf {
        self.dir.path().join("leases/podnet")
    }

    /// The names of the lease files.
    pub fn leased(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.leases()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        names.sort();
        names
    }

    /// A network `podnet` with 10.1.2.0/24 on `br0`, with `extra` merged in.
    pub fn conf(&self, extra: Value) -> Value {
        let ipam = json!({"type": "host-local", "dataDir": self.dir.path().join("leases"), "subnet": "10.1.2.0/24"});
        let mut conf =
            json!({"cniVersion": "1.1.0", "name": "podnet", "type": "cni-bridge", "bridge": "br0", "ipam": ipam});
        merge(&mut conf, extra);
        conf
    }

    pub fn dual(&self, extra: Value) -> Value {
        let mut conf = self.conf(json!({"isDefaultGateway": true}));
        conf["ipam"]["ranges"] = json!([[{"subnet": "fd00:1::/64"}]]);
        merge(&mut conf, extra);
        conf
    }

    pub fn add(&self, conf: &Value, id: &str, pod: &Pod) -> Value {
        let done = call("ADD", conf, id, &pod.path());
        assert!(done.ok, "ADD {id}: {}", done.text);
        done.json()
    }

    pub fn del(&self, conf: &Value, id: &str, pod: &Pod) {
        let done = call("DEL", conf, id, &pod.path());
        assert!(done.ok && done.text.is_empty(), "DEL {id}: {}", done.text);
    }

    /// The names of the node's interfaces, `lo` left out.
    pub fn links(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&testkit::output(Command::new("ip").args(["-j", "link"]))).unwrap();
        let names = list.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name != "lo").collect()
    }

    pub fn ruleset(&self) -> String {
        testkit::output(Command::new("nft").args(["list", "ruleset"]))
    }

    pub fn link(&self, name: &str) -> Value {
        ip_json(Command::new("ip").args(["-d", "-j", "link", "show", name]))
    }
}

pub fn ip_json(command: &mut Command) -> Value {
    let list: Value = serde_json::from_str(&testkit::output(command)).unwrap();
    list[0].clone()
}

pub fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, extra) => *into = extra,
    }
}

/// A pod's network namespace. It lives as long as this: nothing to clean up, whatever becomes of the test.
pub struct Pod {
    file: File,
}

impl Pod {
    pub fn new() -> Pod {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the pod");
            File::open("/proc/thread-self/ns/net").expect("the pod's namespace")
        };
        Pod { file: std::thread::spawn(make).join().unwrap() }
    }

    /// A path to it for CNI_NETNS.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A command to be run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Runs `work` on a thread inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let run = || {
            nix::sched::setns(&self.file, CloneFlags::CLONE_NEWNET).expect("enter the pod");
            work()
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    pub fn ip(&self, args: &[&str]) -> String {
        testkit::output(self.command("ip").args(args))
    }

    /// Whether an answer comes, however busy this machine is.
    pub fn pings(&self, address: &str) -> bool {
        self.pings_within(address, 20)
    }

    /// Whether none comes, which takes as long as it is waited for.
    pub fn hears_nothing_of(&self, address: &str) -> bool {
        !self.pings_within(address, 1)
    }

    pub fn pings_within(&self, address: &str, seconds: u32) -> bool {
        let mut ping = self.command("busybox");
        testkit::attempt(ping.args(["ping", "-c", "1", "-W", &seconds.to_string(), address])).status.success()
    }
}

/// What a call answered.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub text: String,
    pub stderr: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub fn code(&self) -> u64 {
        assert!(!self.ok, "it succeeded: {}", self.text);
        self.json()["code"].as_u64().unwrap()
    }

    pub fn message(&self) -> String {
        assert!(!self.ok, "it succeeded: {}", self.text);
        self.json()["msg"].as_str().unwrap().to_owned()
    }
}

/// The plugin with this environment only.
pub fn plugin(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PLUGIN);
    command.env_clear().envs(variables.iter().copied());
    command
}

pub fn command(verb: &str, id: &str, netns: &str) -> Command {
    let mut command = plugin(&[("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")]);
    if !netns.is_empty() {
        command.env("CNI_NETNS", netns);
    }
    command
}

pub fn call(verb: &str, conf: &Value, id: &str, netns: &str) -> Answer {
    feed(&mut command(verb, id, netns), conf.to_string().as_bytes())
}

/// Writes a program of a few lines of shell.
pub fn script(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    // Renamed into place: a program that is open for writing in a child of another test's cannot be executed.
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).unwrap();
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(aside, path).unwrap();
}

/// Runs a command with this on stdin.
pub fn feed(command: &mut Command, stdin: &[u8]) -> Answer {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A child that ends without reading breaks the pipe; that is its answer's affair.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = String::from_utf8(stdout).unwrap().trim().to_owned();
    Answer { ok: status.success(), text, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

/// The reference's plugins, if they are installed (Debian: containernetworking-plugins).
/// `CNI_REFERENCE` names another directory.
pub fn reference() -> Option<PathBuf> {
    let dir = std::env::var_os("CNI_REFERENCE").map_or_else(|| PathBuf::from("/usr/lib/cni"), PathBuf::from);
    if dir.join("bridge").exists() && dir.join("host-local").exists() {
        return Some(dir);
    }
    testkit::skip("the reference plugins are not installed (Debian package containernetworking-plugins)");
    None
}

/// Every version of the reference that there is, and whether it is one of 1.1.0's time: `CNI_REFERENCE_NEW` names a
/// directory with a newer one beside [`reference`].
pub fn references() -> Vec<(PathBuf, bool)> {
    let mut all: Vec<(PathBuf, bool)> = reference().into_iter().map(|dir| (dir, false)).collect();
    match std::env::var_os("CNI_REFERENCE_NEW") {
        Some(dir) => all.push((dir.into(), true)),
        None => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| testkit::skip("CNI_REFERENCE_NEW names no newer reference plugins (1.9 or later)"));
        }
    }
    all
}
