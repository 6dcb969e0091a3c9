//! Debian's podman with `--runtime pea`, as people use it every day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{cgroups, stderr, stdout, wait};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const IMAGE: &str = "localhost/busybox:latest";

/// A podman with storage, network, and all else of its own, and one image.
struct Podman {
    dir: tempfile::TempDir,
    id: String,
}

impl Podman {
    /// None where there is no podman.
    fn new() -> Option<Self> {
        if !Command::new("podman").arg("--version").output().is_ok_and(|done| done.status.success()) {
            testkit::skip("podman does not run here (Debian package podman)");
            return None;
        }
        testkit::enter_node();
        enter_mounts();
        let dir = testkit::scratch();
        let id = dir.path().file_name().unwrap().to_string_lossy().into_owned();
        let podman = Self { dir, id };
        let archive = podman.dir.path().join("image.tar");
        testkit::run(Command::new(script("busybox-image")).arg(&archive));
        // Limits that every machine can give.
        let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        fs::write(podman.dir.path().join("containers.conf"), limits).unwrap();
        fs::write(podman.dir.path().join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)
            .unwrap();
        let policy = format!("--signature-policy={}/policy.json", podman.dir.path().display());
        testkit::run(podman.command(&["load", &policy, "--input"]).arg(&archive));
        Some(podman)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--signal=KILL", "60", "podman"]);
        for (option, dir) in
            [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--network-config-dir", "networks")]
        {
            command.arg(option).arg(self.dir.path().join(dir));
        }
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime"]);
        command.arg(testkit::binary("pea")).args(words).env("TMPDIR", self.dir.path());
        command.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        command
    }

    /// `podman VERB` of a new container.
    fn new_container(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = self.command(&[verb]);
        command.arg(format!("--cgroup-parent=/{}", self.id)).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        testkit::attempt(&mut self.new_container("run", &[&["--rm", "--network=none", IMAGE], words].concat()))
    }

    fn output(&self, words: &[&str]) -> String {
        testkit::output(&mut self.command(words))
    }

    fn status(&self, name: &str) -> String {
        self.output(&["inspect", "--format={{.State.Status}}", name])
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = testkit::attempt(&mut self.command(&["pod", "rm", "--all", "--force", "--time=0"]));
        let _ = testkit::attempt(&mut self.command(&["rm", "--all", "--force", "--time=0"]));
        for dir in cgroups(&self.id) {
            wait("the cgroups to be empty", || remove_dirs(&dir));
        }
    }
}

/// podman keeps locks and caches in places no option names, and has pea keep its state where it does unless told
/// otherwise; here all that is the test's own.
fn enter_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    for dir in ["/dev/shm", "/run/pea", "/var/lib/containers"] {
        fs::create_dir_all(dir).unwrap();
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
    }
}

/// Removes cgroups from the leaves up; podman's own monitor may be about to leave one.
fn remove_dirs(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_dirs(&entry.path());
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn script(name: &str) -> std::path::PathBuf {
    testkit::testdata("../scripts").join(name)
}

#[test]
fn exit_codes_say_what_happened() {
    let Some(podman) = Podman::new() else { return };
    let done = podman.run(&["echo", "hello"]);
    assert_eq!((done.status.code(), stdout(&done).as_str()), (Some(0), "hello"), "{}", stderr(&done));
    for (words, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["no-such-program"], 127),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let done = podman.run(words);
        assert_eq!(done.status.code(), Some(code), "{words:?}: {}", stderr(&done));
    }
    let done = testkit::attempt(&mut podman.new_container("run", &["--rm", "-t", "--network=host", IMAGE, "tty"]));
    assert_eq!(stdout(&done), "/dev/pts/0", "{}", stderr(&done));
}

#[test]
fn a_container_is_looked_after() {
    let Some(podman) = Podman::new() else { return };
    let script = "echo started; trap 'exit 3' TERM; while :; do sleep 0.1; done";
    let words = ["-d", "--name=a", "--network=none", "--memory=64m", IMAGE, "sh", "-c", script];
    testkit::run(&mut podman.new_container("run", &words));
    wait("its output", || podman.output(&["logs", "a"]) == "started");

    assert_eq!(
        podman.output(&["exec", "-e", "X=1", "-u", "65534", "-w", "/tmp", "a", "sh", "-c", "echo $X $PWD; id -u"]),
        "1 /tmp\n65534"
    );
    assert_eq!(podman.output(&["exec", "-t", "a", "tty"]), "/dev/pts/0");
    for (words, code) in [(&["sh", "-c", "exit 9"][..], 9), (&["no-such-program"], 127), (&["/etc/passwd"], 126)] {
        let done = testkit::attempt(podman.command(&["exec", "a"]).args(words));
        assert_eq!(done.status.code(), Some(code), "{words:?}: {}", stderr(&done));
    }
    let stats = podman.output(&["stats", "--no-stream", "--format={{.PIDs}} {{.MemUsage}}", "a"]);
    assert!(stats.ends_with("67.11MB") && !stats.starts_with("0 "), "{stats}");
    assert!(podman.output(&["top", "a", "args"]).contains("echo started"));

    testkit::run(&mut podman.command(&["kill", "--signal=TERM", "a"]));
    assert_eq!(podman.output(&["wait", "a"]), "3");
    assert_eq!(podman.status("a"), "exited");
    testkit::run(&mut podman.command(&["start", "a"]));
    assert_eq!(podman.status("a"), "running");
    testkit::run(&mut podman.command(&["stop", "--time=0", "a"]));
    testkit::run(&mut podman.command(&["rm", "a"]));
}

#[test]
fn a_pod_shares_its_namespaces() {
    let Some(podman) = Podman::new() else { return };
    let infra = [format!("--infra-image={IMAGE}"), "--infra-command=sleep 1000".to_owned()];
    let mut create = podman.command(&["pod", "create", "--name=p", "--network=none", "--share=net,ipc,uts"]);
    testkit::run(create.args(infra).arg(format!("--cgroup-parent=/{}", podman.id)));
    for name in ["one", "two"] {
        let name = format!("--name={name}");
        let mut run = podman.command(&["run", "-d", "--pod=p"]);
        testkit::run(run.args([&name, IMAGE, "sleep", "1000"]));
    }
    for namespace in ["net", "ipc", "uts"] {
        let of = |name| podman.output(&["exec", name, "readlink", &format!("/proc/self/ns/{namespace}")]);
        assert_eq!(of("one"), of("two"), "{namespace}");
    }
    assert_eq!(podman.output(&["exec", "one", "hostname"]), "p");
    assert_eq!(podman.output(&["pod", "inspect", "--format={{.State}}", "p"]), "Running");
    testkit::run(&mut podman.command(&["pod", "rm", "--force", "--time=0", "p"]));
    assert_eq!(podman.output(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn a_container_is_paused_and_its_limits_are_changed() {
    let Some(podman) = Podman::new() else { return };
    let words = ["-d", "--name=a", "--network=none", "--memory=64m", IMAGE, "sleep", "1000"];
    testkit::run(&mut podman.new_container("run", &words));
    testkit::run(&mut podman.command(&["pause", "a"]));
    assert_eq!(podman.status("a"), "paused");
    testkit::run(&mut podman.command(&["unpause", "a"]));
    assert_eq!(podman.status("a"), "running");
    testkit::run(&mut podman.command(&["update", "--memory=32m", "a"]));
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2> /dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(podman.output(&["exec", "a", "sh", "-c", limit]), "33554432");
}
