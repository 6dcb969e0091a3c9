//! What the root-run tests of every crate share: a node to stand on, a root
//! file system to run, and the binaries under test.
//!
//! Everything made here goes away with the value that stands for it; nothing is
//! registered under `/run/netns` or anywhere else a crash could leave it.

#![allow(clippy::expect_used, clippy::panic)] // a test's helper fails by failing the test

pub mod measure;
pub mod mutation;
pub mod trace;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread into a fresh network namespace that plays the node:
/// `lo` up, forwarding off, no bridge, no rules.
///
/// Children the thread starts from now on live there too. The namespace has no
/// name, so it is gone with the last process or thread inside it: a failing test
/// leaves nothing behind. `cargo test` runs every test on a thread of its own.
pub fn enter_node() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the test (are you root?)");
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
}

/// A scratch directory under `/tmp`, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("peapod-test-").tempdir().expect("a scratch directory")
}

/// The directory holding the binaries under test.
///
/// `PEAPOD_BIN_DIR` names it; otherwise it is the one this test was built into.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("PEAPOD_BIN_DIR") {
        return dir.into();
    }
    // target/<profile>/deps/<test> -> target/<profile>
    let exe = std::env::current_exe().expect("the path of this test");
    exe.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_path_buf()
}

/// The path of one binary under test; fails when it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// The project's `testdata/` directory, or a file in it.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// Copies a program that is to be executed, in a process of its own: a fork of another test in this process would hold
/// the copy open for writing for a moment, and keep it from being executed (`ETXTBSY`).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    run(Command::new("cp").arg(from.as_ref()).arg(to.as_ref()));
}

/// Fills `dir` with a root file system made of Debian's static busybox: every
/// applet as a link in `/bin`, and the directories a container expects.
pub fn busybox_rootfs(dir: &Path) {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "var", "run"] {
        fs::create_dir_all(dir.join(name)).expect("a directory of the root file system");
    }
    let busybox = Path::new("/bin/busybox");
    let target = dir.join("bin/busybox");
    copy_program(busybox, &target);
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).expect("busybox's mode");
    for applet in output(Command::new(busybox).arg("--list")).lines() {
        if applet != "busybox" {
            symlink("busybox", dir.join("bin").join(applet)).expect("an applet's link");
        }
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
        .expect("/etc/passwd");
    fs::write(dir.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("/etc/group");
}

/// Says that a test, or a part of one, is skipped, and why. To be seen even when the test passes, so past the
/// harness, which keeps what a passing test prints to itself.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "\nskipped: {why}");
}

/// Runs a command that must succeed; its failure is the test's.
pub fn run(command: &mut Command) {
    output(command);
}

/// Runs a command that must succeed and returns what it printed, trimmed.
pub fn output(command: &mut Command) -> String {
    let done = attempt(command);
    assert!(
        done.status.success(),
        "{command:?} ended with {}\nstdout: {}\nstderr: {}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Runs a command and returns how it ended, whatever that was.
pub fn attempt(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}
