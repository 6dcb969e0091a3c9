//! Control groups where there is nothing but the unified hierarchy: on other machines that layout is made in a private
//! mount namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{Bundle, on_v2, stderr, stdout, wait};
use serde_json::json;

/// Creates and starts it there.
fn start_on_v2(bundle: &Bundle) {
    let created = on_v2(&bundle.pea(&["create", &bundle.id])).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(created.unwrap().success());
    testkit::run(&mut on_v2(&bundle.pea(&["start", &bundle.id])));
}

/// A file of the container's cgroup in the unified hierarchy.
fn unified_file(bundle: &Bundle, file: &str) -> String {
    let command = on_v2(Command::new("cat").arg(format!("/sys/fs/cgroup/{}/{file}", bundle.id)));
    stdout(&testkit::attempt(&mut { command })).trim().to_owned()
}

#[test]
fn a_container_lives_freezes_and_dies() {
    let bundle = Bundle::idle();
    start_on_v2(&bundle);
    assert_eq!(unified_file(&bundle, "cgroup.procs").lines().next(), Some(bundle.pid().to_string().as_str()));
    let executed = testkit::output(&mut on_v2(&bundle.pea(&["exec", &bundle.id, "echo", "here"])));
    assert_eq!(executed, "here");
    testkit::run(&mut on_v2(&bundle.pea(&["pause", &bundle.id])));
    assert!(unified_file(&bundle, "cgroup.events").contains("frozen 1"));
    testkit::run(&mut on_v2(&bundle.pea(&["resume", &bundle.id])));
    assert!(unified_file(&bundle, "cgroup.events").contains("frozen 0"));
    let stats = testkit::output(&mut on_v2(&bundle.pea(&["events", "--stats", &bundle.id])));
    assert!(stats.contains("\"throttling\"") && stats.contains("\"pids\":{\"current\":"), "{stats}");
    testkit::run(&mut on_v2(&bundle.pea(&["pause", &bundle.id])));
    testkit::run(&mut on_v2(&bundle.pea(&["kill", "--all", &bundle.id, "KILL"])));
    bundle.wait_stopped();
    testkit::run(&mut on_v2(&bundle.pea(&["delete", &bundle.id])));
    bundle.assert_nothing_left();
}

#[test]
fn limits_are_set_and_refused() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    bundle.spec["linux"]["resources"]["unified"] = json!({"hugetlb.1GB.max": "0", "cgroup.max.descendants": "7"});
    if testkit::attempt(Command::new("sh").args(["-c", "ls /sys/kernel/mm/hugepages/hugepages-1048576kB"]))
        .status
        .success()
    {
        start_on_v2(&bundle);
        assert_eq!(unified_file(&bundle, "hugetlb.2MB.max"), "4194304");
        assert_eq!(unified_file(&bundle, "hugetlb.2MB.rsvd.max"), "4194304");
        assert_eq!(unified_file(&bundle, "hugetlb.1GB.max"), "0");
        assert_eq!(unified_file(&bundle, "cgroup.max.descendants"), "7");
        testkit::run(&mut on_v2(&bundle.pea(&["delete", "--force", &bundle.id])));
    } else {
        testkit::skip("no huge pages of those sizes");
    }
    let memory = if common::unified() { "hugetlb.9PB.max" } else { "memory.high" };
    for (unified, phrase) in [
        (json!({memory: "4096"}), "available"),
        (json!({"foo.bar": "x"}), "the requested cgroup controller `foo` is not available"),
        (json!({"cgroup.nothing": "x"}), "cgroup.nothing: no such file or directory"),
        (
            json!({"cgroup.max.depth": "shoes"}),
            "linux.resources.unified.cgroup.max.depth: write shoes to /sys/fs/cgroup/",
        ),
    ] {
        bundle.spec["linux"]["resources"]["unified"] = unified;
        let done = testkit::attempt(&mut on_v2(&bundle.pea(&["run", &bundle.id])));
        assert!(stderr(&done).contains(phrase) || common::unified(), "{done:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_container_can_be_below_a_cgroup_with_processes() {
    let outer = Bundle::idle();
    start_on_v2(&outer);
    let mut inner = Bundle::new(&["cat", "/proc/self/cgroup"]);
    inner.spec["linux"]["cgroupsPath"] = json!(format!("/{}/inner", outer.id));
    // Without a cgroup namespace, for the path as it is.
    inner.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "cgroup");
    let path = testkit::output(&mut on_v2(&inner.pea(&["run", &inner.id])));
    assert!(path.lines().any(|line| line == format!("0::/{}/inner", outer.id)), "{path}");
    if !common::controls("hugetlb") {
        testkit::skip("no hugetlb controller");
        return;
    }
    inner.spec["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 0}]);
    let done = testkit::attempt(&mut on_v2(&inner.pea(&["run", &inner.id])));
    let text = stderr(&done);
    assert!(text.contains("linux.resources.hugepageLimits[0]: ") && text.contains("processes"), "{text}");
    testkit::run(&mut on_v2(&outer.pea(&["delete", "--force", &outer.id])));
    outer.assert_nothing_left();
}

#[test]
fn a_user_namespaces_root_owns_its_cgroup() {
    let script = "mkdir /sys/fs/cgroup/own && echo 0 >/sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup; \
                  while :; do sleep 0.05; done";
    let mut bundle = Bundle::shell(script);
    let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = mappings.clone();
    bundle.spec["linux"]["gidMappings"] = mappings;
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    namespaces.extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
        "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime"]}));
    testkit::run(Command::new("chmod").args(["-R", "a+rX"]).arg(bundle.path()));
    let out = bundle.path().join("out");
    let created = on_v2(&bundle.pea(&["create", &bundle.id]))
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::options().append(true).open(&out).unwrap())
        .status();
    assert!(created.unwrap().success(), "{}", fs::read_to_string(&out).unwrap());
    let owner = on_v2(Command::new("sh").arg("-c").arg(format!(
        "cd /sys/fs/cgroup/{} && stat -c %u . cgroup.procs cgroup.threads cgroup.subtree_control cgroup.max.depth",
        bundle.id
    )));
    let owners = testkit::output(&mut { owner });
    assert_eq!(owners.split_whitespace().collect::<Vec<_>>(), ["100000", "100000", "100000", "100000", "0"]);
    testkit::run(&mut on_v2(&bundle.pea(&["start", &bundle.id])));
    wait("the program to move", || fs::read_to_string(&out).unwrap().contains("0::/own"));
    testkit::run(&mut on_v2(&bundle.pea(&["delete", "--force", &bundle.id])));
    bundle.assert_nothing_left();
}

/// As in a container whose filter of system calls is older than clone3.
#[test]
fn without_clone3_a_process_gets_into_its_cgroup_all_the_same() {
    for error in ["ENOSYS", "EPERM"] {
        let refusing = |command: &Command| {
            let mut strace = Command::new("strace");
            let inject = format!("inject=clone3:error={error}");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=clone3", "-e", &inject]);
            strace.arg(command.get_program()).args(command.get_args()).current_dir(command.get_current_dir().unwrap());
            strace
        };
        let script = "cat /proc/self/cgroup; readlink /proc/self";
        let mut bundle = Bundle::shell(script);
        let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        let ran = testkit::output(&mut on_v2(&refusing(&bundle.pea(&["run", &bundle.id]))));
        assert!(ran.lines().any(|line| line == format!("0::/{}", bundle.id)) && ran.ends_with('1'), "{ran}");
        bundle.spec["process"]["args"] = json!(["sleep", "1000"]);
        start_on_v2(&bundle);
        let mut exec = bundle.pea(&["exec", &bundle.id, "sh", "-c", script]);
        let executed = testkit::output(&mut on_v2(&refusing(&mut exec)));
        assert!(executed.lines().any(|line| line == format!("0::/{}", bundle.id)), "{executed}");
        testkit::run(&mut on_v2(&bundle.pea(&["delete", "--force", &bundle.id])));
    }
}
