//! The command line run by a user who is not root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// A user all systems have, and who owns nothing.
const NOBODY: u32 = 65534;

/// A bundle of that user's, with the root file system of [`testkit`].
struct Rootless {
    dir: tempfile::TempDir,
}

impl Rootless {
    fn new(script: &str) -> Self {
        let dir = testkit::scratch();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        testkit::busybox_rootfs(&dir.path().join("rootfs"));
        fs::create_dir(dir.path().join("runtime")).unwrap();
        // The user may not be able to enter where it was built.
        testkit::copy_program(testkit::binary("pea"), dir.path().join("pea"));
        testkit::run(Command::new("chown").args(["-R", "65534:65534"]).arg(dir.path()));
        let bundle = Self { dir };
        testkit::run(&mut bundle.pea(&["spec", "--rootless"]));
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["sh", "-c", script]);
        });
        bundle
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.dir.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
    }

    fn pea(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--signal=KILL", "60", "setpriv", "--reuid=65534", "--regid=65534"]);
        command.args(["--clear-groups", "--"]).arg(self.dir.path().join("pea")).args(words);
        command.current_dir(self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path().join("runtime"));
        command
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = testkit::attempt(&mut self.pea(&["delete", "--force", "rootless"]));
    }
}

/// Whether users may make user namespaces here.
fn allowed() -> bool {
    let mut unshare = Command::new("setpriv");
    unshare.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "true"]);
    let allowed = unshare.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !allowed {
        testkit::skip("users may not make user namespaces on this machine");
    }
    allowed
}

#[test]
fn a_user_runs_a_container() {
    if !allowed() {
        return;
    }
    let bundle = Rootless::new("id -u; cat /proc/self/uid_map; exit 5");
    let done = testkit::attempt(&mut bundle.pea(&["run", "rootless"]));
    assert_eq!(done.status.code(), Some(5), "{}", common::stderr(&done));
    let text = common::stdout(&done);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "65534", "1"], "root inside, nobody outside");
}

#[test]
fn a_users_container_goes_through_its_states() {
    if !allowed() {
        return;
    }
    let bundle = Rootless::new("while :; do sleep 0.1; done");
    let null = || fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let status = bundle.pea(&["create", "rootless"]).stdin(null()).stdout(null()).stderr(null()).status();
    assert!(status.unwrap().success());
    assert!(bundle.dir.path().join("runtime/pea/rootless").is_dir());
    testkit::run(&mut bundle.pea(&["start", "rootless"]));
    assert_eq!(testkit::output(&mut bundle.pea(&["exec", "rootless", "id", "-u"])), "0");
    assert!(testkit::output(&mut bundle.pea(&["list"])).contains("running"));
    testkit::run(&mut bundle.pea(&["kill", "rootless", "KILL"]));
    common::wait("the container to stop", || testkit::output(&mut bundle.pea(&["list"])).contains("stopped"));
    testkit::run(&mut bundle.pea(&["delete", "rootless"]));
    assert_eq!(testkit::output(&mut bundle.pea(&["list", "-q"])), "");
}

#[test]
fn a_user_with_subordinate_ids_gets_them() {
    if !allowed() {
        return;
    }
    if Command::new("newuidmap").output().is_err() || !Path::new("/etc/subuid").exists() {
        testkit::skip("newuidmap is not installed (Debian package uidmap)");
        return;
    }
    let bundle = Rootless::new("cat /proc/self/uid_map /proc/self/gid_map");
    bundle.change(|spec| {
        let maps =
            json!([{"containerID": 0, "hostID": NOBODY, "size": 1}, {"containerID": 1, "hostID": 200000, "size": 99}]);
        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (maps.clone(), maps);
        spec["root"]["readonly"] = json!(false);
    });
    // The files of this machine stay as they are for everybody else.
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let ids = bundle.dir.path().join("ids");
    fs::write(&ids, "nobody:200000:99\n").unwrap();
    chown(&ids, Some(0), Some(0)).unwrap();
    for file in ["/etc/subuid", "/etc/subgid"] {
        mount(Some(&ids), file, none, MsFlags::MS_BIND, none).unwrap();
    }
    let text = testkit::output(&mut bundle.pea(&["run", "rootless"]));
    let words: Vec<&str> = text.split_whitespace().collect();
    let map = ["0", "65534", "1", "1", "200000", "99"];
    assert_eq!((&words[..6], &words[6..12]), (&map[..], &map[..]), "{text}");
}
