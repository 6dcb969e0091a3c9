//! Containers whose cgroups systemd makes, where systemd runs (as in the machine of `scripts/vm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bundle, stderr, wait};
use serde_json::{Value, json};

/// Whether there is no systemd to ask.
fn skipped() -> bool {
    let there = Path::new("/run/systemd/system").exists() && Path::new("/run/dbus/system_bus_socket").exists();
    if !there {
        testkit::skip("systemd does not run here");
    }
    !there
}

/// Where the tests' scopes are.
const SLICE: &str = "peatest-sub.slice";

fn unit(bundle: &Bundle) -> String {
    format!("pea-{}.scope", bundle.id)
}

fn cgroup(bundle: &Bundle) -> PathBuf {
    Path::new("/sys/fs/cgroup/peatest.slice").join(SLICE).join(unit(bundle))
}

fn file(bundle: &Bundle, name: &str) -> String {
    let path = cgroup(bundle).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn systemctl(arguments: &[&str]) -> String {
    testkit::output(Command::new("systemctl").args(arguments))
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

/// In that slice, and idle.
fn bundle() -> Bundle {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:pea:{}", bundle.id));
    bundle
}

fn create(bundle: &Bundle) -> Command {
    let mut command = bundle.pea(&["--systemd-cgroup", "create", &bundle.id]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn start_up(bundle: &Bundle) {
    assert!(create(bundle).status().unwrap().success(), "create failed");
    testkit::run(&mut bundle.pea(&["start", &bundle.id]));
}

fn delete(bundle: &Bundle) {
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
}

fn assert_nothing_left(bundle: &Bundle) {
    assert!(!cgroup(bundle).exists(), "the cgroup is left");
    assert_eq!(property(&unit(bundle), "LoadState"), "not-found");
    bundle.assert_nothing_left();
}

#[test]
fn a_container_is_a_scope_in_its_slice() {
    if skipped() {
        return;
    }
    let mut bundle = bundle();
    bundle.spec["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "7"});
    start_up(&bundle);
    let unit = unit(&bundle);
    for (name, expected) in [
        ("ActiveState", "active"),
        ("Slice", SLICE),
        ("Delegate", "yes"),
        ("CollectMode", "inactive-or-failed"),
        ("Transient", "yes"),
        ("TimeoutStopUSec", "7s"),
        ("Description", &format!("pea container {}", bundle.id)),
    ] {
        assert_eq!(property(&unit, name), expected, "{name}");
    }
    assert_eq!(file(&bundle, "cgroup.procs").lines().next(), Some(bundle.pid().to_string().as_str()));
    let executed = bundle.exec(&["cat", "/proc/self/cgroup"]);
    // The container has a cgroup namespace: its own cgroup is the root there.
    assert_eq!(executed, "0::/");
    delete(&bundle);
    assert_nothing_left(&bundle);
}

/// The limits of [`limited`], as the kernel has them.
const LIMITS: [(&str, &str); 6] = [
    ("memory.max", "67108864"),
    ("memory.low", "33554432"),
    ("cpu.weight", "59"),
    ("cpu.max", "5000 20000"),
    ("pids.max", "30"),
    ("memory.oom.group", "1"),
];

fn limited() -> Bundle {
    let mut bundle = bundle();
    bundle.spec["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 5000, "period": 20000},
        "pids": {"limit": 30},
        "unified": {"memory.oom.group": "1"},
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ],
    });
    bundle.spec["root"]["readonly"] = json!(false);
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
    }
    bundle
}

fn assert_limits(bundle: &Bundle) {
    for (name, expected) in LIMITS {
        assert_eq!(file(bundle, name), expected, "{name}");
    }
    // An exception (fuse) from what is allowed, and something not allowed at all (a console).
    for (minor, major) in [(229, 10), (0, 4)] {
        let script = format!("rm -f /d; mknod /d c {major} {minor}; : < /d");
        let done = testkit::attempt(
            bundle.pea(&["exec", "--cap", "CAP_MKNOD", &bundle.id, "sh", "-c", &script]).stdout(Stdio::null()),
        );
        assert!(stderr(&done).contains("Operation not permitted"), "{major}:{minor}: {done:?}");
    }
    bundle.exec(&["sh", "-c", ": < /dev/null && : > /dev/null"]);
}

#[test]
fn limits_are_the_kernels_and_systemds_and_outlive_a_reload() {
    if skipped() {
        return;
    }
    let bundle = limited();
    start_up(&bundle);
    for (name, expected) in [
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "250ms"),
        ("CPUQuotaPeriodUSec", "20ms"),
        ("TasksMax", "30"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(property(&unit(&bundle), name), expected, "{name}");
    }
    assert_limits(&bundle);
    systemctl(&["daemon-reload"]);
    assert_limits(&bundle);
    // Now it has something to set up anew, in this unit.
    systemctl(&["set-property", "--runtime", &unit(&bundle), "CPUWeight=60", "DeviceAllow=char-ttyS r"]);
    assert_eq!(file(&bundle, "cpu.weight"), "60");
    systemctl(&["set-property", "--runtime", &unit(&bundle), "CPUWeight=59"]);
    assert_limits(&bundle);
    delete(&bundle);
    assert_nothing_left(&bundle);
}

#[test]
fn an_update_changes_the_unit_too() {
    if skipped() {
        return;
    }
    let bundle = limited();
    start_up(&bundle);
    let flags = ["--memory", "32m", "--memory-reservation", "16m", "--cpu-quota", "10001", "--pids-limit", "40"];
    testkit::run(bundle.pea(&["update"]).args(flags).arg(&bundle.id));
    let unit = unit(&bundle);
    let assert_changed = || {
        for (name, expected) in [
            ("MemoryMax", "33554432"),
            ("MemoryLow", "16777216"),
            // In whole percents, rounded up.
            ("CPUQuotaPerSecUSec", "510ms"),
            ("TasksMax", "40"),
            ("CPUWeight", "59"),
        ] {
            assert_eq!(property(&unit, name), expected, "{name}");
        }
        for (name, expected) in [("memory.max", "33554432"), ("memory.low", "16777216"), ("pids.max", "40")] {
            assert_eq!(file(&bundle, name), expected, "{name}");
        }
    };
    assert_changed();
    assert_eq!(file(&bundle, "cpu.max"), "10001 20000");
    systemctl(&["daemon-reload"]);
    assert_changed();
    delete(&bundle);
    assert_nothing_left(&bundle);
}

#[test]
fn an_update_that_the_kernel_refuses_changes_neither() {
    if skipped() {
        return;
    }
    let bundle = limited();
    start_up(&bundle);
    let done =
        testkit::attempt(&mut bundle.pea(&["update", "--pids-limit", "50", "--cpu-burst", "999999", &bundle.id]));
    assert!(!done.status.success(), "{done:?}");
    assert_eq!(property(&unit(&bundle), "TasksMax"), "30");
    assert_eq!(file(&bundle, "pids.max"), "30");
}

#[test]
fn a_scope_that_has_ended_by_itself_is_no_trouble() {
    if skipped() {
        return;
    }
    let mut bundle = bundle();
    bundle.spec["process"]["args"] = json!(["true"]);
    start_up(&bundle);
    bundle.wait_stopped();
    wait("systemd to see the end", || property(&unit(&bundle), "LoadState") == "not-found");
    testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
    assert_nothing_left(&bundle);
    // The name is free again at once.
    bundle.spec["process"]["args"] = json!(["echo", "again"]);
    for _ in 0..3 {
        let again = testkit::output(&mut bundle.pea(&["--systemd-cgroup", "run", &bundle.id]));
        assert_eq!(again, "again");
        assert_nothing_left(&bundle);
    }
}

#[test]
fn groups_made_inside_are_removed_with_the_scope() {
    if skipped() {
        return;
    }
    let bundle = bundle();
    start_up(&bundle);
    fs::create_dir_all(cgroup(&bundle).join("a/b")).unwrap();
    delete(&bundle);
    assert_nothing_left(&bundle);
}

#[test]
fn a_unit_of_that_name_is_left_alone() {
    if skipped() {
        return;
    }
    let bundle = bundle();
    start_up(&bundle);
    let mut other = Bundle::idle();
    // In another slice, so that it is another cgroup; but a unit's name is its name everywhere.
    other.spec["linux"]["cgroupsPath"] = json!(format!("system.slice:pea:{}", bundle.id));
    let done = testkit::attempt(&mut other.pea(&["--systemd-cgroup", "run", &other.id]));
    assert_eq!(done.status.code(), Some(1));
    let text = stderr(&done);
    assert!(text.contains(&unit(&bundle)) && text.contains("already") && text.lines().count() == 1, "{text}");
    assert_eq!((bundle.status().as_str(), property(&unit(&bundle), "ActiveState").as_str()), ("running", "active"));
    other.assert_nothing_left();
}

#[test]
fn what_systemd_does_not_understand_fails_with_its_words() {
    if skipped() {
        return;
    }
    for (annotation, value, phrase) in [
        ("org.systemd.property.NoSuchThing", "true", "NoSuchThing"),
        ("org.systemd.property.CollectMode", "'whatever'", "CollectMode"),
        ("org.systemd.property.CollectMode", "whatever", "GVariant"),
    ] {
        let mut bundle = bundle();
        bundle.spec["annotations"] = json!({annotation: value});
        let done = testkit::attempt(&mut bundle.pea(&["--systemd-cgroup", "run", &bundle.id]));
        assert_eq!(done.status.code(), Some(1));
        assert!(stderr(&done).contains(phrase) && stderr(&done).lines().count() == 1, "{done:?}");
        assert_nothing_left(&bundle);
    }
}

#[test]
fn without_systemd_the_error_says_so() {
    let bundle = bundle();
    let mut pea = bundle.pea(&["--systemd-cgroup", "run", &bundle.id]);
    pea.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let done = testkit::attempt(&mut pea);
    assert_eq!(done.status.code(), Some(1));
    let phrase = "connect to systemd by D-Bus at unix:path=/nonexistent/bus: no such file or directory";
    assert!(stderr(&done).contains(phrase), "{done:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_creation_killed_while_it_talks_to_systemd_leaves_nothing_that_delete_does_not_remove() {
    if skipped() {
        return;
    }
    if !testkit::attempt(Command::new("sh").args(["-c", "command -v strace"])).status.success() {
        testkit::skip("there is no strace to kill the helper");
        return;
    }
    let bundle = bundle();
    for (call, nth) in [("connect", 1), ("sendto", 1), ("sendto", 3), ("sendto", 4), ("sendto", 5), ("recvfrom", 60)] {
        let ended = bundle.path().join("ended");
        let _ = fs::remove_file(&ended);
        let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
        let pea = create(&bundle);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
        strace.args(["sh", "-c", "\"$@\"; : > \"$0\""]).arg(&ended).arg(pea.get_program()).args(pea.get_args());
        strace.current_dir(bundle.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut strace = strace.spawn().unwrap();
        wait("the end of create", || ended.exists());
        delete(&bundle);
        assert_nothing_left(&bundle);
        strace.wait().unwrap();
    }
}

/// A user all systems have.
const NOBODY: u32 = 65534;

/// `pea` as that user, with a systemd of his own.
fn as_nobody(bundle: &Bundle, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    // He may not be able to enter where it was built.
    command.args(["--foreground", "--signal=KILL", "60"]).arg(bundle.path().join("pea"));
    command.args(["--root", "state"]).args(arguments).current_dir(bundle.path());
    command.uid(NOBODY).gid(NOBODY).env("XDG_RUNTIME_DIR", format!("/run/user/{NOBODY}"));
    command.env_remove("DBUS_SESSION_BUS_ADDRESS").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn a_user_asks_the_users_systemd() {
    if skipped() {
        return;
    }
    if !Path::new("/usr/lib/systemd/user/dbus.socket").exists() {
        testkit::skip("there is no message bus for users");
        return;
    }
    let service = format!("user@{NOBODY}.service");
    systemctl(&["start", &service]);
    let bundle = Bundle::idle();
    testkit::copy_program(testkit::binary("pea"), bundle.path().join("pea"));
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    testkit::run(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(bundle.path()));
    let path = bundle.path().join("config.json");
    fs::remove_file(&path).unwrap();
    testkit::run(&mut as_nobody(&bundle, &["spec", "--rootless"]));
    let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    spec["process"] = bundle.spec["process"].clone();
    spec["linux"]["resources"] = json!({"pids": {"limit": 33}});
    fs::write(&path, spec.to_string()).unwrap();
    let created = as_nobody(&bundle, &["--systemd-cgroup", "create", "mine"]).status().unwrap();
    assert!(created.success(), "create failed");
    let slices = format!("user.slice/user-{NOBODY}.slice/{service}/user.slice");
    let cgroup = Path::new("/sys/fs/cgroup").join(slices).join("pea-mine.scope");
    let pids = fs::read_to_string(cgroup.join("pids.max"));
    let members = fs::read_to_string(cgroup.join("cgroup.procs"));
    testkit::run(&mut as_nobody(&bundle, &["start", "mine"]));
    let executed = as_nobody(&bundle, &["exec", "mine", "true"]).status().unwrap();
    testkit::run(&mut as_nobody(&bundle, &["delete", "--force", "mine"]));
    let left = cgroup.exists();
    systemctl(&["stop", &service]);
    assert_eq!(members.expect("the scope's members").lines().count(), 1);
    assert_eq!(pids.expect("its limit").trim(), "33");
    assert!(executed.success(), "exec failed");
    assert!(!left, "the cgroup is left");
}
