//! A node for one test: a network namespace, directories of its own, the busybox
//! image loaded, and `peapod` pointed at all of them. Dropping it removes every pod.

#![allow(dead_code)] // each test file uses its own part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long any condition may take before the test calls it a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One test's machine.
pub struct Node {
    scratch: tempfile::TempDir,
}

impl Node {
    /// A node with the busybox image loaded and no pod.
    pub fn new() -> Node {
        testkit::enter_node();
        let node = Node { scratch: testkit::scratch() };
        let archive = node.dir("busybox.tar");
        testkit::run(Command::new(script("busybox-image")).arg(&archive));
        node.ok(&["image", "load", &archive.to_string_lossy()]);
        node
    }

    /// A path in the node's scratch directory.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// `peapod ARGS` on this node, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(testkit::binary("peapod"));
        self.environment(&mut command);
        command.args(args);
        command
    }

    /// Points a command, or what it starts, at this node's directories.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("PEAPOD_STATE", self.dir("state"))
            .env("PEAPOD_ROOT", self.dir("root"))
            .env("PEAPOD_LOG_DIR", self.dir("log"))
            .env("PEAPOD_CNI_CONF_DIR", self.dir("net.d"))
            .env("PEAPOD_CNI_BIN_DIR", testkit::bin_dir())
            .env("PEAPOD_SHIM", testkit::binary("containerd-shim-pea-v2"));
    }

    /// Runs `peapod ARGS`, which must succeed, and returns its output.
    pub fn ok(&self, args: &[&str]) -> String {
        testkit::output(&mut self.command(args))
    }

    /// Runs `peapod ARGS` and returns how it ended.
    pub fn attempt(&self, args: &[&str]) -> Output {
        testkit::attempt(&mut self.command(args))
    }

    /// Runs one of the manifests in testdata/manifests.
    pub fn run(&self, manifest: &str) -> String {
        self.ok(&["run", &manifest_path(manifest)])
    }

    /// Writes a manifest and runs it.
    pub fn run_text(&self, name: &str, text: &str) -> String {
        let path = self.dir(name);
        fs::write(&path, text).unwrap();
        self.ok(&["run", &path.to_string_lossy()])
    }

    /// Runs a shell line inside a container; the line must succeed.
    pub fn sh(&self, pod: &str, container: &str, line: &str) -> String {
        self.ok(&["exec", "-c", container, pod, "--", "sh", "-c", line])
    }

    /// The pod as `peapod inspect` shows it.
    pub fn inspect(&self, pod: &str) -> Value {
        serde_json::from_str(&self.ok(&["inspect", pod])).expect("inspect prints JSON")
    }

    /// The status of one container of a pod, init containers included.
    pub fn container(&self, pod: &str, container: &str) -> Value {
        let pod = self.inspect(pod);
        ["containerStatuses", "initContainerStatuses"]
            .iter()
            .filter_map(|list| pod["status"][list].as_array())
            .flatten()
            .find(|status| status["name"] == container)
            .cloned()
            .unwrap_or_else(|| panic!("no status of container {container} in {pod}"))
    }

    /// The pod's address.
    pub fn ip(&self, pod: &str) -> String {
        self.inspect(pod)["status"]["podIP"].as_str().expect("the pod has an address").to_owned()
    }

    /// The page behind an address inside this node.
    pub fn page(&self, ip: &str) -> Output {
        // The route is checked first: nothing may leave the node this test made.
        let route = testkit::output(Command::new("ip").args(["route", "get", ip]));
        assert!(route.contains("dev cni0"), "{ip} is not behind cni0: {route}");
        testkit::attempt(Command::new("timeout").args(["5", "busybox", "wget", "-qO-", &format!("http://{ip}/")]))
    }

    /// The host's pid of a process of the pod whose command line contains `text`.
    pub fn pid_of(&self, pod: &str, text: &str) -> i32 {
        let uid = self.inspect(pod)["metadata"]["uid"].as_str().expect("the pod has a uid").to_owned();
        processes()
            .find(|pid| {
                let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
                line.contains(text) && String::from_utf8_lossy(&read("cgroup")).contains(&uid)
            })
            .unwrap_or_else(|| panic!("no process of pod {pod} runs {text:?}"))
    }

    /// Everything of this node's pods that is still on the machine, one item a line.
    pub fn leftovers(&self) -> Vec<String> {
        let scratch = self.scratch.path().to_string_lossy().into_owned();
        let mut left = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&scratch)).map(|line| format!("mount {line}")));
        for pid in processes() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if line.contains(&scratch) || String::from_utf8_lossy(&environment).contains(&scratch) {
                left.push(format!("process {pid} {line}"));
            }
        }
        let links = testkit::output(Command::new("ip").args(["-br", "link", "show", "type", "veth"]));
        left.extend(links.lines().map(|line| format!("link {line}")));
        let tables = testkit::output(Command::new("nft").args(["list", "tables"]));
        left.extend(tables.lines().map(|line| format!("nft {line}")));
        for name in ["state/pods", "root/pods", "log"] {
            left.extend(entries(&self.dir(name)).map(|path| format!("path {}", path.display())));
        }
        left.extend(self.leases().into_iter().map(|ip| format!("lease {ip}")));
        left
    }

    /// The leased addresses.
    pub fn leases(&self) -> Vec<String> {
        entries(&self.dir("root/networks"))
            .flat_map(|network| entries(&network).collect::<Vec<_>>())
            .filter_map(|lease| lease.file_name().map(|name| name.to_string_lossy().into_owned()))
            .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
            .collect()
    }

    /// Fails unless nothing of any pod is left on this node.
    pub fn assert_clean(&self) {
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pod in entries(&self.dir("state/pods")) {
            let key = pod.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if let Some((namespace, name)) = key.split_once('_') {
                let done = self.attempt(&["-n", namespace, "rm", "--force", name]);
                if !done.status.success() {
                    eprintln!("cleaning up: {}", String::from_utf8_lossy(&done.stderr));
                }
            }
        }
    }
}

/// Waits until `condition` gives a value; fails after [`DEADLINE`], naming what was awaited.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A manifest in testdata/manifests.
pub fn manifest_path(name: &str) -> String {
    testkit::testdata("manifests").join(name).to_string_lossy().into_owned()
}

/// One of the project's scripts.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name)
}

/// What a command printed on stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A child whose output nobody reads.
pub fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

fn processes() -> impl Iterator<Item = i32> {
    entries(Path::new("/proc")).filter_map(|path| path.file_name()?.to_str()?.parse().ok())
}
