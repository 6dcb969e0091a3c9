//! What a process becomes: scheduling, priorities, processors, memory, personality, read back from the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::Command;

use common::{Bundle, stderr, stdout};
use serde_json::{Value, json};

/// Fields of /proc/PID/stat, counted as proc_pid_stat(5) does.
fn stat_fields(stat: &str, numbers: &[usize]) -> Vec<String> {
    let fields: Vec<&str> = stat.split_whitespace().collect();
    numbers.iter().map(|number| fields[number - 1].to_owned()).collect()
}

/// Prints its own stat; its name has no blanks.
fn scheduled(scheduler: Value) -> Bundle {
    let mut bundle = Bundle::new(&["cat", "/proc/self/stat"]);
    bundle.spec["process"]["scheduler"] = scheduler;
    bundle
}

const NICE: usize = 19;
const REAL_TIME_PRIORITY: usize = 40;
const POLICY: usize = 41;

#[test]
fn the_scheduling_policy_is_the_one_asked_for() {
    let policies = [
        (json!({"policy": "SCHED_BATCH", "nice": 7}), ["7", "0", "3"]),
        (json!({"policy": "SCHED_OTHER", "nice": -5}), ["-5", "0", "0"]),
        (json!({"policy": "SCHED_IDLE"}), ["", "0", "5"]),
        (json!({"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}), ["0", "0", "3"]),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000}),
            ["", "0", "6"],
        ),
    ];
    for (scheduler, [nice, rest @ ..]) in policies {
        let stat = scheduled(scheduler.clone()).output();
        assert_eq!(stat_fields(&stat, &[REAL_TIME_PRIORITY, POLICY]), rest, "{scheduler}");
        // Where it means nothing, the test's own is inherited.
        assert!(nice.is_empty() || stat_fields(&stat, &[NICE]) == [nice], "{scheduler}: {stat}");
    }
}

#[test]
fn a_real_time_policy_takes_a_budget_where_cgroups_have_one() {
    let v1 = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    let allowed = std::process::Command::new("chrt").args(["--rr", "3", "true"]).status();
    if !v1 && allowed.is_ok_and(|status| !status.success()) {
        testkit::skip("this kernel schedules nothing in real time outside of the root cgroup");
        return;
    }
    let mut bundle = scheduled(json!({"policy": "SCHED_RR", "priority": 3}));
    if v1 {
        let text = stderr(&bundle.run());
        assert!(text.contains("process.scheduler") && text.contains("realtimeRuntime"), "{text}");
        bundle.spec["linux"]["resources"]["cpu"] = json!({"realtimeRuntime": 50_000, "realtimePeriod": 1_000_000});
    }
    assert_eq!(stat_fields(&bundle.output(), &[REAL_TIME_PRIORITY, POLICY]), ["3", "2"]);
}

#[test]
fn a_scheduler_that_contradicts_itself_is_refused_by_name() {
    let refused = [
        (json!({"policy": "SCHED_OTHER", "nice": 99}), "process.scheduler.nice"),
        (json!({"policy": "SCHED_OTHER", "priority": 9}), "process.scheduler.priority"),
        (json!({"policy": "SCHED_DEADLINE", "deadline": 50_000}), "`SCHED_DEADLINE` requires `runtime`"),
    ];
    for (scheduler, phrase) in refused {
        let done = scheduled(scheduler).run();
        assert!(!done.status.success());
        assert!(stderr(&done).contains(phrase), "{}", stderr(&done));
    }
}

#[test]
fn the_io_priority_is_the_one_asked_for() {
    for (class, level, expected) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_RT", 2, "realtime: prio 2"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let mut bundle = Bundle::new(&["ionice"]);
        bundle.spec["process"]["ioPriority"] = json!({"class": class, "priority": level});
        assert_eq!(bundle.output().trim(), expected);
    }
    let mut bundle = Bundle::new(&["ionice"]);
    bundle.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    let done = bundle.run();
    assert!(stderr(&done).contains("process.ioPriority.priority: 8"), "{}", stderr(&done));
}

#[test]
fn the_memory_policy_holds_for_the_first_process_and_for_those_executed() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return println!("skipped: this kernel knows no memory nodes");
    }
    let script = "head -n 1 /proc/self/numa_maps | cut -d' ' -f2";
    for (policy, expected) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "prefer=static:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-0"}), "interleave:0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let mut bundle = Bundle::shell(script);
        bundle.spec["linux"]["memoryPolicy"] = policy;
        assert_eq!(bundle.output().trim(), expected);
    }
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    bundle.start_up();
    assert_eq!(bundle.exec(&["sh", "-c", script]).trim(), "bind:0");
}

#[test]
fn a_memory_policy_that_makes_no_sense_is_refused_by_name() {
    for (policy, phrase) in [
        (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "linux.memoryPolicy.nodes: MPOL_LOCAL takes none"),
        (json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes: MPOL_BIND needs at least one"),
        (json!({"mode": "MPOL_BIND", "nodes": "bad"}), "\"bad\" is no list of nodes"),
        (json!({"mode": "MPOL_BIND", "nodes": "999"}), "linux.memoryPolicy: invalid argument"),
    ] {
        if phrase.contains("invalid argument") && !std::path::Path::new("/proc/self/numa_maps").exists() {
            testkit::skip("this kernel knows no memory nodes");
            continue;
        }
        let mut bundle = Bundle::new(&["true"]);
        bundle.spec["linux"]["memoryPolicy"] = policy;
        let done = bundle.run();
        assert!(!done.status.success());
        assert!(stderr(&done).contains(phrase), "{}", stderr(&done));
    }
}

fn processors(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("Cpus_allowed_list:")).expect("the processors");
    line.split_whitespace().last().expect("a list").to_owned()
}

/// All that this machine has online, as one process may use them.
fn all_processors() -> String {
    processors(&fs::read_to_string("/proc/1/status").expect("init"))
}

#[test]
fn a_container_is_not_confined_to_the_processors_of_its_caller() {
    let bundle = Bundle::new(&["cat", "/proc/self/status"]);
    let pea = bundle.pea(&["run", &bundle.id]);
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(pea.get_program()).args(pea.get_args()).current_dir(bundle.path());
    assert_eq!(processors(&testkit::output(&mut command)), all_processors());
}

#[test]
fn exec_runs_on_the_processors_asked_for() {
    let bundle = Bundle::running();
    let process = |affinity: Value| {
        let process = json!({
            "args": ["cat", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"], "user": {},
            "execCPUAffinity": affinity,
        });
        let path = bundle.path().join("process.json");
        fs::write(&path, process.to_string()).expect("process.json");
        testkit::attempt(&mut bundle.pea(&["--debug", "exec", "--process", "process.json", &bundle.id]))
    };
    let one = process(json!({"initial": "0", "final": "0"}));
    assert_eq!(processors(&stdout(&one)), "0");
    assert!(stderr(&one).contains("pea: debug: initial CPU affinity: 0x1"), "{}", stderr(&one));
    assert_eq!(processors(&stdout(&process(json!({"initial": "", "final": ""})))), all_processors());
    let none = process(json!({"final": "4000"}));
    assert!(stderr(&none).contains("process.execCPUAffinity.final"), "{}", stderr(&none));
}

#[test]
fn the_personality_is_the_one_asked_for() {
    for (personality, expected) in [
        (json!({"domain": "LINUX"}), "00000000"),
        (json!({"domain": "LINUX32"}), "00000008"),
        (json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE", "MMAP_PAGE_ZERO"]}), "00140000"),
    ] {
        let mut bundle = Bundle::new(&["cat", "/proc/self/personality"]);
        bundle.spec["linux"]["personality"] = personality;
        assert_eq!(bundle.output().trim(), expected);
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["SHINY"]});
    let done = bundle.run();
    assert!(stderr(&done).contains("linux.personality.flags: \"SHINY\""), "{}", stderr(&done));
}

/// As the machine lists it (keyrings(7)): nobody but the container can have one of that name.
#[test]
fn the_container_has_a_session_keyring_of_its_own_unless_told_to_share_its_callers() {
    let Ok(before) = std::fs::read_to_string("/proc/keys") else {
        return testkit::skip("this kernel has no keyrings");
    };
    let bundle = Bundle::running();
    let there = || std::fs::read_to_string("/proc/keys").unwrap().contains(&format!("_ses.{}: ", bundle.id));
    assert!(!before.contains(&bundle.id) && there());
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    common::wait("the keyring to go with it", || !there());
    let mut create = bundle.pea(&["create", "--no-new-keyring", &bundle.id]);
    let null = || std::process::Stdio::null();
    assert!(create.stdin(null()).stdout(null()).stderr(null()).status().unwrap().success());
    assert!(!there());
}
