//! `pea run`: what the container's first process finds, and what is left of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use common::{Bundle, stderr, stdout, wait};
use serde_json::json;

#[test]
fn the_exit_code_and_the_output_are_the_containers() {
    let bundle = Bundle::shell("echo out; echo err >&2; exit 7");
    let done = bundle.run();
    assert_eq!((done.status.code(), stdout(&done), stderr(&done)), (Some(7), "out".into(), "err".into()));
    bundle.assert_nothing_left();
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    // PID 1 of a namespace is immune against its own signals, so it is killed from outside.
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut run = bundle.pea(&["run", "--pid-file", "pid", &bundle.id]).spawn().expect("pea");
    wait("the container to run", || bundle.path().join("pid").exists() && bundle.status() == "running");
    testkit::run(&mut bundle.pea(&["kill", &bundle.id, "KILL"]));
    assert_eq!(run.wait().expect("pea").code(), Some(137));
    bundle.assert_nothing_left();
}

#[test]
fn the_environment_is_handed_over_as_it_is_written() {
    let mut bundle = Bundle::new(&["/bin/busybox", "cat", "/proc/self/environ"]);
    bundle.spec["process"]["env"] = json!(["Z=1", "A=2", "PATH=/bin", "A=3", "EMPTY="]);
    let text = bundle.output().replace('\0', " ");
    assert_eq!(text.trim(), "Z=1 A=2 PATH=/bin A=3 EMPTY= HOME=/root");
}

#[test]
fn a_program_with_a_path_needs_no_path_variable_nor_execution_by_others() {
    use std::os::unix::fs::PermissionsExt;
    let mut bundle = Bundle::new(&["/bin/busybox", "true"]);
    bundle.spec["process"]["env"] = json!([]);
    fs::set_permissions(bundle.rootfs().join("bin/busybox"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bundle.output(), "");
}

#[test]
fn user_groups_umask_and_working_directory_are_as_given() {
    let mut bundle = Bundle::shell("id -u; id -g; id -G; umask; pwd; echo $HOME");
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 63});
    bundle.spec["process"]["cwd"] = json!("/not/there/yet");
    bundle.spec["root"]["readonly"] = json!(false);
    assert_eq!(bundle.output(), "1000\n1001\n1001 5 6\n0077\n/not/there/yet\n/");
}

#[test]
fn a_user_can_write_to_his_standard_output_by_its_name() {
    let mut bundle = Bundle::shell("echo hello > /dev/stdout");
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(bundle.output(), "hello");
}

const CAPABILITIES: &str = "grep Cap /proc/self/status | cut -f2 | tr '\\n' ' '";

#[test]
fn no_capabilities_given_are_no_capabilities_held() {
    let mut bundle = Bundle::shell(CAPABILITIES);
    bundle.spec["process"].as_object_mut().unwrap().remove("capabilities");
    assert_eq!(bundle.output(), ["0000000000000000"; 5].join(" "));
}

#[test]
fn each_capability_set_is_exactly_what_was_given() {
    let mut bundle = Bundle::shell(CAPABILITIES);
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_OF_A_NEWER_KERNEL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_CHOWN"],
        "ambient": ["CAP_CHOWN"],
    });
    // A user's program holds what is ambient; the bounding set stays; order: inh prm eff bnd amb.
    let chown = "0000000000000001";
    assert_eq!(bundle.output(), [chown, chown, chown, "0000000000200021", chown].join(" "));
}

#[test]
fn a_filter_is_loaded_without_new_privileges_being_given_up() {
    for no_new_privileges in [json!(true), json!(false)] {
        let mut bundle = Bundle::shell("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | cut -f2; mkdir /tmp/x");
        bundle.spec["root"]["readonly"] = json!(false);
        bundle.spec["process"]["noNewPrivileges"] = no_new_privileges.clone();
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        let done = bundle.run();
        let expected = if no_new_privileges == json!(true) { "1\n2" } else { "0\n2" };
        assert_eq!(stdout(&done), expected);
        assert!(stderr(&done).contains("not supported"), "{}", stderr(&done));
    }
}

#[test]
fn nothing_of_the_callers_is_inherited_but_what_was_asked_for() {
    let bundle = Bundle::shell("ls /proc/self/fd | tr '\\n' ' '; grep SigIgn /proc/self/status | cut -f2; cat <&3");
    // fd 3 is wanted, 4 and 9 are not; the shell's own directory descriptor of `ls` is 4 then.
    let script = "exec 3<secret 4<secret 9<secret; exec \"$@\"";
    fs::write(bundle.path().join("secret"), "the third").unwrap();
    let pea = bundle.pea(&["run", "--preserve-fds", "1", &bundle.id]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(pea.get_program()).args(pea.get_args()).current_dir(bundle.path());
    assert_eq!(testkit::output(&mut shell), "0 1 2 3 4 0000000000000000\nthe third");
}

#[test]
fn descriptors_to_preserve_need_not_all_be_there() {
    let bundle = Bundle::shell("cat <&5; test -e /proc/self/fd/3 || echo; echo no third");
    fs::write(bundle.path().join("fifth"), "the fifth, ").unwrap();
    for count in ["3", "40", "4294967295"] {
        let pea = bundle.pea(&["run", "--preserve-fds", count, &bundle.id]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "exec 3<&- 4<&- 5<fifth; exec \"$@\"", "sh"]).arg(pea.get_program()).args(pea.get_args());
        assert_eq!(testkit::output(shell.current_dir(bundle.path())), "the fifth, \nno third");
    }
    bundle.assert_nothing_left();
}

#[test]
fn descriptors_of_our_own_do_not_get_numbers_to_be_preserved() {
    let bundle = Bundle::idle();
    let mut shell = std::process::Command::new("sh");
    let pea = bundle.pea(&["create", "--preserve-fds", "9", &bundle.id]);
    let script = "exec 3<&- 4<&- 5<&- 6<&- 9</dev/zero; exec \"$@\"";
    shell.args(["-c", script, "sh"]).arg(pea.get_program()).args(pea.get_args());
    shell.stdin(Stdio::null()).stdout(Stdio::null());
    assert!(shell.current_dir(bundle.path()).status().unwrap().success());
    let fd = |number: u32| fs::read_link(format!("/proc/{}/fd/{number}", bundle.state()["pid"])).unwrap();
    assert_eq!((3..=6).map(fd).collect::<Vec<_>>(), ["/dev/null"; 4].map(std::path::PathBuf::from));
    assert_eq!(fd(9).to_str(), Some("/dev/zero"));
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
}

#[test]
fn limits_apply_and_a_badness_that_cannot_be_lowered_is_kept() {
    let mut bundle = Bundle::shell("ulimit -n; ulimit -c; cat /proc/self/oom_score_adj");
    bundle.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(bundle.output(), "100\n0\n500");
    bundle.spec["process"]["oomScoreAdj"] = json!(-999);
    let value: i32 = bundle.output().lines().last().unwrap().parse().unwrap();
    assert!(value <= 0, "{value}");
}

#[test]
fn what_the_specification_allows_is_accepted() {
    let mut bundle = Bundle::shell("test -d /made && mount | grep -c -E ' on (/proc|/made) '");
    bundle.spec["linux"]["rootfsPropagation"] = json!("rslave");
    bundle.spec["root"]["readonly"] = json!(false);
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts[0].as_object_mut().unwrap().remove("source");
    mounts.push(json!({"destination": "/made", "type": "tmpfs", "options": ["tmpcopyup", "nosuid"]}));
    assert_eq!(bundle.output(), "2");
}

#[test]
fn sources_of_bind_mounts_are_relative_to_the_bundle() {
    let mut bundle = Bundle::shell("cat /shared/file");
    fs::create_dir(bundle.path().join("here")).unwrap();
    fs::write(bundle.path().join("here/file"), "found").unwrap();
    bundle.spec["root"]["readonly"] = json!(false);
    let mount = json!({"destination": "/shared", "source": "here", "type": "bind", "options": ["rbind", "ro"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    assert_eq!(bundle.output(), "found");
}

#[test]
fn a_linked_dev_is_refused_and_nothing_is_written_where_it_leads() {
    let mut bundle = Bundle::new(&["true"]);
    let outside = bundle.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("ptmx"), "precious").unwrap();
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&outside, bundle.rootfs().join("dev")).unwrap();
    bundle.spec["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    let done = bundle.run();
    assert!(stderr(&done).contains("/dev is a symbolic link"), "{}", stderr(&done));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("ptmx")).unwrap(), "precious");
    bundle.assert_nothing_left();
}

#[test]
fn the_machines_dev_is_not_touched() {
    let names = || {
        let mut names: Vec<_> = fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut bundle = Bundle::new(&["test", "-c", "/dev/null"]);
    bundle.spec["mounts"] = json!([{"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/pea-test", "type": "c", "major": 1, "minor": 3}]);
    let before = names();
    bundle.run();
    assert_eq!(names(), before);
    bundle.assert_nothing_left();
}

#[test]
fn signals_reach_the_program() {
    let bundle = Bundle::shell("trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    // Without the deadline of `timeout`, which would be the one to be signalled.
    let command = bundle.pea(&["run", &bundle.id]);
    let arguments: Vec<_> = command.get_args().skip(4).collect();
    let mut run = std::process::Command::new(testkit::binary("pea"));
    run.args(&arguments).current_dir(bundle.path()).stdout(Stdio::piped());
    let mut run = run.spawn().expect("pea");
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready", "it has set its trap");
    testkit::run(std::process::Command::new("kill").arg(run.id().to_string()));
    assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), ["got it"]);
    assert_eq!(run.wait().unwrap().code(), Some(5));
    bundle.assert_nothing_left();
}

/// All in `linux` is optional (config.md, "Platform-specific configuration").
#[test]
fn without_a_part_for_linux_the_namespaces_are_the_callers() {
    let mut bundle = Bundle::shell("readlink /proc/self/ns/uts; readlink /proc/self/ns/pid; cat /etc/name");
    fs::write(bundle.rootfs().join("etc/name"), "container").unwrap();
    for part in ["linux", "hostname"] {
        bundle.spec.as_object_mut().unwrap().remove(part);
    }
    bundle.spec["mounts"] = json!([{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"}]);
    let run = bundle.pea(&["run", &bundle.id]);
    // In a mount namespace of the test's: without one of the container's own the mounts are the machine's.
    let mut machine = Command::new("unshare");
    machine.args(["--mount", "--propagation", "private"]).arg(run.get_program()).args(run.get_args());
    let own = |kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let done = testkit::output(machine.current_dir(bundle.path()));
    assert_eq!(done, format!("{}\n{}\ncontainer", own("uts"), own("pid")));
    bundle.assert_nothing_left();
}

/// What is mounted in a user namespace is opened before there is one, all of it at a time.
#[test]
fn more_mounts_than_descriptors_are_no_hindrance_and_the_limit_stays_the_callers() {
    let mut bundle = Bundle::shell("ulimit -n; ulimit -Hn; mount | grep -c /many/");
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    (bundle.spec["linux"]["uidMappings"], bundle.spec["linux"]["gidMappings"]) = (map.clone(), map);
    bundle.spec["process"]["rlimits"] = json!([]);
    bundle.spec["root"]["readonly"] = json!(false);
    for number in 0..300 {
        let mount = json!({"destination": format!("/many/{number}"), "source": "/etc/hostname", "options": ["bind"]});
        bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    }
    let run = bundle.pea(&["run", &bundle.id]);
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=150:4000").arg(run.get_program()).args(run.get_args()).current_dir(bundle.path());
    assert_eq!(testkit::output(&mut limited), "150\n4000\n300");
    bundle.assert_nothing_left();
}

#[test]
fn a_program_that_ends_at_once_is_never_missed() {
    let bundle = Bundle::new(&["true"]);
    for round in 0..50 {
        let done = bundle.run();
        assert_eq!(done.status.code(), Some(0), "round {round}: {}", stderr(&done));
    }
    bundle.assert_nothing_left();
}

#[test]
fn run_serves_the_terminal_it_makes() {
    let mut bundle = Bundle::shell("test -t 0 && test -t 1 && tty; read line; echo \"got $line\"; exit 6");
    bundle.spec["process"]["terminal"] = json!(true);
    let pea = bundle.pea(&["run", &bundle.id]);
    let words: Vec<_> =
        [pea.get_program()].into_iter().chain(pea.get_args()).map(|word| word.to_str().unwrap()).collect();
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(bundle.path()).env("SHELL", "/bin/sh");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\n").unwrap();
    let done = child.wait_with_output().unwrap();
    let text = stdout(&done);
    assert_eq!(done.status.code(), Some(6), "{text}");
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    assert!(text.contains("got hello"), "{text}");
    bundle.assert_nothing_left();
}

#[test]
fn run_in_the_background_of_a_terminal_stops_until_it_is_fetched_to_the_front() {
    let mut bundle = Bundle::shell("read line; echo \"got $line\"; exit 6");
    bundle.spec["process"]["terminal"] = json!(true);
    let pea = bundle.pea(&["run", &bundle.id]);
    // Without `timeout`, which ignores the signal that stops it; the whole gets one instead.
    let words: Vec<_> = pea.get_args().skip(3).map(|word| word.to_str().unwrap()).collect();
    let stopped = "while kill -0 $! && ! grep -q '^State:.T' /proc/$!/status; do :; done";
    let jobs = format!("set -m; {} & {stopped}; echo stopped; fg", words.join(" "));
    let mut script = std::process::Command::new("timeout");
    script.args(["--signal=KILL", "60", "script", "-qec", &jobs, "/dev/null"]);
    script.current_dir(bundle.path()).env("SHELL", "/bin/sh");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\n").unwrap();
    let done = child.wait_with_output().unwrap();
    let text = stdout(&done);
    assert_eq!(done.status.code(), Some(6), "{text}");
    assert!(text.contains("stopped") && text.contains("got hello"), "{text}");
    bundle.assert_nothing_left();
}

#[test]
fn a_terminal_has_the_size_given_from_the_start() {
    let mut bundle = Bundle::shell("stty size");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    assert_eq!(bundle.output(), "11 22");
}

#[test]
fn kept_containers_stay_until_they_are_deleted() {
    let bundle = Bundle::new(&["true"]);
    testkit::run(&mut bundle.pea(&["run", "--keep", &bundle.id]));
    assert_eq!(bundle.status(), "stopped");
    testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn an_ambient_capability_that_is_not_inheritable_is_not_held() {
    let mut bundle = Bundle::new(&["grep", "CapAmb", "/proc/self/status"]);
    bundle.spec["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    assert_eq!(bundle.output(), "CapAmb:\t0000000000000000");
}

/// Ignored signals are inherited, and an ignored SIGCHLD would leave nothing to wait for.
#[test]
fn a_caller_that_ignores_its_childrens_end_gets_the_exit_code_all_the_same() {
    let bundle = Bundle::shell("exit 7");
    let pea = bundle.pea(&["run", &bundle.id]);
    // Not by way of timeout(1), which waits for a child, too.
    let words: Vec<_> = pea.get_args().skip(3).collect();
    let mut command = Command::new("env");
    command.arg("--ignore-signal=CHLD").args(words).current_dir(bundle.path());
    let code = command.status();
    assert_eq!(code.unwrap().code(), Some(7));
}
