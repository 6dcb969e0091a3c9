//! Debian's podman with its CNI backend and this plugin in its directory of plugins: its own list of plugins, with
//! bandwidth as the fifth.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::Node;
use common::chain::link_all;
use common::world::World;
use serde_json::{Value, json};

const IMAGE: &str = "localhost/busybox:latest";

/// A podman with storage, network, and all else of its own, and one image.
struct Podman {
    node: Node,
    id: String,
}

impl Podman {
    /// None where it does not run.
    fn new() -> Option<Podman> {
        for program in ["podman", "runc"] {
            if !Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success()) {
                testkit::skip(&format!("{program} does not run here (Debian package {program})"));
                return None;
            }
        }
        let node = Node::with_own_state();
        testkit::run(Command::new("mount").args(["-t", "tmpfs", "none", "/dev/shm"]));
        let dir = node.dir.path();
        let id = dir.file_name().unwrap().to_string_lossy().into_owned();
        link_all(&dir.join("plugins"));
        let conf = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\n",
            dir.join("plugins").display()
        );
        fs::write(dir.join("containers.conf"), conf).unwrap();
        fs::write(dir.join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        fs::create_dir(dir.join("networks")).unwrap();
        fs::write(dir.join("networks/87-podman.conflist"), five_plugins().to_string()).unwrap();
        let archive = dir.join("image.tar");
        testkit::run(Command::new(testkit::testdata("../scripts/busybox-image")).arg(&archive));
        let podman = Podman { id, node };
        let policy = format!("--signature-policy={}/policy.json", podman.dir().display());
        testkit::run(podman.command(&["load", &policy, "--input"]).arg(&archive));
        if !podman.output(&["info", "--format={{.Host.NetworkBackend}}"]).contains("cni") {
            testkit::skip("this podman has no CNI backend");
            return None;
        }
        Some(podman)
    }

    fn dir(&self) -> &Path {
        self.node.dir.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--signal=KILL", "120", "podman"]);
        for (option, dir) in
            [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--network-config-dir", "networks")]
        {
            command.arg(option).arg(self.dir().join(dir));
        }
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc"]);
        command.args(words).env("TMPDIR", self.dir()).env("CONTAINERS_CONF", self.dir().join("containers.conf"));
        command
    }

    fn output(&self, words: &[&str]) -> String {
        testkit::output(&mut self.command(words))
    }

    /// `podman run` of a new container.
    fn run(&self, words: &[&str]) -> String {
        let parent = format!("--cgroup-parent=/{}", self.id);
        self.output(&[&["run", &parent], words].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = testkit::attempt(&mut self.command(&["rm", "--all", "--force", "--time=0"]));
        for hierarchy in hierarchies() {
            let dir = hierarchy.join(&self.id);
            // podman's own monitor may be about to leave one.
            let deadline = Instant::now() + Duration::from_secs(10);
            while dir.exists() && Instant::now() < deadline {
                remove_dirs(&dir);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let entries = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).chain([root]).collect()
}

/// Removes cgroups from the leaves up.
fn remove_dirs(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_dirs(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

/// podman's own list, with limits that are in nobody's way.
fn five_plugins() -> Value {
    let list = fs::read(testkit::testdata("conflists/podman-4.conflist")).unwrap();
    let mut list: Value = serde_json::from_slice(&list).unwrap();
    let limits = json!({"type": "bandwidth", "ingressRate": 800_000_000, "ingressBurst": 80_000_000, "egressRate": 800_000_000, "egressBurst": 80_000_000});
    list["plugins"].as_array_mut().unwrap().push(limits);
    list
}

#[test]
fn a_container_is_on_the_network_with_its_port_and_leaves_nothing() {
    let Some(podman) = Podman::new() else { return };
    let node = &podman.node;
    let world = World::new();
    // As on a node with Docker.
    testkit::run(Command::new("iptables").args(["-P", "FORWARD", "DROP"]));
    let before = node.ruleset();
    let server = "echo hello > /tmp/index.html && exec httpd -f -p 80 -h /tmp";
    podman.run(&["-d", "--name=web", "-p", "8080:80", IMAGE, "sh", "-c", server]);
    let page = (0..10).find_map(|_| get(&world).ok());
    assert_eq!(page.as_deref(), Some("hello"), "the published port, from another host");
    let address = podman.output(&["inspect", "--format={{.NetworkSettings.Networks.podman.IPAddress}}", "web"]);
    assert_eq!(address, "10.88.0.2");
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 {address} 80");
    let seen = podman.run(&["--rm", IMAGE, "sh", "-c", &ask]);
    assert!(seen.ends_with("hello"), "from one container to another: {seen}");
    let pinged = podman.run(&["--rm", IMAGE, "ping", "-c", "1", "-W", "20", "192.0.2.2"]);
    assert!(pinged.contains("1 packets received"), "{pinged}");
    let links = node.links();
    let of_kind = |prefix: &str| links.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((of_kind("veth"), of_kind("bwp")), (1, 1), "those of the one that runs: {links:?}");

    testkit::run(&mut podman.command(&["rm", "--force", "--time=0", "web"]));
    assert_eq!(node.links(), ["up0", "cni-podman0"]);
    assert_eq!(node.ruleset(), before);
    let leases = fs::read_dir("/var/lib/cni/networks/podman").unwrap().map(|entry| entry.unwrap().file_name());
    let leased: Vec<_> = leases.filter(|name| name.to_string_lossy().starts_with("10.")).collect();
    assert!(leased.is_empty(), "{leased:?}");
    assert!(get(&world).is_err(), "the port is published no more");
}

/// What a web browser in the world gets of the node's port 8080.
fn get(world: &World) -> std::io::Result<String> {
    world.host.inside(|| {
        let mut connection = TcpStream::connect_timeout(&([192, 0, 2, 1], 8080).into(), Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
        body.ok_or_else(|| std::io::Error::other(answer))
    })
}
