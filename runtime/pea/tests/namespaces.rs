//! Namespaces joined by path, as the containers of a pod do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};

use common::{Bundle, stderr, wait};
use serde_json::{Value, json};

/// A process that holds namespaces, as a pod's does.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(flags).args(["sleep", "1000"]).stdout(Stdio::null()).spawn().expect("unshare");
        let holder = Self(child);
        wait("the holder's namespaces", || {
            fs::read_link(format!("/proc/{}/exe", holder.0.id())).is_ok_and(|exe| exe.ends_with("sleep"))
        });
        holder
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn join(bundle: &mut Bundle, kind: &str, path: &str) {
    for namespace in bundle.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == json!(kind) {
            namespace["path"] = json!(path);
        }
    }
}

/// In a mount namespace of pea's own, for a bug would take its root from everybody in it.
#[test]
fn whoever_is_in_a_joined_mount_namespace_keeps_his_root() {
    let mut bundle = Bundle::shell("test -d /proc/1 && pwd");
    join(&mut bundle, "mount", "/proc/self/ns/mnt");
    let pea = bundle.pea(&["run", &bundle.id]);
    let script = "\"$@\" && test -d \"$0\" && ! grep \"$0\" /proc/self/mountinfo";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(bundle.path()).arg(pea.get_program()).args(pea.get_args());
    assert_eq!(testkit::output(command.current_dir(bundle.path())), "/");
}

#[test]
fn namespaces_are_joined_by_path() {
    let holder = Holder::new(&["--net", "--uts", "--ipc"]);
    let mut bundle = Bundle::idle();
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    for (kind, file) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc")] {
        join(&mut bundle, kind, &holder.path(file));
    }
    bundle.start_up();
    for file in ["net", "uts", "ipc"] {
        let theirs = fs::read_link(holder.path(file)).unwrap();
        assert_eq!(fs::read_link(format!("/proc/{}/ns/{file}", bundle.pid())).unwrap(), theirs);
        assert_eq!(bundle.exec(&["readlink", &format!("/proc/self/ns/{file}")]), theirs.to_string_lossy());
    }
    for file in ["mnt", "pid"] {
        let theirs = fs::read_link(holder.path(file)).unwrap();
        assert_ne!(fs::read_link(format!("/proc/{}/ns/{file}", bundle.pid())).unwrap(), theirs);
    }
}

#[test]
fn a_shared_pid_namespace_does_not_keep_the_container_alive() {
    let first = Bundle::running();
    let mut second = Bundle::shell("sleep 1000 & sleep 1000");
    join(&mut second, "pid", &format!("/proc/{}/ns/pid", first.pid()));
    second.start_up();
    assert_eq!(
        fs::read_link(format!("/proc/{}/ns/pid", second.pid())).unwrap(),
        fs::read_link(format!("/proc/{}/ns/pid", first.pid())).unwrap()
    );
    // The init's death does not take its children along here: they are in the first container's namespace.
    wait("its child", || {
        let pids = testkit::output(&mut second.pea(&["ps", "-f", "json", &second.id]));
        serde_json::from_str::<Vec<i32>>(&pids).unwrap().len() >= 2
    });
    testkit::run(&mut second.pea(&["kill", &second.id, "KILL"]));
    second.wait_stopped();
    testkit::run(&mut second.pea(&["delete", &second.id]));
    second.assert_nothing_left();
    assert_eq!(first.status(), "running");
}

#[test]
fn a_namespace_of_another_kind_is_refused() {
    let holder = Holder::new(&["--net"]);
    let mut bundle = Bundle::idle();
    join(&mut bundle, "ipc", &holder.path("net"));
    let done = testkit::attempt(&mut bundle.pea(&["create", &bundle.id]));
    assert!(stderr(&done).contains("this is no ipc namespace"), "{}", stderr(&done));
    join(&mut bundle, "ipc", "/no/such/namespace");
    let done = testkit::attempt(&mut bundle.pea(&["create", &bundle.id]));
    assert!(stderr(&done).contains("/no/such/namespace: no such file"), "{}", stderr(&done));
    bundle.assert_nothing_left();
}

#[test]
fn a_user_namespace_is_joined_together_with_those_it_does_not_own() {
    // The network namespace is the machine's to give; once inside the user namespace it could not be opened any more.
    let network = Holder::new(&["--net"]);
    let user = Holder::new(&["--user"]);
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", user.0.id()), "0 100000 65536").unwrap();
    }
    let mut bundle = Bundle::idle();
    testkit::run(Command::new("chmod").arg("755").arg(bundle.path()));
    testkit::run(Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()));
    let namespace: Value = json!({"type": "user", "path": user.path("user")});
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
    join(&mut bundle, "network", &network.path("net"));
    // Not to be mounted by those who do not own the network namespace.
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != json!("sysfs"));
    bundle.start_up();
    let theirs = fs::read_link(user.path("user")).unwrap();
    assert_eq!(fs::read_link(format!("/proc/{}/ns/user", bundle.pid())).unwrap(), theirs);
    assert_eq!(bundle.exec(&["readlink", "/proc/self/ns/user"]), theirs.to_string_lossy());
    let theirs = fs::read_link(network.path("net")).unwrap();
    assert_eq!(bundle.exec(&["readlink", "/proc/self/ns/net"]), theirs.to_string_lossy());
}
