//! `pea exec`: a later process is confined as the first is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
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

/// `pea exec` from a shell that has the machine's root open as descriptor 3 and its /etc as 4.
fn exec_with_open_directories(bundle: &Bundle, flags: &[&str], command: &[&str]) -> std::process::Output {
    let pea = bundle.pea(&["exec"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 3</ 4</etc", "sh"]).arg(pea.get_program()).args(pea.get_args()).args(flags);
    shell.arg(&bundle.id).args(command).current_dir(bundle.path());
    testkit::attempt(&mut shell)
}

#[test]
fn no_working_directory_leads_out_of_the_container() {
    let bundle = Bundle::running();
    for preserved in ["0", "2"] {
        for number in 3..20 {
            let cwd = format!("/proc/self/fd/{number}");
            let done = exec_with_open_directories(&bundle, &["--preserve-fds", preserved, "--cwd", &cwd], &["ls"]);
            let text = stderr(&done);
            assert!(!done.status.success() && stdout(&done).is_empty(), "{cwd}: {}", stdout(&done));
            assert!(text.contains("outside of the container") || text.contains("chdir to"), "{cwd}: {text}");
        }
    }
}

#[test]
fn the_program_has_no_descriptor_it_was_not_given() {
    let bundle = Bundle::running();
    let list = |preserved: &str| {
        let done = exec_with_open_directories(&bundle, &["--preserve-fds", preserved], &["ls", "/proc/self/fd"]);
        stdout(&done).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // The last is the one by which `ls` reads the directory.
    assert_eq!(list("0"), ["0", "1", "2", "3"]);
    assert_eq!(list("1"), ["0", "1", "2", "3", "4"]);
}

/// Starts a sleeper that is not waited for; its pid as seen from here.
fn sleeper(bundle: &Bundle, flags: &[&str]) -> Result<String, String> {
    let mut command = bundle.pea(&["exec", "--detach", "--pid-file", "pid"]);
    command.args(flags).args([&bundle.id, "sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::null());
    let done = command.stderr(fs::File::create(bundle.path().join("said")).unwrap()).status().unwrap();
    let read = |name| fs::read_to_string(bundle.path().join(name)).unwrap();
    if done.success() { Ok(read("pid")) } else { Err(read("said")) }
}

/// Where a process is, in each hierarchy: the names of its controllers, and the path.
fn membership(pid: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let fields = |line: &str| line.splitn(3, ':').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let lines = text.lines().filter(|line| !common::unified() || line.starts_with("0:"));
    lines.map(fields).map(|fields| (fields[0].clone(), fields[1].clone())).collect()
}

/// A cgroup below the container's in every hierarchy, removed with the container.
fn make_subgroup(bundle: &Bundle, name: &str) -> Vec<PathBuf> {
    let dirs: Vec<_> = common::cgroups(&bundle.id).into_iter().map(|dir| dir.join(name)).collect();
    for dir in &dirs {
        fs::create_dir(dir).unwrap();
        // A cpuset takes no process before it has these.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = dir.with_file_name(file);
            if above.exists() && !dir.join("cgroup.type").exists() {
                fs::write(dir.join(file), fs::read(above).unwrap()).unwrap();
            }
        }
    }
    dirs
}

#[test]
fn a_cgroup_below_the_containers_can_be_chosen() {
    let bundle = Bundle::running();
    make_subgroup(&bundle, "sub");
    for (flag, below) in [("sub", "/sub"), ("/sub/", "/sub"), ("/", ""), (".", "")] {
        let pid = sleeper(&bundle, &["--cgroup", flag]).unwrap();
        let there = membership(&pid);
        assert!(there.iter().all(|(_, path)| *path == format!("/{}{below}", bundle.id)), "{flag}: {there:?}");
    }
    if !common::unified() {
        let pid = sleeper(&bundle, &["--cgroup", "pids:sub", "--cgroup", "freezer,devices:/"]).unwrap();
        for (controllers, path) in membership(&pid) {
            let below = if controllers == "pids" { "/sub" } else { "" };
            assert_eq!(path, format!("/{}{below}", bundle.id), "{controllers}");
        }
    }
    let refused = |flag| sleeper(&bundle, &["--cgroup", flag]).unwrap_err();
    for flag in ["..", "sub/../..", "pids:.."] {
        let text = refused(flag);
        assert!(text.contains("`..` components are not allowed") && text.contains(flag), "{text}");
    }
    assert!(refused("none").contains("no such file or directory"));
    assert!(refused("shoes:sub").contains("there is no hierarchy with this controller"));
}

#[test]
fn the_process_is_beside_the_init_where_the_containers_cgroup_takes_none() {
    let bundle = Bundle::running();
    let leaf = make_subgroup(&bundle, "leaf").into_iter().find(|dir| dir.join("cgroup.type").exists());
    let leaf = leaf.expect("a unified hierarchy");
    let container = leaf.parent().unwrap();
    let controllers = fs::read_to_string(container.join("cgroup.controllers")).unwrap();
    let Some(controller) = controllers.split_whitespace().next() else {
        println!("skipped: no controller of the unified hierarchy is on");
        return;
    };
    // Every process of it, as a service manager in the container would do it; from then on it is no place for one.
    wait("the container's own cgroup to be empty", || {
        let members = fs::read_to_string(container.join("cgroup.procs")).unwrap();
        // One that has ended meanwhile is not there the next time.
        members.lines().for_each(|pid| drop(fs::write(leaf.join("cgroup.procs"), pid)));
        members.is_empty()
    });
    fs::write(container.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    let pid = sleeper(&bundle, &[]).unwrap();
    let (_, path) = membership(&pid).into_iter().find(|(controllers, _)| controllers.is_empty()).unwrap();
    assert_eq!(path, format!("/{}/leaf", bundle.id));
}

#[test]
fn a_paused_container_takes_a_process_only_when_told_to() {
    let bundle = Bundle::running();
    testkit::run(&mut bundle.pea(&["pause", &bundle.id]));
    let text = sleeper(&bundle, &[]).unwrap_err();
    assert!(text.contains("cannot exec in a paused container"), "{text}");
    let members = || {
        let list = testkit::output(&mut bundle.pea(&["ps", "-f", "json", &bundle.id]));
        serde_json::from_str::<Vec<i32>>(&list).unwrap().len()
    };
    let before = members();
    let mut pea = bundle.pea(&["exec", "--ignore-paused", &bundle.id, "echo", "resumed"]);
    let mut pea = pea.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    wait("the process to be there", || members() > before);
    assert_eq!(pea.try_wait().unwrap(), None, "it does not run yet");
    testkit::run(&mut bundle.pea(&["resume", &bundle.id]));
    let done = pea.wait_with_output().unwrap();
    assert_eq!(stdout(&done), "resumed");
}

/// With v1 too, whose freezer keeps what it has frozen from dying.
#[test]
fn a_process_that_waits_in_a_paused_container_dies_with_it() {
    for signal in [&["kill", "KILL"][..], &["kill", "--all", "KILL"], &["delete", "--force"]] {
        let bundle = Bundle::running();
        testkit::run(&mut bundle.pea(&["pause", &bundle.id]));
        let members = || testkit::output(&mut bundle.pea(&["ps", "-f", "json", &bundle.id])).split(',').count();
        let before = members();
        let mut pea = bundle.pea(&["exec", "--ignore-paused", &bundle.id, "echo", "resumed"]);
        let pea = pea.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait("the process to be there", || members() > before);
        let mut words = vec![signal[0], bundle.id.as_str()];
        for word in &signal[1..] {
            words.insert(if word.starts_with('-') { 1 } else { words.len() }, word);
        }
        testkit::run(&mut bundle.pea(&words));
        if signal[0] == "kill" {
            bundle.wait_stopped();
        }
        let done = pea.wait_with_output().unwrap();
        // The init alone is killed by the first, and what it leaves may get as far as to its end before it is reaped.
        let may_run = signal == ["kill", "KILL"];
        assert!(may_run || !done.status.success() && stdout(&done).is_empty(), "{done:?}");
        testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_handle_of_the_process_is_sent() {
    let bundle = Bundle::running();
    let listener = UnixListener::bind(bundle.path().join("handles")).unwrap();
    let pid = sleeper(&bundle, &["--pidfd-socket", "handles"]).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut text = [0; 16];
    let mut parts = [std::io::IoSliceMut::new(&mut text)];
    let socket = std::os::fd::AsRawFd::as_raw_fd(&stream);
    let message =
        nix::sys::socket::recvmsg::<()>(socket, &mut parts, Some(&mut space), nix::sys::socket::MsgFlags::empty())
            .unwrap();
    let Some(nix::sys::socket::ControlMessageOwned::ScmRights(handles)) = message.cmsgs().unwrap().next() else {
        panic!("no descriptor came along");
    };
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", handles[0])).unwrap();
    assert!(about.lines().any(|line| line == format!("Pid:\t{pid}")), "{about}");
}

#[test]
fn what_confines_the_containers_process_confines_one_given_by_file() {
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["noNewPrivileges"] = json!(true);
    bundle.spec["process"]["oomScoreAdj"] = json!(777);
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 234}]);
    bundle.start_up();
    let script = "grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn";
    let run = |extra: &[(&str, serde_json::Value)]| {
        let mut process = json!({"cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-c", script]});
        extra.iter().for_each(|(key, value)| process[*key] = value.clone());
        fs::write(bundle.path().join("process.json"), process.to_string()).unwrap();
        let text = testkit::output(&mut bundle.pea(&["exec", "--process", "process.json", &bundle.id]));
        text.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(run(&[]), ["1", "777", "123", "234"]);
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
    let own = [("noNewPrivileges", json!(false)), ("oomScoreAdj", json!(888)), ("rlimits", limits)];
    assert_eq!(run(&own), ["0", "888", "55", "66"]);
}

#[test]
fn a_variable_given_replaces_the_containers() {
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/one", "HOMES=two"]);
    bundle.start_up();
    let text = testkit::output(&mut bundle.pea(&["exec", "-e", "HOME=/new", &bundle.id, "env"]));
    let mut variables: Vec<_> =
        text.lines().filter(|line| line.starts_with("HOME") || line.starts_with("PATH")).collect();
    variables.sort_unstable();
    assert_eq!(variables, ["HOME=/new", "HOMES=two", "PATH=/bin"]);
    let done = testkit::attempt(&mut bundle.pea(&["exec", "-e", "HOME", &bundle.id, "env"]));
    assert!(stderr(&done).contains("NAME=VALUE is wanted"), "{}", stderr(&done));
}

#[test]
fn a_pid_file_that_cannot_be_written_ends_the_process() {
    let bundle = Bundle::running();
    let arguments = ["exec", "--detach", "--pid-file", "no/such/dir/pid", &bundle.id, "sleep", "1234"];
    let said = bundle.path().join("said");
    let mut pea = bundle.pea(&arguments);
    // No pipe of ours, which the process would hold open.
    let status = pea.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap()).status();
    let text = fs::read_to_string(said).unwrap();
    assert!(!status.unwrap().success() && text.contains("no/such/dir/pid"), "{text}");
    assert!(!bundle.exec(&["ps"]).contains("sleep 1234"));
}

#[test]
fn what_was_created_from_a_key_given_twice_is_executed_in() {
    let bundle = Bundle::idle();
    let mut create = bundle.pea(&["create", &bundle.id]);
    let text = serde_json::to_string(&bundle.spec).unwrap();
    let twice = text.replacen('{', r#"{"linux": {}, "process": {"args": ["no"]}, "#, 1);
    fs::write(bundle.path().join("config.json"), twice).unwrap();
    create.stdin(Stdio::null()).stdout(Stdio::null());
    assert!(create.status().unwrap().success());
    testkit::run(&mut bundle.pea(&["start", &bundle.id]));
    assert_eq!(testkit::output(&mut bundle.pea(&["exec", &bundle.id, "echo", "done"])), "done");
}
