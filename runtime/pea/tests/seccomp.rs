//! `linux.seccomp`: filters of real containers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use common::{Bundle, stderr, stdout};
use libseccomp::{ScmpNotifReq, ScmpNotifResp};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use serde_json::{Value, json};

/// mkdir, wherever a C library finds it.
fn mkdir(action: &str) -> Value {
    json!({"names": ["mkdir", "mkdirat"], "action": action})
}

/// A container that may write to its root, with one rule and the rest allowed.
fn filtered(script: &str, rule: Value) -> Bundle {
    let mut bundle = Bundle::shell(script);
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    bundle
}

/// Enough for a shell and a few programs; the newest is older than setns on every architecture.
const OLD: &str = "
    access arch_prctl brk capset chdir clone close dup dup2 dup3 execve exit exit_group faccessat fcntl fork
    fstat futex getcwd getegid geteuid getgid getpid getpgrp getppid gettid getuid ioctl kill lseek lstat
    madvise mmap mprotect mremap munmap newfstatat open openat pipe pipe2 poll pread64 prctl read readlink
    readlinkat readv rt_sigaction rt_sigprocmask rt_sigreturn set_robust_list set_tid_address sigaltstack stat
    uname vfork wait4 write
";

#[test]
fn a_call_newer_than_the_profile_is_missing_and_an_older_one_refused() {
    let script = "mkdir /tmp/x; nsenter --uts=/proc/self/ns/uts true; :";
    let mut bundle = Bundle::shell(script);
    let old: Vec<&str> = OLD.split_whitespace().collect();
    let mut rules = vec![json!({"names": old, "action": "SCMP_ACT_ALLOW"})];
    rules.push(json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}));
    bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
    let text = stderr(&bundle.run());
    assert!(text.contains("mkdir: can't create directory '/tmp/x': Operation not supported"), "{text}");
    assert!(text.contains("nsenter: ") && text.contains("Function not implemented"), "{text}");
    // With a newer call in it, the profile knew setns and did not want it.
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 95,
        "syscalls": [{"names": old, "action": "SCMP_ACT_ALLOW"}, {"names": ["clone3"], "action": "SCMP_ACT_ALLOW"}],
    });
    let text = stderr(&bundle.run());
    assert!(!text.contains("Function not implemented"), "{text}");
    assert_eq!(text.matches("Operation not supported").count(), 2, "{text}");
}

#[test]
fn every_action_does_what_it_says() {
    let script = "mkdir /tmp/x; echo status $?";
    let killed = |rule| stdout(&filtered(script, rule).run());
    assert_eq!(killed(mkdir("SCMP_ACT_KILL_PROCESS")), "status 159");
    assert_eq!(killed(mkdir("SCMP_ACT_KILL_THREAD")), "status 159");
    assert_eq!(killed(mkdir("SCMP_ACT_KILL")), "status 159");
    assert_eq!(killed(mkdir("SCMP_ACT_TRAP")), "status 159");
    assert_eq!(killed(mkdir("SCMP_ACT_LOG")), "status 0");
    // Nobody traces it.
    assert!(stderr(&filtered(script, mkdir("SCMP_ACT_TRACE")).run()).contains("Function not implemented"));
    assert!(stderr(&filtered(script, mkdir("SCMP_ACT_ERRNO")).run()).contains("Operation not permitted"));
}

#[test]
fn an_argument_decides() {
    let mode = json!([{"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 0o022, "valueTwo": 0o020}]);
    let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "args": mode});
    let script = "mkdir -m 720 /tmp/a; mkdir -m 722 /tmp/b; mkdir -m 702 /tmp/c; ls /tmp";
    let bundle = filtered(script, rule);
    let done = bundle.run();
    // busybox makes the directory with all bits and changes the mode then, unless `-m` is understood by mkdir(2).
    let made = stdout(&done);
    match made.as_str() {
        "b\nc" => assert!(stderr(&done).contains("'/tmp/a': Operation not supported"), "{}", stderr(&done)),
        "a\nb\nc" => println!("skipped: this mkdir passes no mode"),
        other => panic!("{other}: {}", stderr(&done)),
    }
}

#[test]
fn executed_processes_have_the_filter_too() {
    let mut bundle = filtered("trap 'exit 0' TERM; while :; do sleep 0.1; done", mkdir("SCMP_ACT_ERRNO"));
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    bundle.start_up();
    let done = testkit::attempt(bundle.pea(&["exec", &bundle.id]).args(["mkdir", "/tmp/x"]));
    assert!(stderr(&done).contains("Operation not permitted"), "{}", stderr(&done));
}

#[test]
fn a_filter_is_loaded_in_a_user_namespace_with_new_privileges_allowed() {
    let script = "mkdir /tmp/x; grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status | cut -f2";
    let mut bundle = filtered(script, mkdir("SCMP_ACT_ERRNO"));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    bundle.spec["process"]["user"] = json!({"uid": 7, "gid": 8});
    bundle.spec["process"]["capabilities"] = json!({});
    testkit::run(std::process::Command::new("chmod").arg("755").arg(bundle.path()));
    testkit::run(std::process::Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()));
    let done = bundle.run();
    assert_eq!(stdout(&done), "0000000000000000\n0\n2");
    assert!(stderr(&done).contains("Operation not permitted"), "{}", stderr(&done));
}

#[test]
fn every_flag_is_taken() {
    let flags = ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"];
    for flag in flags {
        let mut bundle = filtered("grep Seccomp: /proc/self/status | cut -f2", mkdir("SCMP_ACT_ERRNO"));
        bundle.spec["linux"]["seccomp"]["flags"] = json!([format!("SECCOMP_FILTER_FLAG_{flag}")]);
        assert_eq!(bundle.output().trim(), "2", "{flag}");
    }
    let mut bundle = filtered("true", mkdir("SCMP_ACT_ERRNO"));
    bundle.spec["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_SHINY"]);
    assert!(stderr(&bundle.run()).contains("SECCOMP_FILTER_FLAG_SHINY"));
}

/// The compiled filters in the bundle's state root.
fn compiled(bundle: &Bundle) -> Vec<PathBuf> {
    let entries = fs::read_dir(bundle.state_root().join("@seccomp")).expect("the cache");
    entries.flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_filter_is_compiled_once_and_a_damaged_one_again() {
    let bundle = filtered("mkdir /tmp/x", mkdir("SCMP_ACT_ERRNO"));
    let refused = || {
        let text = stderr(&bundle.run());
        assert!(text.contains("Operation not permitted"), "{text}");
    };
    refused();
    let [path] = &compiled(&bundle)[..] else { panic!("not one filter") };
    let first = fs::metadata(path).expect("the filter");
    assert_eq!(first.mode() & 0o777, 0o600);
    refused();
    // Whoever compiles writes a new file.
    assert_eq!(fs::metadata(path).expect("the filter").ino(), first.ino(), "compiled again");
    let mut bytes = fs::read(path).expect("the filter");
    let last = bytes.len() - 8;
    // Would return another error.
    bytes[last..].fill(0);
    fs::write(path, bytes).expect("damaged");
    refused();
    assert_ne!(fs::metadata(path).expect("the filter").ino(), first.ino(), "the damaged filter was used");
    bundle.assert_nothing_left();
}

/// What a listener is told.
struct Told {
    state: Value,
    descriptor: OwnedFd,
}

/// Takes one connection, and answers one question: with that error, or with success that did nothing.
fn listen(path: &Path, error: i32) -> JoinHandle<Value> {
    let listener = UnixListener::bind(path).expect("a listener");
    thread::spawn(move || {
        let Told { state, descriptor } = receive(&listener);
        let request = ScmpNotifReq::receive(descriptor.as_raw_fd()).expect("a question");
        let answer = ScmpNotifResp::new_error(request.id, error, libseccomp::ScmpNotifRespFlags::empty());
        answer.respond(descriptor.as_raw_fd()).expect("answered");
        state
    })
}

fn receive(listener: &UnixListener) -> Told {
    let (socket, _) = listener.accept().expect("a connection");
    let mut buffer = vec![0; 64 << 10];
    let mut space = cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).expect("a message");
    let length = message.bytes;
    let descriptor = message.cmsgs().expect("control messages").find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let descriptor = descriptor.expect("a descriptor");
    #[allow(unsafe_code)]
    // SAFETY: it has just arrived.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Told { state: serde_json::from_slice(&buffer[..length]).expect("JSON"), descriptor }
}

#[test]
fn a_listener_is_told_who_asks_and_answers() {
    let mut bundle = filtered(
        "mkdir /tmp/x; echo status $?; ls -d /tmp/x; trap 'exit 0' TERM; while :; do sleep 0.1; done",
        mkdir("SCMP_ACT_NOTIFY"),
    );
    let socket = bundle.path().join("listener");
    for no_new_privileges in [true, false] {
        let _ = fs::remove_file(&socket);
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.spec["annotations"] = json!({"color": "green"});
        bundle.spec["linux"]["seccomp"]["listenerPath"] = json!(socket);
        bundle.spec["linux"]["seccomp"]["listenerMetadata"] = json!("of the first");
        bundle.spec["linux"]["seccomp"]["flags"] =
            json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
        let first = listen(&socket, -libc::EDQUOT);
        bundle.start_up();
        let told = first.join().expect("the listener");
        assert_eq!(told["fds"], json!(["seccompFd"]));
        assert_eq!(told["metadata"], "of the first");
        assert_eq!(told["pid"], json!(bundle.pid()));
        assert_eq!(told["state"]["pid"], told["pid"]);
        assert_eq!(told["state"]["id"], json!(bundle.id));
        assert_eq!(told["state"]["status"], "creating");
        assert_eq!(told["state"]["annotations"]["color"], "green");

        fs::remove_file(&socket).expect("the socket");
        let second = listen(&socket, -libc::ENOTEMPTY);
        let done = testkit::attempt(bundle.pea(&["exec", &bundle.id]).args(["mkdir", "/tmp/y"]));
        assert!(stderr(&done).contains("Directory not empty"), "{}", stderr(&done));
        let told = second.join().expect("the listener");
        assert_eq!(told["state"]["pid"], json!(bundle.pid()));
        assert_eq!(told["state"]["status"], "running");
        assert_ne!(told["pid"], told["state"]["pid"]);
        testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    }
}

#[test]
fn the_listener_hears_of_a_container_that_is_not_started() {
    // Where the filter stops what starting takes, it is installed when that is done.
    for (asked, early) in [(json!(["mkdir"]), true), (json!(["mkdir", "accept4"]), false)] {
        let mut bundle = filtered("mkdir /tmp/x", json!({"names": asked, "action": "SCMP_ACT_NOTIFY"}));
        let socket = bundle.path().join("listener");
        bundle.spec["linux"]["seccomp"]["listenerPath"] = json!(socket);
        let listener = UnixListener::bind(&socket).expect("a listener");
        let told = thread::spawn(move || receive(&listener));
        bundle.create();
        let seccomp = || fs::read_to_string(format!("/proc/{}/status", bundle.pid())).expect("a status");
        assert_eq!(seccomp().contains("Seccomp:\t2"), early);
        assert_eq!(bundle.status(), "created");
        if !early {
            testkit::run(&mut bundle.pea(&["start", &bundle.id]));
        }
        assert_eq!(told.join().expect("the listener").state["pid"], json!(bundle.pid()));
        testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    }
}

#[test]
fn a_profile_that_cannot_work_is_refused_by_name() {
    let notify = |names: Value| json!([{"names": names, "action": "SCMP_ACT_NOTIFY"}]);
    let refused = [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY"),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 3}), "defaultErrnoRet: SCMP_ACT_ALLOW takes no"),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}), "5000 is more than 4095"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify(json!(["read"]))}),
            "linux.seccomp.listenerPath: missing",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such", "syscalls": notify(json!(["read"]))}),
            "listenerPath: connect to /no/such: no such file or directory",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": notify(json!(["sendmsg"]))}),
            "SCMP_ACT_NOTIFY cannot be used for sendmsg",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}),
            "linux.seccomp: architectures: S390X",
        ),
    ];
    let mut bundle = Bundle::new(&["true"]);
    for (profile, phrase) in refused {
        bundle.spec["linux"]["seccomp"] = profile;
        let done = bundle.run();
        assert!(!done.status.success());
        assert!(stderr(&done).contains(phrase), "{}", stderr(&done));
    }
    bundle.assert_nothing_left();
}
