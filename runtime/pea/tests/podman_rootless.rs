//! Debian's podman with `--runtime pea`, run by a user without root who has a systemd of his own (as in the machine of
//! `scripts/vm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{stderr, stdout};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const IMAGE: &str = "localhost/busybox:latest";

/// A user all systems have, and his systemd.
const NOBODY: u32 = 65534;
const SERVICE: &str = "user@65534.service";

struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    /// None where users cannot run podman.
    fn new() -> Option<Self> {
        let works = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|done| done.status.success());
        let bus = Path::new("/usr/lib/systemd/user/dbus.socket").exists() && Path::new("/run/systemd/system").exists();
        if !(works("podman") && bus && Path::new("/usr/bin/newuidmap").exists()) {
            testkit::skip("podman, systemd, its bus for users or newuidmap is not here");
            return None;
        }
        let dir = testkit::scratch();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        give_ids(dir.path());
        testkit::run(Command::new("systemctl").args(["start", SERVICE]));
        let archive = dir.path().join("image.tar");
        testkit::run(Command::new(testkit::testdata("../scripts").join("busybox-image")).arg(&archive));
        testkit::copy_program(testkit::binary("pea"), dir.path().join("pea"));
        fs::write(dir.path().join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let podman = Self { dir };
        testkit::run(podman.command(&["load", "--signature-policy=policy.json", "--input"]).arg(&archive));
        Some(podman)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--signal=KILL", "60", "podman", "--root=storage", "--runroot=run"]);
        command.args(["--storage-driver=vfs", "--cgroup-manager=systemd", "--events-backend=none", "--runtime"]);
        command.arg(self.dir.path().join("pea")).args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command.uid(NOBODY).gid(NOBODY).env("HOME", self.dir.path()).env("USER", "nobody");
        command.env("XDG_RUNTIME_DIR", format!("/run/user/{NOBODY}")).env_remove("DBUS_SESSION_BUS_ADDRESS");
        command
    }

    fn output(&self, words: &[&str]) -> String {
        testkit::output(&mut self.command(words))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = testkit::attempt(&mut self.command(&["rm", "--all", "--force", "--time=0"]));
        // The process that holds podman's user namespace, and all else of that user.
        let _ = testkit::attempt(&mut self.command(&["system", "migrate"]));
        let _ = testkit::attempt(Command::new("systemctl").args(["stop", SERVICE]));
    }
}

/// Subordinate ids, in a mount namespace of this test's: the machine's files stay as they are.
fn give_ids(dir: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).unwrap();
    let ids = dir.join("ids");
    fs::write(&ids, "nobody:200000:65536\n").unwrap();
    for file in ["/etc/subuid", "/etc/subgid"] {
        mount(Some(&ids), file, none, MsFlags::MS_BIND, none).unwrap();
    }
}

#[test]
fn a_users_containers_are_looked_after_and_limited() {
    let Some(podman) = Podman::new() else { return };
    let script = "id -u; cat /sys/fs/cgroup/pids.max; exit 5";
    let run = ["run", "--rm", "--network=none", "--pids-limit=20", IMAGE, "sh", "-c", script];
    let done = testkit::attempt(&mut podman.command(&run));
    assert_eq!((done.status.code(), stdout(&done).as_str()), (Some(5), "0\n20"), "{}", stderr(&done));
    podman.output(&["run", "--detach", "--name=box", "--network=none", IMAGE, "sleep", "1000"]);
    assert_eq!(podman.output(&["exec", "box", "echo", "inside"]), "inside");
    let status = || podman.output(&["inspect", "--format={{.State.Status}}", "box"]);
    podman.output(&["pause", "box"]);
    assert_eq!(status(), "paused");
    podman.output(&["unpause", "box"]);
    podman.output(&["stop", "--time=0", "box"]);
    assert_eq!(status(), "exited");
    // Where the user keeps containers without podman, too.
    let state = Path::new("/run/user/65534/pea");
    assert_eq!(fs::read_dir(state).expect("the state's directory").flatten().filter(not_filters).count(), 0);
}

fn not_filters(entry: &fs::DirEntry) -> bool {
    entry.file_name() != "@seccomp"
}
