//! What the controllers of cgroup v2 do to a container, where there are some (as in the machine of `scripts/vm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, stderr, stdout, wait};
use nix::sys::stat::{major, minor};
use serde_json::json;

/// Whether these controllers are not to be had, or not in the unified hierarchy.
fn skipped(controllers: &[&str]) -> bool {
    let missing = controllers.iter().find(|name| !common::controls(name));
    match missing {
        _ if !common::unified() => testkit::skip("cgroup v2 is not alone here"),
        Some(name) => testkit::skip(&format!("cgroup v2 has no {name} controller here")),
        None => return false,
    }
    true
}

fn cgroup(bundle: &Bundle) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(&bundle.id)
}

fn file(bundle: &Bundle, name: &str) -> String {
    let path = cgroup(bundle).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// A number in a file of names and numbers.
fn count(bundle: &Bundle, name: &str, key: &str) -> u64 {
    let text = file(bundle, name);
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: no {key} in {text}")).parse().unwrap()
}

fn exec(bundle: &Bundle, script: &str) -> Output {
    testkit::attempt(&mut bundle.pea(&["exec", &bundle.id, "sh", "-c", script]))
}

/// One mount of the hierarchy sets the options of all; systemd has asked for `nsdelegate`.
#[test]
fn a_container_that_sees_the_machines_cgroups_leaves_them_their_options() {
    if skipped(&[]) {
        return;
    }
    let options = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(" - cgroup2 ")).expect("a mount").to_owned();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let before = options();
    if !before.contains("nsdelegate") {
        return testkit::skip("the hierarchy has no options here");
    }
    let mut bundle = Bundle::shell("ls -d /sys/fs/cgroup/$ID; ! mkdir /sys/fs/cgroup/not 2>/dev/null");
    bundle.spec["process"]["env"].as_array_mut().unwrap().push(json!(format!("ID={}", bundle.id)));
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|each| each["type"] != "cgroup");
    assert_eq!(bundle.output(), format!("/sys/fs/cgroup/{}", bundle.id), "the machine's, read-only");
    assert_eq!(options(), before);
}

#[test]
fn what_needs_more_memory_than_there_is_dies_and_the_rest_lives_on() {
    if skipped(&["memory"]) {
        return;
    }
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    bundle.start_up();
    let done = exec(&bundle, "tail /dev/zero & wait $!");
    assert_eq!(done.status.code(), Some(137), "{done:?}");
    assert_eq!(count(&bundle, "memory.events", "oom_kill"), 1);
    assert_eq!(bundle.status(), "running");
}

#[test]
fn an_init_out_of_memory_is_killed() {
    if skipped(&["memory"]) {
        return;
    }
    let mut bundle = Bundle::new(&["tail", "/dev/zero"]);
    bundle.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    assert_eq!(bundle.run().status.code(), Some(137));
    bundle.assert_nothing_left();
}

#[test]
fn processor_time_is_as_much_as_was_given() {
    if skipped(&["cpu"]) {
        return;
    }
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"] = json!({"cpu": {"quota": 2000, "period": 20000, "shares": 2048}});
    bundle.start_up();
    assert_eq!((file(&bundle, "cpu.max").as_str(), file(&bundle, "cpu.weight").as_str()), ("2000 20000", "174"));
    let (before, begin) = (count(&bundle, "cpu.stat", "usage_usec"), Instant::now());
    let done = exec(&bundle, "i=0; while [ $i -lt 10000 ]; do i=$((i + 1)); done");
    assert!(done.status.success(), "{done:?}");
    let used = Duration::from_micros(count(&bundle, "cpu.stat", "usage_usec") - before);
    assert!(count(&bundle, "cpu.stat", "nr_throttled") > 0, "{}", file(&bundle, "cpu.stat"));
    // A tenth, and what a period's end lets pass.
    assert!(used < begin.elapsed() / 4, "{used:?} in {:?}", begin.elapsed());
}

#[test]
fn there_are_no_more_processes_than_allowed() {
    if skipped(&["pids"]) {
        return;
    }
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 10}});
    bundle.start_up();
    let done = exec(&bundle, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 >/dev/null 2>&1 & done");
    assert!(stderr(&done).contains("can't fork"), "{done:?}");
    assert!(count(&bundle, "pids.events", "max") > 0);
    assert!(file(&bundle, "pids.current").parse::<u32>().unwrap() <= 10);
}

#[test]
fn a_process_executed_in_a_paused_container_waits_with_it() {
    if skipped(&[]) {
        return;
    }
    let bundle = Bundle::running();
    testkit::run(&mut bundle.pea(&["pause", &bundle.id]));
    assert_eq!(count(&bundle, "cgroup.events", "frozen"), 1);
    let refused = testkit::attempt(&mut bundle.pea(&["exec", &bundle.id, "true"]));
    assert!(stderr(&refused).contains("paused"), "{refused:?}");
    let mut pea = bundle.pea(&["exec", "--ignore-paused", &bundle.id, "echo", "thawed"]);
    let mut waiting = pea.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("the process to be in the container", || file(&bundle, "cgroup.procs").lines().count() > 2);
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    testkit::run(&mut bundle.pea(&["resume", &bundle.id]));
    let done = waiting.wait_with_output().unwrap();
    assert_eq!((done.status.code(), stdout(&done).as_str()), (Some(0), "thawed"), "{done:?}");
}

/// With cgroups of its own to write to.
fn delegated(script: &str) -> Bundle {
    let mut bundle = Bundle::shell(script);
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "rw"]}));
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    if !namespaces.iter().any(|namespace| namespace["type"] == "cgroup") {
        namespaces.push(json!({"type": "cgroup"}));
    }
    bundle
}

/// Distributes the container's processes, and limits one of its groups; then waits to be ended.
const DISTRIBUTE: &str = "cd /sys/fs/cgroup && mkdir init work && echo 1 > init/cgroup.procs && \
     echo +pids > cgroup.subtree_control && echo 5 > work/pids.max && cat work/pids.max && \
     trap 'exit 0' TERM && while :; do sleep 0.1; done";

fn assert_distributes(bundle: &Bundle) {
    bundle.start_up();
    wait("the container to make groups", || {
        fs::read_to_string(cgroup(bundle).join("work/pids.max")).is_ok_and(|text| text.trim() == "5")
    });
    assert_eq!(file(bundle, "init/cgroup.procs").lines().next(), Some(bundle.pid().to_string().as_str()));
    // Processes cannot be where there are groups; who comes later goes to the init.
    assert_eq!(bundle.exec(&["cat", "/proc/self/cgroup"]), "0::/init");
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_container_may_have_groups_of_its_own() {
    if skipped(&["pids"]) {
        return;
    }
    assert_distributes(&delegated(DISTRIBUTE));
}

#[test]
fn so_may_one_with_a_user_namespace_whose_root_then_owns_them() {
    if skipped(&["pids"]) {
        return;
    }
    let mut bundle = delegated(DISTRIBUTE);
    let identities = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = identities.clone();
    bundle.spec["linux"]["gidMappings"] = identities;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    // Its root must find the root file system.
    testkit::run(Command::new("chmod").arg("755").arg(bundle.path()));
    bundle.create();
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        assert_eq!(fs::metadata(cgroup(&bundle).join(name)).unwrap().uid(), 100_000, "{name}");
    }
    // The limits of the whole are not the container's to change.
    assert_eq!(fs::metadata(cgroup(&bundle).join("pids.max")).unwrap().uid(), 0);
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    assert_distributes(&bundle);
}

#[test]
fn limits_may_be_in_cgroup_v2s_own_words() {
    if skipped(&["memory", "cpu", "pids"]) {
        return;
    }
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20},
        "unified": {"memory.high": "33554432", "memory.max": "50331648", "cpu.weight": "77", "pids.max": "max"},
    });
    bundle.start_up();
    for (name, expected) in
        [("memory.high", "33554432"), ("memory.max", "50331648"), ("cpu.weight", "77"), ("pids.max", "max")]
    {
        assert_eq!(file(&bundle, name), expected, "{name}");
    }
    let mut wrong = Bundle::idle();
    wrong.spec["linux"]["resources"] = json!({"unified": {"memory.nonsense": "1"}});
    let done = wrong.run();
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).contains("memory.nonsense") && stderr(&done).contains("no such file"), "{done:?}");
    wrong.assert_nothing_left();
}

#[test]
fn a_disk_is_written_no_faster_than_allowed() {
    if skipped(&["io"]) {
        return;
    }
    let dir = tempfile::Builder::new().prefix("peapod-test-").tempdir_in("/var/tmp").unwrap();
    let device = fs::metadata(dir.path()).unwrap().dev();
    let (major, minor) = (major(device), minor(device));
    if !Path::new(&format!("/sys/dev/block/{major}:{minor}/queue")).exists() {
        testkit::skip("/var/tmp is not on a disk of its own");
        return;
    }
    let mut bundle = Bundle::idle();
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/tmp", "type": "bind", "source": dir.path(), "options": ["bind", "rw"]}));
    bundle.spec["linux"]["resources"] =
        json!({"blockIO": {"throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}]}});
    bundle.start_up();
    assert!(file(&bundle, "io.max").starts_with(&format!("{major}:{minor} rbps=max wbps=1048576 ")));
    let begin = Instant::now();
    bundle.exec(&["dd", "if=/dev/zero", "of=/tmp/file", "bs=256k", "count=8", "oflag=direct"]);
    assert!(begin.elapsed() > Duration::from_secs(1), "2 MiB in {:?}", begin.elapsed());
    let unlimited = json!({"blockIO": {"throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 0}]}});
    fs::write(bundle.path().join("resources"), unlimited.to_string()).unwrap();
    testkit::run(&mut bundle.pea(&["update", "--resources", "resources", &bundle.id]));
    assert_eq!(file(&bundle, "io.max"), "");
}
