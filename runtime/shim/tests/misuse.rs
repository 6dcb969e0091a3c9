//! The binary in the hands of a person.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

fn shim(arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = testkit::attempt(Command::new(testkit::binary("containerd-shim-pea-v2")).args(arguments));
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), words(&done.stdout), words(&done.stderr))
}

#[test]
fn no_arguments_are_answered_with_one_message_that_says_what_there_is() {
    let (code, stdout, stderr) = shim(&[]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("containerd-shim-pea-v2: nothing to do\n"), "{stderr}");
    assert!(stderr.contains("start") && stderr.contains("delete"), "{stderr}");
}

#[test]
fn an_unknown_argument_is_named() {
    let (code, _, stderr) = shim(&["--frobnicate"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("--frobnicate"), "{stderr}");
}

#[test]
fn the_version_is_told_on_stdout() {
    let (code, stdout, _) = shim(&["-v"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains(env!("CARGO_PKG_VERSION")), "{stdout}");
}
