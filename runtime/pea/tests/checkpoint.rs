//! checkpoint and restore, by means of CRIU where it works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use common::{Bundle, stderr, stdout, wait};
use serde_json::json;

/// The CRIU to test with: $CRIU, or the machine's; none when it does not work on this kernel.
fn criu() -> Option<String> {
    // It asks a loopback interface what the kernel can do.
    testkit::enter_node();
    let program = std::env::var("CRIU").unwrap_or_else(|_| "criu".to_owned());
    let works = Command::new(&program).arg("check").output().is_ok_and(|done| done.status.success());
    if !works {
        testkit::skip("CRIU is not installed or does not work on this kernel (criu check; $CRIU names another)");
    }
    works.then_some(program)
}

#[test]
fn engines_learn_that_checkpoint_is_there() {
    for verb in ["checkpoint", "restore"] {
        testkit::run(Command::new(testkit::binary("pea")).args([verb, "--help"]));
    }
}

#[test]
fn a_missing_criu_is_named_and_the_container_goes_on() {
    let bundle = Bundle::running();
    let words = ["--criu", "no-such-criu", "checkpoint", "--image-path", "images", &bundle.id];
    let done = testkit::attempt(&mut bundle.pea(&words));
    let text = stderr(&done);
    assert!(text.contains("\"no-such-criu\": executable file not found in $PATH") && text.contains("CRIU"), "{text}");
    assert_eq!(bundle.status(), "running");
    let done = testkit::attempt(&mut bundle.pea(&["--criu", "no-such-criu", "restore", "-d", "other"]));
    assert!(stderr(&done).contains("executable file not found in $PATH"), "{}", stderr(&done));
    assert!(bundle.rootfs().join("bin/busybox").exists(), "what was tried in vain harms nothing");
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn a_criu_that_fails_is_quoted() {
    let bundle = Bundle::running();
    let fake = bundle.path().join("criu");
    fs::write(&fake, "#!/bin/sh\nwhile [ $1 != --work-dir ]; do shift; done\necho '(1) Error (x.c:7): no way' > $2/dump.log\nexit 1\n")
        .unwrap();
    testkit::run(Command::new("chmod").arg("755").arg(&fake));
    let words = ["--criu", fake.to_str().unwrap(), "checkpoint", "--image-path=images", "--work-path=work", &bundle.id];
    let text = stderr(&testkit::attempt(&mut bundle.pea(&words)));
    assert!(text.contains("criu dump failed: Error (x.c:7): no way (log file: work/dump.log)"), "{text}");
    assert_eq!(bundle.status(), "running");
}

#[test]
fn a_terminal_wants_somebody_to_serve_it_and_that_is_said_before_anything_is_done() {
    let mut bundle = Bundle::idle();
    for (terminal, words, phrase) in [
        (true, &["restore", "-d"][..], "a console socket is needed"),
        (true, &["restore", "-d", "--console-socket", "sock"], "connect to console socket"),
        (false, &["restore", "-d", "--console-socket", "sock"], "process.terminal is not true"),
    ] {
        bundle.spec["process"]["terminal"] = json!(terminal);
        let done = testkit::attempt(bundle.pea(words).arg(&bundle.id));
        assert!(!done.status.success() && stderr(&done).contains(phrase), "{done:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn earlier_images_must_be_there_and_movable() {
    let bundle = Bundle::running();
    for (parent, phrase) in [("/tmp", "must be relative"), ("./no-such", "is no directory")] {
        let done = testkit::attempt(&mut bundle.pea(&["checkpoint", "--parent-path", parent, &bundle.id]));
        assert!(stderr(&done).contains("--parent-path"), "{}", stderr(&done));
        assert!(stderr(&done).contains(phrase), "{}", stderr(&done));
    }
    assert_eq!(bundle.status(), "running");
}

#[test]
fn a_container_comes_back_from_its_images() {
    let Some(criu) = criu() else { return };
    let mut bundle = Bundle::shell("n=0; while :; do n=$((n + 1)); echo $n > /dev/shm/n; sleep 0.05; done");
    let bind = json!({"destination": "/mnt", "source": bundle.path(), "options": ["rbind", "ro"]});
    fs::create_dir(bundle.rootfs().join("mnt")).unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().push(bind);
    let null = || fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let errors = || fs::File::create(bundle.path().join("errors")).unwrap();
    let run = |mut command: Command| {
        let status = command.stdin(Stdio::null()).stdout(null()).stderr(errors()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(bundle.path().join("errors")).unwrap());
    };
    let mut start = bundle.pea(&["run", "--detach", &bundle.id]);
    assert!(start.stdin(Stdio::null()).stdout(null()).stderr(null()).status().unwrap().success());
    let count = || bundle.exec(&["cat", "/dev/shm/n"]).trim().parse::<u32>().unwrap_or(0);
    wait("the program to count", || count() > 3);
    let images = ["--image-path", "images", "--work-path", "work"];
    let pea = |verb: &[&str]| bundle.pea(&[&["--criu", &criu], verb, &images[..], &[&bundle.id]].concat());
    testkit::run(&mut pea(&["checkpoint", "--leave-running"]));
    assert_eq!(bundle.status(), "running");
    testkit::run(&mut pea(&["checkpoint"]));
    bundle.assert_nothing_left();

    run(pea(&["restore", "-no-subreaper", "--detach", "--pid-file", "init.pid"]));
    assert_eq!(bundle.status(), "running");
    assert_eq!(fs::read_to_string(bundle.path().join("init.pid")).unwrap(), bundle.pid().to_string());
    let before = count();
    assert!(before > 3, "it goes on where it was: {before}");
    wait("the program to count on", || count() > before);
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

/// Starts a container that is to be dumped, with no standard streams of ours.
fn start(bundle: &Bundle, words: &[&str]) {
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut run = bundle.pea(&[&["run", "--detach"], words, &[&bundle.id]].concat());
    assert!(run.stdin(null()).stdout(null()).stderr(null()).status().unwrap().success());
}

/// `pea --criu CRIU VERB ... ID`, on images beside the bundle.
fn pea(bundle: &Bundle, criu: &str, verb: &[&str]) -> Command {
    let images = ["--image-path", "images", "--work-path", "work"];
    bundle.pea(&[&["--criu", criu], verb, &images[..], &[&bundle.id]].concat())
}

/// A restore whose streams are not ours to wait for; what it says if it fails.
fn restore(bundle: &Bundle, criu: &str, words: &[&str]) -> Result<(), String> {
    let errors = bundle.path().join("errors");
    let mut restore = pea(bundle, criu, &[&["restore", "--detach"], words].concat());
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let status = restore.stdin(null()).stdout(null()).stderr(File::create(&errors).unwrap()).status().unwrap();
    if status.success() { Ok(()) } else { Err(fs::read_to_string(errors).unwrap()) }
}

#[test]
fn a_container_with_a_terminal_comes_back_with_a_new_one() {
    let Some(criu) = criu() else { return };
    let mut bundle = Bundle::shell("n=0; while read word; do n=$((n + 1)); echo $n:$word:$(stty size); done");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 25, "width": 80});
    let socket = bundle.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = ["--console-socket", socket.to_str().unwrap()];
    // What is typed is echoed by the terminal, and comes once more from the container.
    let say = |terminal: &mut File, word: &str, answer: &str| {
        writeln!(terminal, "{word}").unwrap();
        let mut text = String::new();
        let mut buffer = [0; 256];
        while !text.ends_with(&format!("{answer}\r\n")) {
            let length = terminal.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            assert!(text.len() < 256, "{text}");
        }
    };
    start(&bundle, &socket);
    let mut before = File::from(receive(&listener));
    say(&mut before, "one", "1:one:25 80");
    testkit::run(&mut pea(&bundle, &criu, &["checkpoint"]));
    bundle.assert_nothing_left();
    drop(before);
    restore(&bundle, &criu, &socket).unwrap();
    let mut after = File::from(receive(&listener));
    say(&mut after, "two", "2:two:25 80");
    testkit::run(&mut pea(&bundle, &criu, &["checkpoint"]));
    drop(after);
    // In the foreground of a terminal it is served there, until its input ends.
    let foreground = pea(&bundle, &criu, &["restore"]);
    let words = [foreground.get_program()].into_iter().chain(foreground.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(bundle.path()).env("SHELL", "/bin/sh");
    // Before, for making the command writes the configuration, which is being read then.
    let mut state = bundle.pea(&["state", &bundle.id]);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let restored = || {
        let state = testkit::attempt(&mut state);
        stdout(&state).contains("\"running\"") || script.try_wait().unwrap().is_some()
    };
    wait("it to be restored", restored);
    // What ended it, if it has, is in what it said.
    let _ = script.stdin.take().unwrap().write_all(b"three\n\x04");
    let done = script.wait_with_output().unwrap();
    assert!(done.status.success() && stdout(&done).contains("3:three:"), "{done:?}");
    bundle.assert_nothing_left();
}

#[test]
fn what_had_no_terminal_is_not_restored_with_one() {
    let Some(criu) = criu() else { return };
    let mut bundle = Bundle::idle();
    start(&bundle, &[]);
    testkit::run(&mut pea(&bundle, &criu, &["checkpoint"]));
    bundle.spec["process"]["terminal"] = json!(true);
    let socket = bundle.path().join("console");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let refused = restore(&bundle, &criu, &["--console-socket", socket.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("of a container without one") && refused.contains("images"), "{refused}");
    bundle.assert_nothing_left();
}

#[test]
fn a_criu_that_leaves_cgroups_alone_leaves_the_container_in_its_own() {
    let Some(criu) = criu() else { return };
    let bundle = Bundle::idle();
    start(&bundle, &[]);
    testkit::run(&mut pea(&bundle, &criu, &["checkpoint", "--manage-cgroups-mode", "ignore"]));
    restore(&bundle, &criu, &["--manage-cgroups-mode", "ignore"]).unwrap();
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(cgroups.contains(&bundle.id), "{cgroups}");
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn criu_ends_with_who_has_called_it() {
    let bundle = Bundle::idle();
    let fake = bundle.path().join("criu");
    let pid_file = bundle.path().join("criu.pid");
    fs::write(&fake, format!("#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}; exec sleep 60\n", pid_file.display()))
        .unwrap();
    testkit::run(Command::new("chmod").arg("755").arg(&fake));
    fs::create_dir(bundle.path().join("checkpoint")).unwrap();
    // Not by way of `timeout`, which could not be killed in its place. The configuration is written first.
    let _ = bundle.pea(&[]);
    let mut pea = Command::new(testkit::binary("pea"));
    pea.arg("--root").arg(bundle.state_root()).arg("--criu").arg(&fake).args(["restore", "-d", &bundle.id]);
    let mut restoring = pea.current_dir(bundle.path()).spawn().unwrap();
    wait("criu to be called", || pid_file.exists());
    let criu: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    restoring.kill().unwrap();
    restoring.wait().unwrap();
    let ended = || fs::read_to_string(format!("/proc/{criu}/stat")).map_or(true, |stat| stat.contains(") Z "));
    wait("criu to end", ended);
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

/// The descriptor that comes over a console socket.
#[allow(unsafe_code)]
fn receive(listener: &std::os::unix::net::UnixListener) -> std::os::fd::OwnedFd {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let (stream, _) = listener.accept().unwrap();
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut name = [0; 256];
    let mut data = [std::io::IoSliceMut::new(&mut name)];
    let flags = nix::sys::socket::MsgFlags::empty();
    let message = nix::sys::socket::recvmsg::<()>(stream.as_raw_fd(), &mut data, Some(&mut space), flags).unwrap();
    let control = message.cmsgs().unwrap().next().expect("a descriptor");
    let nix::sys::socket::ControlMessageOwned::ScmRights(fds) = control else { panic!("{control:?}") };
    // SAFETY: the kernel made it for this message.
    unsafe { OwnedFd::from_raw_fd(fds[0]) }
}

#[test]
fn hooks_that_have_to_do_with_namespaces_run_when_a_container_is_restored() {
    let Some(criu) = criu() else { return };
    let mut bundle = Bundle::idle();
    let told = bundle.path().join("told");
    let hook = |kind: &str| {
        // The state, then the namespaces of this hook and of the container's init.
        let script = format!(
            "state=$(cat); pid=$(echo $state | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
             echo {kind} $state $(readlink /proc/self/ns/mnt /proc/self/ns/net /proc/$pid/ns/net) >> {}",
            told.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    start(&bundle, &[]);
    testkit::run(&mut pea(&bundle, &criu, &["checkpoint"]));
    // Those of a new program may not even be possible any more.
    bundle.spec["hooks"] = kinds.iter().map(|kind| ((*kind).to_owned(), hook(kind))).collect();
    restore(&bundle, &criu, &[]).unwrap();
    let pid = bundle.pid();
    let link =
        |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap().display().to_string();
    let text = fs::read_to_string(&told).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let seen = [link("thread-self", "mnt"), link("thread-self", "net"), link(&pid.to_string(), "net")].join(" ");
    for (line, kind) in lines.iter().zip(kinds) {
        assert!(line.starts_with(&format!("{kind} ")) && line.ends_with(&seen), "{line}: {seen}");
        assert!(line.contains("\"status\":\"creating\"") && line.contains(&format!("\"pid\":{pid},")), "{line}");
    }
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    assert!(fs::read_to_string(&told).unwrap().lines().last().unwrap().starts_with("poststop "));
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    let refused = restore(&bundle, &criu, &[]).unwrap_err();
    assert!(refused.contains("createRuntime hook failed with exit code 1: /bin/false"), "{refused}");
    assert!(!refused.contains("criu restore failed"), "one failure is one message: {refused}");
    bundle.assert_nothing_left();
}

#[test]
fn a_criu_that_is_killed_ends_the_restore_and_leaves_nothing() {
    let Some(criu) = criu() else { return };
    let mut bundle = Bundle::idle();
    start(&bundle, &[]);
    testkit::run(&mut pea(&bundle, &criu, &["checkpoint"]));
    // The init, which it has half-made, has its socket.
    let script = "init=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); for child in $(cat /proc/$PPID/task/$PPID/children); do \
                  case $child in $$ | $init) ;; *) kill -9 $child ;; esac; done";
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let failed = restore(&bundle, &criu, &[]).unwrap_err();
    assert!(failed.contains("criu restore failed"), "{failed}");
    bundle.assert_nothing_left();
}
