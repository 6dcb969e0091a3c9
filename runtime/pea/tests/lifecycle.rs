//! create, start, kill, delete and what lies between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bundle, cgroups, stderr, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn refused(bundle: &Bundle, arguments: &[&str], phrase: &str) {
    let done = testkit::attempt(&mut bundle.pea(arguments));
    assert!(!done.status.success(), "{arguments:?} succeeded");
    let text = stderr(&done);
    assert!(text.contains(phrase), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "one failure, one line: {text}");
}

#[test]
fn a_container_goes_through_its_states() {
    let bundle = Bundle::idle();
    let id = bundle.id.as_str();
    refused(&bundle, &["state", id], "does not exist");
    bundle.create();
    assert_eq!(bundle.status(), "created");
    refused(&bundle, &["create", id], "exists");
    testkit::run(&mut bundle.pea(&["start", id]));
    assert_eq!(bundle.status(), "running");
    refused(&bundle, &["start", id], "running");
    refused(&bundle, &["delete", id], "not stopped: running");
    // Its shell may not have set its trap yet.
    wait("the program to heed the signal", || {
        let _ = testkit::attempt(&mut bundle.pea(&["kill", id]));
        bundle.status() == "stopped"
    });
    assert_eq!(bundle.pid(), 0);
    refused(&bundle, &["kill", id], "container not running");
    refused(&bundle, &["start", id], "stopped");
    testkit::run(&mut bundle.pea(&["delete", id]));
    refused(&bundle, &["delete", id], "does not exist");
    testkit::run(&mut bundle.pea(&["delete", "--force", id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_created_container_waits_and_survives_signals_that_end_nothing() {
    let bundle = Bundle::new(&["sh", "-c", "echo started > /mark; sleep 1000"]);
    let mut bundle = bundle;
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.create();
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "WINCH"]));
    assert_eq!(bundle.status(), "created");
    assert!(!bundle.rootfs().join("mark").exists(), "it ran before start");
    testkit::run(&mut bundle.pea(&["start", &bundle.id]));
    wait("the program to run", || bundle.rootfs().join("mark").exists());
}

#[test]
fn a_created_container_can_be_killed() {
    let bundle = Bundle::idle();
    bundle.create();
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "9"]));
    bundle.wait_stopped();
    testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn the_pid_file_names_the_init() {
    let bundle = Bundle::idle();
    let mut command = bundle.pea(&["create", "--pid-file", "init.pid", &bundle.id]);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    assert_eq!(fs::read_to_string(bundle.path().join("init.pid")).unwrap(), bundle.pid().to_string());
    let pids: Value =
        serde_json::from_str(&testkit::output(&mut bundle.pea(&["ps", "--format", "json", &bundle.id]))).unwrap();
    assert_eq!(pids, json!([bundle.pid()]));
}

#[test]
fn real_time_signals_and_all_processes_are_reached() {
    let bundle = Bundle::shell("trap 'echo rt > /mark' RTMIN+2; while :; do sleep 0.05; done");
    let mut bundle = bundle;
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.spec["process"]["args"][2] = json!("trap 'echo rt > /mark' 36; while :; do sleep 0.05; done");
    bundle.start_up();
    wait("the trap to be sprung", || {
        testkit::run(&mut bundle.pea(&["kill", &bundle.id, "36"]));
        bundle.rootfs().join("mark").exists()
    });
    testkit::run(&mut bundle.pea(&["kill", "--all", &bundle.id, "KILL"]));
    bundle.wait_stopped();
}

#[test]
fn list_names_every_container_and_its_state() {
    let bundle = Bundle::running();
    let list: Value = serde_json::from_str(&testkit::output(&mut bundle.pea(&["list", "-f", "json"]))).unwrap();
    assert_eq!(list[0]["id"], json!(bundle.id));
    assert_eq!(list[0]["status"], json!("running"));
    assert_eq!(testkit::output(&mut bundle.pea(&["list", "-q"])), bundle.id);
    assert_eq!(testkit::output(&mut bundle.pea(&["--rootless", "auto", "list", "-q"])), bundle.id, "as runc's");
    let table = testkit::output(&mut bundle.pea(&["list"]));
    assert!(table.contains("STATUS") && table.contains("running"), "{table}");
}

/// Its variables are often secrets, and users of the machine may learn its id.
#[test]
fn what_is_kept_of_a_container_is_no_other_users() {
    let bundle = Bundle::running();
    testkit::run(&mut bundle.pea(&["update", "--pids-limit", "100", &bundle.id]));
    for name in ["config.json", "state.json"] {
        let mode = fs::metadata(bundle.state_root().join(&bundle.id).join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_damaged_container_does_not_hide_the_others() {
    let bundle = Bundle::running();
    let broken = bundle.state_root().join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("state.json"), "{").unwrap();
    let done = testkit::attempt(&mut bundle.pea(&["list", "-q"]));
    assert!(done.status.success());
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), bundle.id);
    assert!(stderr(&done).contains("warning: container \"broken\""), "{}", stderr(&done));
}

#[test]
fn of_many_creations_of_one_id_exactly_one_succeeds() {
    let bundle = Bundle::idle();
    let mut racers: Vec<_> = (0..6)
        .map(|_| bundle.pea(&["create", &bundle.id]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let won = racers.iter_mut().filter_map(|racer| racer.wait().unwrap().success().then_some(())).count();
    assert_eq!(won, 1);
    assert_eq!(bundle.status(), "created");
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_creation_killed_at_any_moment_leaves_nothing_that_delete_does_not_remove() {
    let bundle = Bundle::idle();
    for delay in [0, 1, 2, 4, 6, 8, 10, 12, 15, 18, 22, 26, 30, 40] {
        let mut create = bundle.pea(&["create", &bundle.id]);
        let mut create = create.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        // `timeout`, whose child is pea, whose child is the helper: all of the family.
        kill_family(create.id());
        let _ = create.wait();
        testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
        wait("everything to be gone", || cgroups(&bundle.id).is_empty());
        bundle.assert_nothing_left();
    }
}

/// SIGKILL to a process and all its descendants, the process's own first.
fn kill_family(pid: u32) {
    let process = Pid::from_raw(pid as i32);
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    let dead = || matches!(state(), None | Some('Z' | 'X'));
    // Stopped first: a child forked after the list was read would not be killed, and go on alone.
    let _ = kill(process, Signal::SIGSTOP);
    wait("a process to stop", || state() == Some('T') || dead());
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let _ = kill(process, Signal::SIGKILL);
    for child in children.split_whitespace() {
        kill_family(child.parse().unwrap());
    }
    wait("a killed process to be dead", dead);
}

#[test]
fn a_creation_whose_helper_is_killed_leaves_nothing_that_delete_does_not_remove() {
    if !testkit::attempt(Command::new("sh").args(["-c", "command -v strace"])).status.success() {
        testkit::skip("there is no strace to kill the helper");
        return;
    }
    let mut bundle = Bundle::idle();
    // With a user namespace the engine's processes have the most to ask of one another.
    let identity = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = identity.clone();
    bundle.spec["linux"]["gidMappings"] = identity;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for nth in 1..10 {
        let ended = bundle.path().join(format!("ended.{nth}"));
        let inject = format!("inject=recvmsg:signal=SIGKILL:when={nth}");
        let pea = bundle.pea(&["create", &bundle.id]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=recvmsg", "-e", &inject]);
        strace.args(["sh", "-c", "\"$@\"; : > \"$0\""]).arg(&ended).arg(pea.get_program()).args(pea.get_args());
        strace.current_dir(bundle.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut strace = strace.spawn().unwrap();
        wait("the end of create", || ended.exists());
        testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
        bundle.assert_nothing_left();
        // It stays as long as any process it follows does.
        strace.wait().unwrap();
    }
}

#[test]
fn cgroups_the_container_made_inside_its_own_are_removed_too() {
    let bundle = Bundle::running();
    let own = cgroups(&bundle.id);
    assert!(!own.is_empty(), "it has no cgroup");
    for dir in &own {
        fs::create_dir_all(dir.join("a/b")).unwrap();
    }
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_frozen_container_is_paused_and_can_be_deleted() {
    let bundle = Bundle::running();
    let freezer = format!("/sys/fs/cgroup/freezer/{}/freezer.state", bundle.id);
    let unified = format!("/sys/fs/cgroup/{}/cgroup.freeze", bundle.id);
    if fs::write(&freezer, "FROZEN").is_err() {
        fs::write(&unified, "1").unwrap();
    }
    wait("the freezer", || bundle.status() == "paused");
    let done = testkit::attempt(&mut bundle.pea(&["exec", &bundle.id, "true"]));
    assert!(stderr(&done).contains("paused"), "{}", stderr(&done));
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_cgroup_in_use_is_not_taken() {
    let first = Bundle::running();
    let mut second = Bundle::idle();
    second.spec["linux"]["cgroupsPath"] = json!(format!("/{}", first.id));
    refused(&second, &["create", &second.id], "in use");
    second.assert_nothing_left();
    assert_eq!(first.status(), "running");
}

#[test]
fn resources_are_limited_as_given() {
    if !common::controls("pids") || !common::controls("memory") {
        return;
    }
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 30});
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
    bundle.start_up();
    let read = |controller: &str, file: &str| {
        fs::read_to_string(format!("/sys/fs/cgroup/{controller}/{}/{file}", bundle.id))
            .map(|text| text.trim().to_owned())
    };
    if common::unified() {
        assert_eq!((read("", "pids.max").unwrap(), read("", "memory.max").unwrap()), ("30".into(), "67108864".into()));
    } else {
        assert_eq!(read("pids", "pids.max").unwrap(), "30");
        assert_eq!(read("memory", "memory.limit_in_bytes").unwrap(), "67108864");
    }
}

/// The command line saves itself the helper, unless a child it did not make, or a descriptor, could be mixed up with what
/// it makes.
#[test]
fn a_container_is_created_by_the_command_itself_where_nothing_is_in_the_way() {
    for (before, flags, in_place) in [
        ("", &[][..], true),
        ("sleep 1000 & echo $! >child;", &[], false),
        ("exec 3>kept;", &["--preserve-fds", "1"], false),
    ] {
        let mut bundle = Bundle::new(&["sh", "-c", "readlink /proc/self/fd/3"]);
        let hook = json!(["sh", "-c", "echo $PPID >hooked"]);
        bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": hook}]});
        let pea = bundle.pea(&["create"]);
        // Without `timeout`, which would be the parent.
        let words: Vec<_> = pea.get_args().skip(3).collect();
        let script = format!("echo $$ >command; {before} exec \"$@\" </dev/null >said 2>&1");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).args(words).args(flags).arg(&bundle.id).current_dir(bundle.path());
        let file = |name| fs::read_to_string(bundle.path().join(name)).unwrap_or_default().trim().to_owned();
        assert!(shell.status().unwrap().success(), "{}", file("said"));
        assert_eq!(file("command") == file("hooked"), in_place, "{before}");
        assert_eq!(bundle.status(), "created");
        if let Ok(child) = file("child").parse::<u32>() {
            assert!(Path::new(&format!("/proc/{child}")).exists(), "the caller's child is left alone");
            testkit::run(Command::new("kill").arg(child.to_string()));
        }
        testkit::run(&mut bundle.pea(&["start", &bundle.id]));
        bundle.wait_stopped();
        let kept = if flags.is_empty() { String::new() } else { bundle.path().join("kept").display().to_string() };
        assert_eq!(file("said"), kept);
        testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
        bundle.assert_nothing_left();
    }
}

#[test]
fn hooks_are_told_the_state() {
    let mut bundle = Bundle::new(&["true"]);
    let hook = |name: &str| {
        let file = bundle.path().join(name);
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", file.display())]}])
    };
    bundle.spec["hooks"] = json!({
        "createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    testkit::run(&mut bundle.pea(&["run", &bundle.id]));
    for (name, status) in [("createRuntime", "creating"), ("poststart", "running"), ("poststop", "stopped")] {
        let state: Value = serde_json::from_slice(&fs::read(bundle.path().join(name)).unwrap()).expect(name);
        assert_eq!((&state["id"], &state["status"]), (&json!(bundle.id), &json!(status)), "{name}");
    }
    bundle.assert_nothing_left();
}

#[test]
fn a_poststop_hook_that_fails_is_a_warning() {
    let mut bundle = Bundle::new(&["sh", "-c", "exit 3"]);
    let mark = bundle.path().join("mark");
    let second = json!({"path": "/bin/touch", "args": ["touch", mark]});
    bundle.spec["hooks"] = json!({"poststop": [{"path": "/bin/false"}, second]});
    let arguments = ["--log", "log.json", "--log-format", "json", "run", &bundle.id];
    let done = testkit::attempt(&mut bundle.pea(&arguments));
    assert_eq!(stderr(&done), "pea: warning: poststop hook failed with exit code 1: /bin/false");
    assert_eq!(done.status.code(), Some(3), "the program's own exit code");
    assert!(mark.exists(), "the remaining hooks are run");
    let log: Value = serde_json::from_slice(&fs::read(bundle.path().join("log.json")).unwrap()).unwrap();
    assert_eq!(log["level"], json!("warning"));
    bundle.assert_nothing_left();
}

#[test]
fn a_hook_need_not_read_its_state() {
    let mut bundle = Bundle::new(&["sh", "-c", "echo ran"]);
    // The first process of a pid namespace is not ended by SIGPIPE, any other is.
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != json!("pid"));
    // More than a pipe holds.
    bundle.spec["annotations"] = json!({"long": "x".repeat(200_000)});
    let deaf = || json!([{"path": "/bin/true"}]);
    bundle.spec["hooks"] = json!({"startContainer": deaf(), "poststart": deaf(), "poststop": deaf()});
    assert_eq!(bundle.output(), "ran");
    bundle.assert_nothing_left();
}

#[test]
fn a_start_container_hook_that_fails_keeps_the_program_from_starting() {
    let mut bundle = Bundle::new(&["sh", "-c", "echo ran"]);
    bundle.spec["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    let done = bundle.run();
    assert!(stderr(&done).contains("startContainer hook failed with exit code 1: /bin/false"), "{}", stderr(&done));
    assert!(done.stdout.is_empty() && !done.status.success());
    bundle.assert_nothing_left();
}
