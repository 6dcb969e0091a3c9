//! checkpoint and restore, by means of CRIU where it works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{Bundle, stderr, wait};

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
fn a_terminal_cannot_be_restored_and_that_is_said_before_anything_is_done() {
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["terminal"] = serde_json::json!(true);
    for words in [&["restore", "-d"][..], &["restore", "-d", "--console-socket", "sock"]] {
        let done = testkit::attempt(bundle.pea(words).arg(&bundle.id));
        assert!(stderr(&done).contains("a container with a terminal cannot be restored"), "{done:?}");
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
    let bind = serde_json::json!({"destination": "/mnt", "source": bundle.path(), "options": ["rbind", "ro"]});
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
