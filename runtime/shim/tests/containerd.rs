//! The shim under Debian's containerd 1.6, driven by `ctr`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

use support::containerd::Containerd;
use support::{cgroups_named, eventually, mounts_below, shims_with_id};

fn text(output: &Output) -> (Option<i32>, String, String) {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\r', "");
    (output.status.code(), words(&output.stdout), words(&output.stderr))
}

/// Nothing of a task is left, and its shim has gone.
fn nothing_left(containerd: &Containerd, id: &str) {
    eventually("the shim has ended", || shims_with_id(id).is_empty());
    eventually("the bundle is gone", || containerd.bundles() == 0);
    assert_eq!(mounts_below(&containerd.dir.path().join("state")), Vec::<String>::new());
    assert_eq!(cgroups_named(id), Vec::<std::path::PathBuf>::new());
}

/// The outputs of a task that prints that much and then waits for the end of its input; its exit code.
///
/// When its task has stopped, ctr before 1.6.22 reads no further, with every shim. So this task goes
/// on until all has been read; what is still under way at an end is the matter of pod.rs.
fn run_and_read(containerd: &Containerd, id: &str, program: &str, sizes: [usize; 2]) -> (Option<i32>, [Vec<u8>; 2]) {
    let mut command = containerd.run(&["--rm"], id, &["sh", "-c", program]);
    let mut ctr = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (ctr.stdout.take().unwrap(), ctr.stderr.take().unwrap());
    let mut seen = sizes.map(|size| vec![0; size]);
    stdout.read_exact(&mut seen[0]).unwrap();
    stderr.read_exact(&mut seen[1]).unwrap();
    drop(ctr.stdin.take());
    stdout.read_to_end(&mut seen[0]).unwrap();
    stderr.read_to_end(&mut seen[1]).unwrap();
    (ctr.wait().unwrap().code(), seen)
}

#[test]
fn a_run_returns_the_exit_code_and_both_outputs() {
    let containerd = Containerd::start();
    let id = containerd.id("run");
    let done = run_and_read(&containerd, &id, "echo out; echo err >&2; cat; exit 7", [4, 4]);
    assert_eq!(done, (Some(7), [b"out\n".to_vec(), b"err\n".to_vec()]));
    nothing_left(&containerd, &id);
}

#[test]
fn output_larger_than_every_buffer_arrives_whole() {
    let containerd = Containerd::start();
    let id = containerd.id("big");
    let whole = b"0123456789\n".repeat(200_000);
    let program = "yes 0123456789 | head -n 200000; cat";
    let (code, [stdout, stderr]) = run_and_read(&containerd, &id, program, [whole.len(), 0]);
    assert_eq!((code, String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
    assert!(stdout == whole, "{} of {} bytes", stdout.len(), whole.len());
}

#[test]
fn standard_input_reaches_the_process_and_ends() {
    let containerd = Containerd::start();
    let id = containerd.id("stdin");
    let mut command = containerd.run(&["--rm"], &id, &["sh", "-c", "echo ready; cat; exit 6"]);
    let mut ctr = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(ctr.stdout.take().unwrap());
    let mut line = String::new();
    // ctr loses an end of input that comes before its task is made, with every shim.
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut input = ctr.stdin.take().unwrap();
    input.write_all(b"some words\n").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "some words\n");
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((ctr.wait().unwrap().code(), rest.as_str()), (Some(6), ""));
}

#[test]
fn a_detached_task_is_listed_measured_executed_in_and_killed() {
    let containerd = Containerd::start();
    let id = containerd.id("detached");
    testkit::run(&mut containerd.run(&["-d"], &id, &["sleep", "1000"]));
    let list = containerd.output(&["task", "ls"]);
    assert!(list.lines().any(|line| line.starts_with(&id) && line.ends_with("RUNNING")), "{list}");

    let shim = *shims_with_id(&id).first().expect("the task's shim");
    assert_eq!(support::status_field(shim, "Threads"), "1");

    let done = containerd.try_ctr(&["task", "exec", "--exec-id", "e1", &id, "sh", "-c", "echo $((6*7)); exit 3"]);
    assert_eq!(text(&done), (Some(3), "42".into(), String::new()));
    let missing = containerd.try_ctr(&["task", "exec", "--exec-id", "e2", &id, "no-such-program"]);
    assert!(!missing.status.success());
    assert!(text(&missing).2.contains("no-such-program"), "{missing:?}");

    let processes = containerd.output(&["task", "ps", &id]);
    assert_eq!(processes.lines().count(), 2, "a heading and the sleeper: {processes}");
    let metrics = containerd.output(&["task", "metrics", &id]);
    assert!(metrics.contains("memory.usage_in_bytes") || metrics.contains("memory.usage"), "{metrics}");

    let refused = containerd.try_ctr(&["task", "rm", &id]);
    assert!(!refused.status.success(), "a running task was deleted");
    testkit::run(&mut containerd.ctr(&["task", "kill", "-s", "KILL", &id]));
    eventually("the task is listed as stopped", || containerd.output(&["task", "ls"]).contains("STOPPED"));
    let deleted = containerd.try_ctr(&["task", "rm", &id]);
    assert!(text(&deleted).2.contains("137"), "{deleted:?}");
    nothing_left(&containerd, &id);
}

#[test]
fn a_signal_reaches_the_process_by_number() {
    let containerd = Containerd::start();
    let id = containerd.id("signal");
    let program = ["sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.05; done"];
    testkit::run(&mut containerd.run(&["-d"], &id, &program));
    // A shell that has not set its trap yet is an init without a reaction: the signal would be lost.
    eventually("the trap works", || {
        let _ = containerd.try_ctr(&["task", "kill", "-s", "TERM", &id]);
        containerd.output(&["task", "ls"]).contains("STOPPED")
    });
    let deleted = containerd.try_ctr(&["task", "rm", &id]);
    assert!(text(&deleted).2.contains("42"), "{deleted:?}");
}

#[test]
fn the_tasks_of_a_group_share_one_shim_which_ends_with_the_last() {
    let containerd = Containerd::start();
    let group = format!("io.containerd.runc.v2.group={}", containerd.id("pod"));
    let (one, two) = (containerd.id("one"), containerd.id("two"));
    for id in [&one, &two] {
        testkit::run(&mut containerd.run(&["-d", "--annotation", &group], id, &["sleep", "1000"]));
    }
    let shim = shims_with_id(&one);
    assert_eq!((shim.len(), shims_with_id(&two).len()), (1, 0));
    // The one that brought the shim up goes first; the other must not notice.
    testkit::run(&mut containerd.ctr(&["task", "rm", "--force", &one]));
    let done = containerd.try_ctr(&["task", "exec", "--exec-id", "e", &two, "echo", "here"]);
    assert_eq!(text(&done), (Some(0), "here".into(), String::new()));
    testkit::run(&mut containerd.ctr(&["task", "rm", "--force", &two]));
    nothing_left(&containerd, &one);
}

/// Runs ctr on a terminal of its own, which it wants for `-t`, and answers the first line with an empty one.
/// Returns the exit code and what came out.
fn on_terminal(command: &mut Command) -> (Option<i32>, String) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let side = || pty.slave.try_clone().unwrap();
    let mut ctr = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    drop(pty.slave);
    let mut master = File::from(pty.master);
    let mut seen = Vec::new();
    // The end of a terminal is an error, EIO, after everything has been read.
    let mut byte = [0];
    while !seen.ends_with(b"\n") && master.read_exact(&mut byte).is_ok() {
        seen.extend(byte);
    }
    let _ = master.write_all(b"\n");
    let _ = master.read_to_end(&mut seen);
    (ctr.wait().unwrap().code(), String::from_utf8_lossy(&seen).trim().to_owned())
}

#[test]
fn a_terminal_is_a_terminal_and_an_exec_has_its_own() {
    let containerd = Containerd::start();
    let id = containerd.id("terminal");
    let done = on_terminal(&mut containerd.run(&["--rm", "-t"], &id, &["sh", "-c", "tty; read _; exit 4"]));
    assert_eq!(done, (Some(4), "/dev/pts/0".into()));

    testkit::run(&mut containerd.run(&["-d"], &id, &["sleep", "1000"]));
    let done =
        on_terminal(&mut containerd.ctr(&["task", "exec", "-t", "--exec-id", "e", &id, "sh", "-c", "tty; read _"]));
    assert_eq!(done, (Some(0), "/dev/pts/0".into()));
}

#[test]
fn a_task_that_cannot_be_created_says_why_and_leaves_nothing() {
    let containerd = Containerd::start();
    let id = containerd.id("broken");
    let done = testkit::attempt(&mut containerd.run(&["--rm"], &id, &["/no/such/program"]));
    assert!(!done.status.success());
    assert!(text(&done).2.contains("/no/such/program"), "{done:?}");
    nothing_left(&containerd, &id);
}

#[test]
fn containerd_clears_up_after_a_shim_that_was_killed() {
    let containerd = Containerd::start();
    let id = containerd.id("orphan");
    testkit::run(&mut containerd.run(&["-d"], &id, &["sleep", "1000"]));
    let pid: u32 = containerd.output(&["task", "ls"]).split_whitespace().nth(4).unwrap().parse().unwrap();
    let shim = *shims_with_id(&id).first().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the container's process has ended", || !support::alive(pid));
    nothing_left(&containerd, &id);
}

#[test]
fn a_restarted_containerd_finds_its_tasks_again() {
    let mut containerd = Containerd::start();
    let id = containerd.id("restart");
    testkit::run(&mut containerd.run(&["-d"], &id, &["sh", "-c", "while :; do echo tick; sleep 0.05; done"]));
    containerd.restart();
    let list = containerd.output(&["task", "ls"]);
    assert!(list.lines().any(|line| line.starts_with(&id) && line.ends_with("RUNNING")), "{list}");
    let done = containerd.try_ctr(&["task", "exec", "--exec-id", "e1", &id, "echo", "still here"]);
    assert_eq!(text(&done), (Some(0), "still here".into(), String::new()));
    testkit::run(&mut containerd.ctr(&["task", "rm", "--force", &id]));
    nothing_left(&containerd, &id);
}

/// The program of a task that ends with 7 when a file is there, and the file.
fn ends_when_told(containerd: &Containerd) -> ([&'static str; 3], std::path::PathBuf) {
    let program = ["sh", "-c", "until test -e /tmp/go; do sleep 0.02; done; exit 7"];
    (program, containerd.dir.path().join("rootfs/tmp/go"))
}

/// The pid of the only task.
fn pid_of_task(containerd: &Containerd) -> u32 {
    containerd.output(&["task", "ls"]).split_whitespace().nth(4).unwrap().parse().unwrap()
}

#[test]
fn an_exit_while_containerd_is_away_is_there_when_it_comes_back() {
    let mut containerd = Containerd::start();
    let id = containerd.id("away");
    let (program, go) = ends_when_told(&containerd);
    testkit::run(&mut containerd.run(&["-d"], &id, &program));
    let pid = pid_of_task(&containerd);
    containerd.restart_after(|| {
        fs::write(go, "").unwrap();
        eventually("it has ended", || !support::alive(pid));
    });
    let list = containerd.output(&["task", "ls"]);
    assert!(list.lines().any(|line| line.starts_with(&id) && line.ends_with("STOPPED")), "{list}");
    let deleted = containerd.try_ctr(&["task", "rm", &id]);
    assert!(text(&deleted).2.contains("exit code 7"), "{deleted:?}");
    nothing_left(&containerd, &id);
}

/// Known as containerd#6429: the clean-up after a dead shim tells of a second exit, 137, of a task that had ended by itself.
#[test]
fn a_killed_shim_does_not_change_how_its_task_has_ended() {
    let containerd = Containerd::start();
    let id = containerd.id("ended");
    let (program, go) = ends_when_told(&containerd);
    let last = format!("/tasks/delete {{\"container_id\":\"{id}\"");
    let mut pid = 0;
    let heard = events_of(&containerd, &last, || {
        testkit::run(&mut containerd.run(&["-d"], &id, &program));
        pid = pid_of_task(&containerd);
        fs::write(&go, "").unwrap();
        eventually("stopped", || containerd.output(&["task", "ls"]).contains("STOPPED"));
        let shim = *shims_with_id(&id).first().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    let exits: Vec<&str> = heard.lines().filter(|line| line.contains("/tasks/exit") && line.contains(&id)).collect();
    let said = format!("\"pid\":{pid},\"exit_status\":7,");
    assert!(!exits.is_empty() && exits.iter().all(|line| line.contains(&said)), "{heard}");
    // When it happened is told the same each time: who has heard of it already learns nothing new.
    let when = |line: &str| line.split_once("exited_at").unwrap().1.to_owned();
    assert!(exits.iter().all(|line| when(line) == when(exits[0])), "{heard}");
    nothing_left(&containerd, &id);
}

#[test]
fn events_come_in_the_order_things_happen() {
    let containerd = Containerd::start();
    let id = containerd.id("events");
    let listener = File::create(containerd.dir.path().join("events")).unwrap();
    let mut events = containerd.ctr(&["events"]).stdout(listener).spawn().unwrap();
    // `ctr events` has no way to say that it listens; the first container may be over before it does.
    for n in 0..5 {
        testkit::run(&mut containerd.run(&["--rm"], &format!("{id}-{n}"), &["true"]));
    }
    let heard = || fs::read_to_string(containerd.dir.path().join("events")).unwrap();
    let last = format!("/tasks/delete {{\"container_id\":\"{id}-4\"");
    eventually("the last event", || heard().contains(&last));
    events.kill().unwrap();
    events.wait().unwrap();
    let seen = heard();
    for n in 1..5 {
        let topics: Vec<&str> = seen
            .lines()
            .filter(|line| line.contains(&format!("\"container_id\":\"{id}-{n}\"")))
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("/tasks/")))
            .collect();
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "{seen}");
    }
}

/// What `ctr events` hears while `during` runs, up to the first line that holds `last`.
fn events_of(containerd: &Containerd, last: &str, during: impl FnOnce()) -> String {
    let file = containerd.dir.path().join("events");
    let mut events = containerd.ctr(&["events"]).stdout(File::create(&file).unwrap()).spawn().unwrap();
    let heard = || fs::read_to_string(&file).unwrap();
    // It has no way to say that it listens: containers are made until it has heard of one.
    eventually("ctr listens", || {
        let _ = containerd.try_ctr(&["containers", "rm", "heard"]);
        let _ = containerd.try_ctr(&["containers", "create", "--rootfs", "/", "heard"]);
        heard().contains("heard")
    });
    during();
    eventually(last, || heard().contains(last));
    events.kill().unwrap();
    events.wait().unwrap();
    heard()
}

#[test]
fn a_process_killed_for_want_of_memory_is_told_of_before_the_exit() {
    let containerd = Containerd::start();
    let id = containerd.id("oom");
    let last = format!("/tasks/exit {{\"container_id\":\"{id}\"");
    // The shell goes on after its child was killed. The kernel may look for a second victim before it has the first one's
    // memory, and must not find the shell.
    let greedy = "echo 1000 > /proc/self/oom_score_adj; head -c 200m /dev/zero | tail -n 1 > /dev/null";
    let program = ["sh", "-c", &format!("({greedy}); exit 6")];
    let heard = events_of(&containerd, &last, || {
        let done = testkit::attempt(&mut containerd.run(&["--rm", "--memory-limit", "33554432"], &id, &program));
        // Or the kernel, having begun, takes the shell too.
        assert!([Some(6), Some(137)].contains(&done.status.code()), "{done:?}");
    });
    let at = |what: &str| {
        heard.find(&format!("{what} {{\"container_id\":\"{id}\"")).unwrap_or_else(|| panic!("{what}: {heard}"))
    };
    assert!(at("/tasks/start") < at("/tasks/oom") && at("/tasks/oom") < at("/tasks/exit"), "{heard}");
    nothing_left(&containerd, &id);
}

#[test]
fn the_exit_of_an_init_is_told_after_those_of_its_execs() {
    let containerd = Containerd::start();
    let id = containerd.id("order");
    let last = format!("/tasks/delete {{\"container_id\":\"{id}\"");
    let heard = events_of(&containerd, &last, || {
        testkit::run(&mut containerd.run(&["-d"], &id, &["sleep", "1000"]));
        for exec in ["e1", "e2", "e3"] {
            testkit::run(&mut containerd.ctr(&["task", "exec", "-d", "--exec-id", exec, &id, "sleep", "1000"]));
        }
        testkit::run(&mut containerd.ctr(&["task", "kill", "-s", "KILL", &id]));
        eventually("stopped", || containerd.output(&["task", "ls"]).contains("STOPPED"));
        containerd.try_ctr(&["task", "rm", &id]);
    });
    let lines: Vec<&str> = heard.lines().filter(|line| line.contains(&id) && line.contains("/tasks/")).collect();
    let topic = |line: &&str| line.split_whitespace().find(|word| word.starts_with("/tasks/")).unwrap().to_owned();
    let topics: Vec<String> = lines.iter().map(topic).collect();
    let mut expected = vec!["/tasks/create", "/tasks/start"];
    expected.extend(["/tasks/exec-added", "/tasks/exec-started"].repeat(3));
    expected.extend(["/tasks/exit"; 4]);
    expected.push("/tasks/delete");
    assert_eq!(topics, expected, "{heard}");
    let init = format!("\"id\":\"{id}\"");
    let of_init: Vec<bool> =
        lines.iter().filter(|line| line.contains("/tasks/exit")).map(|line| line.contains(&init)).collect();
    assert_eq!(of_init, [false, false, false, true], "{heard}");
    nothing_left(&containerd, &id);
}

#[test]
fn a_task_is_paused_and_resumed() {
    let containerd = Containerd::start();
    let id = containerd.id("pause");
    testkit::run(&mut containerd.run(&["-d"], &id, &["sleep", "1000"]));
    testkit::run(&mut containerd.ctr(&["task", "pause", &id]));
    assert!(containerd.output(&["task", "ls"]).contains("PAUSED"));
    testkit::run(&mut containerd.ctr(&["task", "resume", &id]));
    assert!(containerd.output(&["task", "ls"]).contains("RUNNING"));
    testkit::run(&mut containerd.ctr(&["task", "rm", "--force", &id]));
    nothing_left(&containerd, &id);
}

/// The other way round: containerd's own shim, and pea as its runtime.
#[test]
fn containerds_own_shim_runs_containers_on_pea() {
    let containerd = Containerd::start();
    let id = containerd.id("binary");
    let pea = testkit::binary("pea");
    let by_pea = ["--runtime", "io.containerd.runc.v2", "--runc-binary", pea.to_str().unwrap()];
    let flags = |first: &'static str| [&[first], &by_pea[..]].concat();
    let done = testkit::attempt(&mut containerd.run(&flags("--rm"), &id, &["sh", "-c", "exit 7"]));
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    testkit::run(&mut containerd.run(&flags("-d"), &id, &["sleep", "1000"]));
    assert_eq!(shims_with_id(&id), Vec::<u32>::new(), "our shim runs it");
    let done = containerd.try_ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "echo $((6*7)); exit 3"]);
    assert_eq!(text(&done), (Some(3), "42".into(), String::new()));
    testkit::run(&mut containerd.ctr(&["task", "pause", &id]));
    assert!(containerd.output(&["task", "ls"]).contains("PAUSED"));
    testkit::run(&mut containerd.ctr(&["task", "resume", &id]));
    testkit::run(&mut containerd.ctr(&["task", "rm", "--force", &id]));
    eventually("the bundle is gone", || containerd.bundles() == 0);
}
