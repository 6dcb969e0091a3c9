//! The command line as container engines use it: flags of every spelling, sockets that are passed, output that is parsed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::{Bundle, stderr, stdout};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

#[test]
fn flags_may_be_spelt_as_go_programs_take_them() {
    let bundle = Bundle::shell("echo ran");
    let dir = bundle.path().to_str().unwrap();
    let words = ["-log-format", "json", "run", "-no-subreaper", "-bundle", dir, "--keep=false", &bundle.id];
    assert_eq!(testkit::output(&mut bundle.pea(&words)), "ran");
    let words = ["exec", &bundle.id, "echo", "-env", "--pid-file=x"];
    bundle.start_up();
    let done = testkit::attempt(&mut bundle.pea(&words));
    // It has ended or not: what counts is that the words were not taken for ours.
    assert!(done.status.success() || stderr(&done).contains("not running"), "{}", stderr(&done));
}

/// As the shell's `<(...)`. What is written in pieces comes in pieces.
#[test]
fn a_configuration_may_come_through_a_pipe() {
    let bundle = Bundle::shell("echo ran");
    let mut run = bundle.pea(&["run", "--config", "pipe", &bundle.id]);
    let pipe = bundle.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut writer = fs::File::options().write(true).open(&pipe).unwrap();
    let other_end = fs::File::open(&pipe).unwrap();
    let text = serde_json::to_vec(&bundle.spec).unwrap();
    for piece in text.chunks(100) {
        writer.write_all(piece).unwrap();
        // Until it has been read: then its reader knows of this piece alone.
        let unread = || poll(&mut [PollFd::new(other_end.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap();
        common::wait("the reader", || unread() == 0);
    }
    drop(writer);
    let done = run.wait_with_output().unwrap();
    assert_eq!((stdout(&done).trim(), stderr(&done).trim()), ("ran", ""));
}

#[test]
fn wrong_usage_is_one_line_in_the_log_too() {
    let bundle = Bundle::idle();
    for wrong in [&["create", "--no-such-flag", "x"][..], &["create"], &["no-such-verb"], &["list", "-f", "yaml"]] {
        let log = bundle.path().join("usage.json");
        let words = [&["--log", "usage.json", "--log-format", "json"][..], wrong].concat();
        let done = testkit::attempt(&mut bundle.pea(&words));
        assert_eq!(done.status.code(), Some(1), "{wrong:?}");
        assert_eq!(stderr(&done).lines().count(), 1, "{}", stderr(&done));
        let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
        assert!(line["msg"].as_str().unwrap().starts_with("incorrect usage: "), "{line}");
        fs::remove_file(log).unwrap();
    }
}

#[test]
fn every_verb_has_help() {
    let verbs =
        "checkpoint create delete events exec features kill list pause ps restore resume run spec start state update";
    for verb in verbs.split(' ') {
        let done = testkit::attempt(Command::new(testkit::binary("pea")).args([verb, "--help"]));
        assert!(done.status.success() && stdout(&done).contains("Usage:"), "{verb}: {}", stderr(&done));
    }
}

#[test]
fn lists_are_printed_as_runc_prints_them() {
    let bundle = Bundle::running();
    let table = testkit::output(&mut bundle.pea(&["list"]));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!((lines[1][0], lines[1][2], lines[1][5]), (&*bundle.id, "running", "root"));
    let list = testkit::output(&mut bundle.pea(&["list", "--format=json"]));
    assert_eq!(list.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()[0]["owner"], json!("root"));
    assert_eq!(testkit::output(&mut bundle.pea(&["--root", "/no/such/root", "list", "-f", "json"])), "[]");
}

#[test]
fn ps_is_the_systems_with_the_containers_processes() {
    let bundle = Bundle::running();
    let pid = bundle.pid().to_string();
    let table = testkit::output(&mut bundle.pea(&["ps", &bundle.id]));
    assert!(table.lines().next().unwrap().contains("STIME"), "{table}");
    assert!(table.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&pid)), "{table}");
    assert!(!table.contains("busybox ps") && table.lines().count() <= 3, "others are not shown: {table}");
    let table = testkit::output(&mut bundle.pea(&["ps", &bundle.id, "-o", "pid,comm"]));
    assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["PID", "COMMAND"]);
    let done = testkit::attempt(&mut bundle.pea(&["ps", &bundle.id, "-o", "comm"]));
    assert!(stderr(&done).contains("couldn't find PID field"), "{}", stderr(&done));
}

#[test]
fn a_created_container_is_deleted_without_force() {
    let bundle = Bundle::idle();
    bundle.create();
    testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_damaged_container_is_deleted_with_force() {
    let bundle = Bundle::running();
    let init = bundle.pid();
    fs::write(bundle.state_root().join(&bundle.id).join("state.json"), "{\"id\": ").unwrap();
    let done = testkit::attempt(&mut bundle.pea(&["delete", &bundle.id]));
    assert!(!done.status.success() && stderr(&done).contains("state.json"), "{}", stderr(&done));
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
    common::wait("the init to be gone", || !ended_is_not(init));
}

/// Whether that process still runs (one nobody has reaped yet does not).
fn ended_is_not(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn the_configuration_may_be_elsewhere() {
    let bundle = Bundle::shell("echo ran");
    let mut command = bundle.pea(&["run", "--config", "other.json", &bundle.id]);
    fs::rename(bundle.path().join("config.json"), bundle.path().join("other.json")).unwrap();
    assert_eq!(testkit::output(&mut command), "ran");
}

fn received(socket: &UnixStream) -> RawFd {
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut text = [0; 64];
    let mut data = [std::io::IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::empty()).unwrap();
    match message.cmsgs().unwrap().next() {
        Some(ControlMessageOwned::ScmRights(fds)) => fds[0],
        other => panic!("no descriptor: {other:?}"),
    }
}

#[test]
#[allow(unsafe_code)]
fn a_pidfd_of_the_init_is_sent() {
    let bundle = Bundle::idle();
    let listener = UnixListener::bind(bundle.path().join("pidfd.sock")).unwrap();
    let mut create = bundle.pea(&["create", "--pidfd-socket", "pidfd.sock", &bundle.id]);
    testkit::run(create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    // SAFETY: it came with the message, for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(received(&listener.accept().unwrap().0)) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd").trim();
    assert_eq!(pid, bundle.pid().to_string());
}

#[test]
fn a_pidfd_socket_nobody_listens_on_fails_the_creation() {
    let bundle = Bundle::idle();
    let done = testkit::attempt(&mut bundle.pea(&["create", "--pidfd-socket", "none.sock", &bundle.id]));
    assert!(stderr(&done).contains("none.sock: no such file or directory"), "{}", stderr(&done));
    bundle.assert_nothing_left();
}

#[test]
fn a_service_manager_is_told_when_the_container_is_ready() {
    let mut bundle = Bundle::idle();
    let manager = UnixDatagram::bind(bundle.path().join("manager.sock")).unwrap();
    bundle.spec["process"]["args"] = json!(["sh", "-c", "test -S $NOTIFY_SOCKET && sleep 1000"]);
    bundle.spec["root"]["readonly"] = json!(false);
    let mut run = bundle.pea(&["run", "--detach", &bundle.id]);
    run.env("NOTIFY_SOCKET", bundle.path().join("manager.sock"));
    let mut run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let socket = bundle.state_root().join(&bundle.id).join("notify/notify.sock");
    common::wait("the container's socket", || socket.exists());
    common::wait("the container", || bundle.status() == "running");
    // In place of a program that calls sd_notify(3): the same socket, from outside.
    let container = UnixDatagram::unbound().unwrap();
    container.send_to(b"STATUS=nearly", &socket).unwrap();
    container.send_to(b"STATUS=up\nREADY=1\n", &socket).unwrap();
    let mut buffer = [0; 256];
    let count = manager.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    assert_eq!(text, format!("READY=1\nMAINPID={}\n", bundle.pid()));
    // A barrier comes next; reading it, and dropping what came with it, lets the command end.
    let count = manager.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"BARRIER=1");
    assert!(run.wait().unwrap().success());
    assert_eq!(
        bundle.exec(&["sh", "-c", "tr '\\0' '\\n' < /proc/1/environ | grep NOTIFY"]),
        "NOTIFY_SOCKET=/run/notify/notify.sock"
    );
}

#[test]
fn a_service_manager_who_is_not_there_is_a_warning() {
    let bundle = Bundle::new(&["echo", "ran"]);
    let mut run = bundle.pea(&["run", &bundle.id]);
    run.env("NOTIFY_SOCKET", bundle.path().join("nobody.sock"));
    let done = testkit::attempt(&mut run);
    assert_eq!((done.status.code(), common::stdout(&done).as_str()), (Some(0), "ran"), "{done:?}");
    let said = common::stderr(&done);
    assert!(said.contains("nobody.sock: no such file or directory; nobody is told of readiness"), "{said}");
    bundle.assert_nothing_left();
}

#[test]
fn listening_sockets_are_passed_on() {
    let bundle =
        Bundle::shell("echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3; readlink /proc/self/fd/4; true");
    let run = bundle.pea(&["run", &bundle.id]);
    let mut with_three = Command::new("sh");
    with_three.args(["-c", "exec \"$@\" 3< /dev/zero", "sh"]).arg(run.get_program()).args(run.get_args());
    with_three.current_dir(bundle.path()).env("LISTEN_FDS", "1");
    assert_eq!(testkit::output(&mut with_three), "1 1\n/dev/zero", "one, and no more");
    // Meant for another process.
    assert_eq!(testkit::output(with_three.env("LISTEN_PID", "1")), "");
}
#[allow(unsafe_code)]
#[test]
fn features_are_complete() {
    let text = testkit::output(Command::new(testkit::binary("pea")).arg("features"));
    let features: Value = serde_json::from_str(&text).unwrap();
    for pointer in
        ["/hooks/5", "/mountOptions/9", "/linux/capabilities/40", "/linux/seccomp/actions/0", "/linux/cgroup/v2"]
    {
        assert!(features.pointer(pointer).is_some(), "{pointer}: {text}");
    }
}

#[test]
fn a_reader_who_has_had_enough_is_no_failure() {
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let out = OwnedFd::from(writer);
    let done = testkit::attempt(Command::new(testkit::binary("pea")).arg("features").stdout(out));
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(stderr(&done), "");
}

#[test]
fn a_log_that_cannot_be_written_fails_before_anything_is_done() {
    let bundle = Bundle::idle();
    let done = testkit::attempt(&mut bundle.pea(&["--log", "no/such/dir/log", "create", &bundle.id]));
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).contains("open log no/such/dir/log: no such file or directory"), "{}", stderr(&done));
    bundle.assert_nothing_left();
}
