//! Control groups: limits, membership, freezing, events, and what is left of them, in this machine's own layout.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Bundle, cgroups, stderr, stdout, wait};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use serde_json::{Value, json};

/// The directory of a cgroup where a controller is; none where the machine does not have it.
fn dir(controller: &str, path: &str) -> Option<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let root = if common::unified() { root.to_owned() } else { root.join(controller) };
    root.exists().then(|| root.join(path))
}

/// What is in a file of a v1 controller, if there is one; a file of v2 where there is that.
fn read(bundle: &Bundle, v1: &str, v2: &str) -> Option<String> {
    let file = if common::unified() { v2 } else { v1 };
    let dir = dir(v1.split('.').next().unwrap(), &bundle.id)?;
    fs::read_to_string(dir.join(file)).ok().map(|text| text.trim().to_owned())
}

fn assert_limit(bundle: &Bundle, v1: (&str, &str), v2: (&str, &str)) {
    let expected = if common::unified() { v2.1 } else { v1.1 };
    if let Some(found) = read(bundle, v1.0, v2.0) {
        assert_eq!(found, expected, "{} {}", v1.0, v2.0);
    } else {
        testkit::skip(&format!("no {}", v1.0));
    }
}

fn update(bundle: &Bundle, flags: &[&str]) {
    testkit::run(bundle.pea(&["update"]).args(flags).arg(&bundle.id));
}

fn update_from_stdin(bundle: &Bundle, resources: &Value) -> Output {
    let mut command = bundle.pea(&["update", "--resources=-", &bundle.id]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(resources.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Waits until the container's program says that it takes signals.
fn wait_ready(bundle: &Bundle) {
    let ready = format!("/proc/{}/root/dev/shm/ready", bundle.pid());
    wait("the program to be ready", || Path::new(&ready).exists());
}

#[test]
fn limits_are_set() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
        "pids": {"limit": 30},
    });
    if common::controls("cpuset") {
        bundle.spec["linux"]["resources"]["cpu"]["cpus"] = json!("0");
    }
    bundle.start_up();
    assert_limit(&bundle, ("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"));
    assert_limit(&bundle, ("memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432"));
    assert_limit(&bundle, ("cpu.shares", "512"), ("cpu.weight", "59"));
    assert_limit(&bundle, ("cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"));
    assert_limit(&bundle, ("cpuset.cpus", "0"), ("cpuset.cpus", "0"));
    assert_limit(&bundle, ("pids.max", "30"), ("pids.max", "30"));
}

#[test]
fn a_container_is_a_member_in_every_hierarchy() {
    let bundle = Bundle::running();
    let text = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    for line in text.lines() {
        // One with a controller that is mounted nowhere has no cgroups.
        let name = line.split(':').nth(1).unwrap();
        let mounted = name.is_empty() || name.starts_with("name=") || Path::new("/sys/fs/cgroup").join(name).exists();
        assert!(line.ends_with(&format!(":/{}", bundle.id)) || !mounted, "{text}");
    }
    let executed = bundle.exec(&["cat", "/proc/self/cgroup"]);
    assert!(!executed.is_empty());
}

#[test]
fn an_update_changes_what_it_names_and_later_ones_build_on_it() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 30});
    bundle.start_up();
    update(&bundle, &["--memory", "48m", "--cpu-quota", "30000"]);
    assert_limit(&bundle, ("memory.limit_in_bytes", "50331648"), ("memory.max", "50331648"));
    assert_limit(&bundle, ("cpu.cfs_quota_us", "30000"), ("cpu.max", "30000 100000"));
    assert_limit(&bundle, ("pids.max", "30"), ("pids.max", "30"));
    update(&bundle, &["--cpu-period", "50000", "--cpu-share=200", "--pids-limit", "-1"]);
    assert_limit(&bundle, ("cpu.cfs_quota_us", "30000"), ("cpu.max", "30000 50000"));
    assert_limit(&bundle, ("cpu.cfs_period_us", "50000"), ("cpu.max", "30000 50000"));
    assert_limit(&bundle, ("cpu.shares", "200"), ("cpu.weight", "29"));
    assert_limit(&bundle, ("pids.max", "max"), ("pids.max", "max"));
    assert!(update_from_stdin(&bundle, &json!({"cpu": {"quota": 20000}, "pids": {}})).status.success());
    assert_limit(&bundle, ("cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 50000"));
    assert_limit(&bundle, ("pids.max", "max"), ("pids.max", "max"));
    let saved: Value =
        serde_json::from_slice(&fs::read(bundle.state_root().join(&bundle.id).join("config.json")).unwrap()).unwrap();
    let resources = &saved["linux"]["resources"];
    assert_eq!((&resources["cpu"]["period"], &resources["cpu"]["quota"]), (&json!(50000), &json!(20000)));
    assert_eq!(resources["memory"]["limit"], json!(48 << 20));
    // The rules were there before and are not the update's to change.
    assert!(resources["devices"].is_array(), "{resources}");
    // And the container still takes an exec by the changed copy.
    assert_eq!(bundle.exec(&["echo", "here"]), "here");
    // None at all would be too few for the init, so that is one.
    update(&bundle, &["--pids-limit", "0"]);
    assert_limit(&bundle, ("pids.max", "1"), ("pids.max", "1"));
}

#[test]
fn memory_and_swap_change_in_whichever_order_the_kernel_wants() {
    let bundle = Bundle::running();
    if read(&bundle, "memory.memsw.limit_in_bytes", "memory.swap.max").is_none() {
        testkit::skip("swap is not counted");
        return;
    }
    for (memory, swap, alone) in [("30M", "50M", "20971520"), ("60M", "80M", "20971520"), ("20M", "25M", "5242880")] {
        update(&bundle, &["--memory", memory, "--memory-swap", swap]);
        let together = format!("{}", swap.trim_end_matches('M').parse::<u64>().unwrap() << 20);
        assert_limit(&bundle, ("memory.memsw.limit_in_bytes", &together), ("memory.swap.max", alone));
    }
    update(&bundle, &["--memory", "-1"]);
    assert_limit(&bundle, ("memory.memsw.limit_in_bytes", "9223372036854771712"), ("memory.swap.max", "max"));
    update(&bundle, &["--memory", "100M"]);
    assert_limit(&bundle, ("memory.limit_in_bytes", "104857600"), ("memory.max", "104857600"));
}

#[test]
fn a_refused_update_says_which_value_and_leaves_the_others() {
    let bundle = Bundle::running();
    update(&bundle, &["--pids-limit", "25"]);
    if read(&bundle, "cpu.cfs_quota_us", "cpu.max").is_none() {
        testkit::skip("no cpu controller");
        return;
    }
    let refused = update_from_stdin(&bundle, &json!({"pids": {"limit": 20}, "cpu": {"quota": 1}}));
    assert_eq!(refused.status.code(), Some(1));
    let text = stderr(&refused);
    let start = "linux.resources.cpu.quota: write 1";
    assert!(text.contains(start) && text.ends_with("invalid argument") && text.lines().count() == 1, "{text}");
    assert_limit(&bundle, ("pids.max", "25"), ("pids.max", "25"));
}

#[test]
fn a_limit_can_be_the_first_of_its_controller() {
    let bundle = Bundle::running();
    if common::unified()
        || !fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").is_ok_and(|it| it.contains("hugetlb"))
    {
        testkit::skip("no hugetlb beside v1 controllers");
        return;
    }
    let limits = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    let done = update_from_stdin(&bundle, &limits);
    assert!(done.status.success(), "{done:?}");
    let file = Path::new("/sys/fs/cgroup/unified").join(&bundle.id).join("hugetlb.2MB.max");
    assert_eq!(fs::read_to_string(file).unwrap().trim(), "4194304");
}

#[test]
fn a_stopped_container_is_not_updated_paused_or_watched() {
    let bundle = Bundle::new(&["true"]);
    bundle.start_up();
    bundle.wait_stopped();
    for verb in ["update", "pause", "events"] {
        let done = testkit::attempt(&mut bundle.pea(&[verb, &bundle.id]));
        assert_eq!(done.status.code(), Some(1), "{verb}");
        assert!(stderr(&done).contains("container not running"), "{verb}: {done:?}");
    }
    let done = testkit::attempt(&mut bundle.pea(&["resume", &bundle.id]));
    assert!(stderr(&done).contains("container not paused"), "{done:?}");
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let bundle = Bundle::shell("i=0; while :; do i=$((i+1)); echo $i >/dev/shm/i; sleep 0.01; done");
    bundle.start_up();
    let count = || fs::read_to_string(format!("/proc/{}/root/dev/shm/i", bundle.pid())).unwrap_or_default();
    wait("the container to count", || !count().is_empty());
    testkit::run(&mut bundle.pea(&["pause", &bundle.id]));
    assert_eq!(bundle.status(), "paused");
    let (first, pid) = (count(), bundle.pid());
    // Whatever runs is asked of the scheduler, instead of waiting for it: a frozen process has used no time.
    let ticks = || fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let before = ticks();
    testkit::run(&mut bundle.pea(&["ps", "-f", "json", &bundle.id]));
    assert_eq!((count(), ticks()), (first.clone(), before));
    let again = testkit::attempt(&mut bundle.pea(&["pause", &bundle.id]));
    assert!(stderr(&again).contains("it is paused"), "{again:?}");
    testkit::run(&mut bundle.pea(&["resume", &bundle.id]));
    assert_eq!(bundle.status(), "running");
    wait("the container to count on", || count() != first);
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    let bundle = Bundle::running();
    testkit::run(&mut bundle.pea(&["pause", &bundle.id]));
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "KILL"]));
    bundle.wait_stopped();
    testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn statistics_come_in_runcs_form() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 30}});
    bundle.start_up();
    let stats = || testkit::output(&mut bundle.pea(&["events", "--stats", &bundle.id]));
    // Some kernels count it by ticks.
    wait("processor time to be used", || !stats().contains("\"total\":0,"));
    let line = stats();
    assert!(line.starts_with(&format!("{{\"type\":\"stats\",\"id\":\"{}\",\"data\":{{", bundle.id)), "{line}");
    let event: Value = serde_json::from_str(&line).unwrap();
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    if common::controls("memory") {
        assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
        assert!(data["memory"]["raw"].as_object().is_some_and(|raw| !raw.is_empty()), "{data}");
    }
    if common::controls("pids") {
        assert!(data["pids"]["current"].as_u64().unwrap() > 0, "{data}");
        assert_eq!(data["pids"]["limit"], json!(30));
    }
}

#[test]
fn events_go_on_until_the_container_ends() {
    let bundle = Bundle::running();
    let mut command = bundle.pea(&["events", "--interval", "20ms", &bundle.id]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().expect("an event").unwrap();
        assert!(line.starts_with("{\"type\":\"stats\""), "{line}");
    }
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "KILL"]));
    assert!(lines.all(|line| line.is_ok()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_container_out_of_memory_is_told_of() {
    if !common::controls("memory") {
        testkit::skip("no memory controller");
        return;
    }
    // A child dies of it; the init lives on, waiting to be told.
    let mut bundle = Bundle::shell("trap 'tail /dev/zero' USR1; echo >/dev/shm/ready; while :; do sleep 0.05; done");
    bundle.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20}});
    bundle.start_up();
    wait_ready(&bundle);
    if read(&bundle, "memory.memsw.limit_in_bytes", "memory.swap.max").is_some() {
        update(&bundle, &["--memory", "16m", "--memory-swap", "16m"]);
    }
    let mut command = bundle.pea(&["events", "--interval", "100ms", &bundle.id]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().expect("an event").unwrap().starts_with("{\"type\":\"stats\""));
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "USR1"]));
    let oom = format!("{{\"type\":\"oom\",\"id\":\"{}\"}}", bundle.id);
    assert!(lines.any(|line| line.unwrap() == oom), "no such event");
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    child.wait().unwrap();
}

#[test]
fn groups_made_inside_are_removed_with_the_container() {
    let bundle = Bundle::running();
    for cgroup in common::cgroups(&bundle.id) {
        fs::create_dir_all(cgroup.join("a/b")).unwrap();
    }
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

/// As any container can that may make groups.
#[test]
fn groups_deeper_than_any_path_is_long_are_removed_with_the_container() {
    let bundle = Bundle::running();
    let (mode, name) = (Mode::from_bits_truncate(0o755), "d".repeat(240));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for group in cgroups(&bundle.id) {
        let mut dir = open(&group, flags, mode).unwrap();
        for _ in 0..20 {
            mkdirat(&dir, name.as_str(), mode).unwrap();
            dir = openat(&dir, name.as_str(), flags, mode).unwrap();
        }
    }
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_nested_cgroup_goes_with_what_was_made_above_it() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    bundle.start_up();
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
    let levels: Vec<PathBuf> = common::hierarchies().iter().map(|hierarchy| hierarchy.join(&bundle.id)).collect();
    levels.iter().for_each(|level| fs::create_dir(level).unwrap());
    bundle.start_up();
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    // Fails unless it is there, and empty: who made it by himself keeps it.
    levels.iter().for_each(|level| fs::remove_dir(level).unwrap());
}

#[test]
fn what_was_made_above_goes_with_the_last_container_below_it() {
    let (mut first, mut second) = (Bundle::idle(), Bundle::idle());
    let levels: Vec<PathBuf> = common::hierarchies().iter().map(|hierarchy| hierarchy.join(&first.id)).collect();
    let there = || levels.iter().filter(|level| level.exists()).count();
    first.spec["linux"]["cgroupsPath"] = json!(format!("/{}/deep/first", first.id));
    second.spec["linux"]["cgroupsPath"] = json!(format!("/{}/second", first.id));
    for (one, other) in [(&first, &second), (&second, &first)] {
        // Whoever of the two goes last.
        first.start_up();
        second.start_up();
        testkit::run(&mut one.pea(&["delete", "--force", &one.id]));
        assert_eq!(there(), levels.len());
        testkit::run(&mut other.pea(&["delete", "--force", &other.id]));
        assert_eq!(there(), 0);
    }
}

#[test]
fn containers_that_end_do_not_disturb_those_made_beside_them() {
    let parent = Bundle::new(&[]);
    for _ in 0..3 {
        let mut bundles: Vec<Bundle> = (0..6).map(|_| Bundle::new(&["true"])).collect();
        for bundle in &mut bundles {
            bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/a/{}", parent.id, bundle.id));
        }
        let run = |bundle: &Bundle| bundle.pea(&["run", &bundle.id]).stderr(Stdio::piped()).spawn().unwrap();
        for child in bundles.iter().map(run).collect::<Vec<_>>() {
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", stderr(&done));
        }
    }
    // Whoever makes a cgroup removes it, or nobody, if others are in it then.
    for level in common::cgroups(&parent.id) {
        let _ = fs::remove_dir(level.join("a"));
        fs::remove_dir(level).unwrap();
    }
}

#[test]
fn a_value_the_kernel_refuses_leaves_no_container() {
    if !common::controls("cpu") {
        testkit::skip("no cpu controller");
        return;
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["linux"]["resources"]["cpu"] = json!({"quota": 1});
    // Nor what is above it.
    bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/a/b", bundle.id));
    let done = bundle.run();
    assert_eq!(done.status.code(), Some(1));
    let text = stderr(&done);
    let refusal = "linux.resources.cpu.quota: write 1";
    assert!(text.contains(refusal) && text.contains("invalid argument") && text.lines().count() == 1, "{text}");
    bundle.assert_nothing_left();
}

/// As in a container that was given its cgroups to look at only.
#[test]
fn a_read_only_tree_is_named_and_can_be_done_without() {
    let bundle = Bundle::new(&["echo", "ran"]);
    let script = "for each in $(sed -n 's/.* \\([^ ]*cgroup[^ ]*\\) .* - cgroup2* .*/\\1/p' /proc/self/mountinfo); do \
                  mount -o remount,bind,ro $each; done; exec \"$@\"";
    let read_only = |command: &Command| {
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--mount", "sh", "-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
        testkit::attempt(wrapped.current_dir(bundle.path()))
    };
    for command in [bundle.pea(&["run", &bundle.id]), common::on_v2(&bundle.pea(&["run", &bundle.id]))] {
        let said = stderr(&read_only(&command));
        assert!(said.contains("make cgroup /sys/fs/cgroup") && said.contains("read-only file system ("), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        bundle.assert_nothing_left();
    }
    let done = read_only(&bundle.pea(&["--cgroup-manager", "disabled", "run", &bundle.id]));
    assert_eq!(stdout(&done), "ran", "{done:?}");
}

#[test]
fn a_limit_for_which_there_is_no_controller_is_refused_before_anything_is_made() {
    if Path::new("/sys/fs/cgroup/net_cls").exists() {
        testkit::skip("this machine has net_cls");
        return;
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["linux"]["resources"]["network"] = json!({"classID": 5});
    let done = bundle.run();
    let text = stderr(&done);
    assert!(text.contains("linux.resources.network.classID: there is no net_cls cgroup controller"), "{text}");
    bundle.assert_nothing_left();
    bundle.spec["linux"]["resources"]["network"] = json!({"classID": 0});
    assert!(bundle.run().status.success(), "nothing was asked for");
}

#[test]
fn a_frozen_process_gets_a_signal_for_all_and_stays_frozen() {
    let bundle = Bundle::shell("trap 'echo >/dev/shm/told' USR1; echo >/dev/shm/ready; while :; do sleep 0.05; done");
    bundle.start_up();
    wait_ready(&bundle);
    let told = format!("/proc/{}/root/dev/shm/told", bundle.pid());
    testkit::run(&mut bundle.pea(&["pause", &bundle.id]));
    testkit::run(&mut bundle.pea(&["kill", "--all", &bundle.id, "USR1"]));
    assert_eq!(bundle.status(), "paused");
    assert!(!Path::new(&told).exists());
    testkit::run(&mut bundle.pea(&["resume", &bundle.id]));
    wait("the signal to arrive", || Path::new(&told).exists());
}

#[test]
fn nothing_escapes_a_signal_for_all_by_forking() {
    let bundle = Bundle::shell("trap : TERM; while :; do (sh -c 'sleep 1000 & sleep 1000') & sleep 0.01; done");
    bundle.start_up();
    wait("it to have children", || bundle.exec(&["ps"]).lines().count() > 10);
    testkit::run(&mut bundle.pea(&["kill", "--all", &bundle.id, "KILL"]));
    wait("all to end", || testkit::output(&mut bundle.pea(&["ps", "-f", "json", &bundle.id])) == "[]");
}
