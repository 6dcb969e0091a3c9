//! `pea exec`: a later process is confined as the first is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{Bundle, stderr, stdout, wait};
use serde_json::json;

#[test]
fn it_runs_inside_every_namespace_and_cgroup_of_the_container() {
    let bundle = Bundle::running();
    let pid = bundle.pid();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let own = bundle.exec(&["readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(own, theirs.to_string_lossy(), "{kind}");
    }
    // Seen from outside, for inside every path is "/".
    let mut command = bundle.pea(&["exec", "--detach", "--pid-file", "sleep.pid", &bundle.id, "sleep", "1000"]);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let sleeper = fs::read_to_string(bundle.path().join("sleep.pid")).unwrap();
    let cgroup = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(&sleeper), cgroup(&pid.to_string()));
    // Every hierarchy, also those without controllers.
    let text = cgroup(&sleeper);
    let mut lines = text.lines().filter(|line| !common::unified() || line.starts_with("0:"));
    assert!(lines.all(|line| line.ends_with(&format!("/{}", bundle.id))), "{text}");
}

#[test]
fn the_seccomp_filter_applies() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    });
    bundle.start_up();
    for no_new_privileges in [true, false] {
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": no_new_privileges,
            "args": ["sh", "-c", "grep '^Seccomp:' /proc/self/status; mkdir /tmp/x"],
        });
        fs::write(bundle.path().join("process.json"), process.to_string()).unwrap();
        let done = testkit::attempt(&mut bundle.pea(&["exec", "--process", "process.json", &bundle.id]));
        assert_eq!(stdout(&done), "Seccomp:\t2");
        assert!(stderr(&done).contains("not supported"), "{}", stderr(&done));
    }
}

#[test]
fn a_process_without_capabilities_has_none() {
    let bundle = Bundle::running();
    let process = json!({"cwd": "/", "env": ["PATH=/bin"], "args": ["grep", "Cap", "/proc/self/status"]});
    fs::write(bundle.path().join("process.json"), process.to_string()).unwrap();
    let text = testkit::output(&mut bundle.pea(&["exec", "-p", "process.json", &bundle.id]));
    assert_eq!(text.matches("0000000000000000").count(), 5, "{text}");
}

#[test]
fn the_user_namespace_is_joined() {
    let mut bundle = Bundle::idle();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    // The container's root must get through to its files.
    testkit::run(Command::new("chmod").arg("755").arg(bundle.path()));
    testkit::run(Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()));
    bundle.start_up();
    let theirs = fs::read_link(format!("/proc/{}/ns/user", bundle.pid())).unwrap();
    assert_eq!(bundle.exec(&["readlink", "/proc/self/ns/user"]), theirs.to_string_lossy());
    assert_eq!(
        bundle.exec(&["cat", "/proc/self/uid_map"]).split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert_eq!(bundle.exec(&["--user", "7:8", "id", "-u"]), "7");
}

#[test]
fn flags_change_the_containers_own_process() {
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["env"].as_array_mut().unwrap().push(json!("GIVEN=yes"));
    bundle.start_up();
    let script = "id -u; id -g; id -G; pwd; echo $GIVEN $ADDED";
    let arguments =
        ["exec", "-u", "5:6", "-g", "77", "--cwd", "/tmp", "-e", "ADDED=too", &bundle.id, "sh", "-c", script];
    assert_eq!(testkit::output(&mut bundle.pea(&arguments)), "5\n6\n6 77\n/tmp\nyes too");
}

#[test]
fn capabilities_are_added_by_flag() {
    let bundle = Bundle::running();
    let arguments = ["exec", "--cap", "CAP_CHOWN", &bundle.id, "grep", "CapEff", "/proc/self/status"];
    assert_eq!(testkit::output(&mut bundle.pea(&arguments)), "CapEff:\t0000000020000421");
}

#[test]
fn the_exit_code_is_the_programs_and_255_is_ours() {
    let bundle = Bundle::running();
    let code = |command: &[&str]| {
        let done = testkit::attempt(bundle.pea(&["exec", &bundle.id]).args(command));
        (done.status.code().unwrap(), stderr(&done))
    };
    assert_eq!(code(&["sh", "-c", "exit 9"]).0, 9);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]).0, 137);
    let (missing, text) = code(&["no-such-program"]);
    assert_eq!(missing, 255);
    assert_eq!(text, "pea: error: exec: \"no-such-program\": executable file not found in $PATH");
    let (missing, text) = code(&["/no/such/program"]);
    assert!(missing == 255 && text.contains("no such file or directory"), "{text}");
    let (directory, text) = code(&["/etc"]);
    assert!(directory == 255 && text.contains("permission denied"), "{text}");
}

#[test]
fn a_program_that_ends_at_once_is_never_missed() {
    let bundle = Bundle::running();
    for _ in 0..30 {
        assert_eq!(bundle.exec(&["true"]), "");
    }
}

#[test]
fn its_terminal_is_the_containers() {
    let bundle = Bundle::running();
    let pea = bundle.pea(&["exec", "--tty", &bundle.id, "sh", "-c", "'tty; exit 4'"]);
    let words: Vec<_> =
        [pea.get_program()].into_iter().chain(pea.get_args()).map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(bundle.path()).env("SHELL", "/bin/sh");
    let done = testkit::attempt(&mut script);
    // `script` echoes the end of its own input, before or after.
    assert!(done.status.code() == Some(4) && stdout(&done).contains("/dev/pts/0"), "{done:?}");
}

#[test]
fn only_a_running_container_takes_another_process() {
    let bundle = Bundle::running();
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "KILL"]));
    bundle.wait_stopped();
    let done = testkit::attempt(&mut bundle.pea(&["exec", &bundle.id, "true"]));
    assert_eq!(done.status.code(), Some(255));
    assert!(stderr(&done).contains("container not running"), "{}", stderr(&done));
}

#[test]
fn a_container_that_ends_meanwhile_is_not_running() {
    for _ in 0..3 {
        let bundle = Bundle::running();
        let exec = || {
            let mut command = bundle.pea(&["exec", &bundle.id, "true"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let racers: Vec<_> = (0..8).map(|_| exec()).collect();
        testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
        for racer in racers {
            let done = racer.wait_with_output().unwrap();
            let text = stderr(&done);
            let told = text.contains("container not running") || text.contains("does not exist");
            assert!(matches!(done.status.code(), Some(0 | 137)) || told, "{:?}: {text}", done.status);
        }
    }
}

#[test]
fn it_needs_the_bundle_no_more() {
    let bundle = Bundle::running();
    let pea = bundle.pea(&["exec", &bundle.id, "echo", "still here"]);
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    let mut pea = pea;
    assert_eq!(testkit::output(&mut pea), "still here");
}

#[test]
fn a_deleted_container_takes_its_other_processes_along() {
    let bundle = Bundle::running();
    let arguments = ["exec", "--detach", "--pid-file", "pid", &bundle.id, "sleep", "1000"];
    assert!(bundle.pea(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let sleeper = fs::read_to_string(bundle.path().join("pid")).unwrap();
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    wait("the sleeper to be gone", || {
        !fs::read_to_string(format!("/proc/{sleeper}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    });
    bundle.assert_nothing_left();
}
