//! Devices a container may not open, on machines with the unified cgroup hierarchy alone.
//!
//! Where the machine has v1 controllers, such a layout is made in a private mount namespace: what is mounted there is
//! the same unified hierarchy, at another place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Output, Stdio};

use common::{Bundle, on_v2, stderr, stdout};
use serde_json::json;

/// `pea` on that bundle, where there is nothing but cgroup v2.
fn pea(bundle: &Bundle, arguments: &[&str]) -> Command {
    on_v2(&bundle.pea(arguments))
}

/// A device that anybody with its node may open, to whom opening does no harm: kind, major and minor number.
fn device() -> (&'static str, i64, i64) {
    let opens = |path: &&(&str, _)| fs::File::options().read(true).write(true).open(path.0).is_ok();
    let devices = [("/dev/fuse", ("c", 10, 229)), ("/dev/loop0", ("b", 7, 0)), ("/dev/hwrng", ("c", 10, 183))];
    devices.iter().find(opens).expect("a device to try").1
}

/// Whether the kernel was built without what is tested here. One that does not tell is taken to have it.
fn skipped() -> bool {
    let config =
        testkit::attempt(Command::new("sh").args(["-c", "zcat /proc/config.gz || cat /boot/config-$(uname -r)"]));
    let config = stdout(&config);
    let lacks = config.contains("CONFIG_CGROUPS=y") && !config.contains("CONFIG_CGROUP_BPF=y");
    if lacks {
        testkit::skip("the kernel lacks CONFIG_CGROUP_BPF");
    }
    lacks
}

/// A container that may make nodes, on a root file system where it can.
fn bundle(args: &[&str], rules: serde_json::Value) -> Bundle {
    let mut bundle = Bundle::new(args);
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
    }
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.spec["linux"]["resources"]["devices"] = rules;
    bundle
}

/// Makes a device's node, and tells whether it can be read and written without doing either.
fn script() -> String {
    let (kind, major, minor) = device();
    format!(
        "rm -f /device; mknod /device {kind} {major} {minor} && echo made; (: </device) && echo read; (: >>/device) && echo written; \
         echo x >/dev/null && head -c1 /dev/zero | wc -c"
    )
}

fn refusals(done: &Output) -> usize {
    stderr(done).matches("Operation not permitted").count()
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    if skipped() {
        return;
    }
    let script = script();
    for rules in [json!([{"allow": false, "access": "rwm"}]), json!([])] {
        let bundle = bundle(&["sh", "-c", &script], rules);
        let done = testkit::attempt(&mut pea(&bundle, &["run", &bundle.id]));
        assert_eq!((stdout(&done).as_str(), refusals(&done)), ("made\n1", 2), "{done:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_process_executed_later_is_bound_too() {
    if skipped() {
        return;
    }
    let bundle = bundle(&["sleep", "1000"], json!([{"allow": false, "access": "rwm"}]));
    // Its streams are the container's, who keeps them open.
    let created = pea(&bundle, &["create", &bundle.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(created.unwrap().success());
    testkit::run(&mut pea(&bundle, &["start", &bundle.id]));
    let done = testkit::attempt(&mut pea(&bundle, &["exec", "--cap", "CAP_MKNOD", &bundle.id, "sh", "-c", &script()]));
    assert_eq!((stdout(&done).as_str(), refusals(&done)), ("made\n1", 2), "{done:?}");
    testkit::run(&mut pea(&bundle, &["delete", "--force", &bundle.id]));
    bundle.assert_nothing_left();
}

#[test]
fn what_is_allowed_can_be_opened_as_far_as_it_is() {
    if skipped() {
        return;
    }
    let (kind, major, minor) = device();
    let read_only = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": kind, "major": major, "access": "rw"},
        {"allow": false, "type": kind, "major": major, "minor": minor, "access": "w"},
    ]);
    let bundle = bundle(&["sh", "-c", &script()], read_only);
    let done = testkit::attempt(&mut pea(&bundle, &["run", &bundle.id]));
    assert_eq!((stdout(&done).as_str(), refusals(&done)), ("made\nread\n1", 1), "{done:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_container_whose_devices_cannot_be_limited_is_not_made() {
    if skipped() {
        return;
    }
    if !testkit::attempt(Command::new("sh").args(["-c", "command -v strace"])).status.success() {
        testkit::skip("there is no strace to have bpf(2) fail");
        return;
    }
    let bundle = bundle(&["true"], json!([{"allow": false, "access": "rwm"}]));
    let pea = bundle.pea(&["run", &bundle.id]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=bpf", "-e", "inject=bpf:error=EPERM"]);
    command.arg(pea.get_program()).args(pea.get_args()).current_dir(bundle.path());
    let done = testkit::attempt(&mut on_v2(&command));
    assert_eq!(done.status.code(), Some(1));
    let text = stderr(&done);
    assert!(text.contains("by a BPF program: operation not permitted") && text.lines().count() == 1, "{text}");
    bundle.assert_nothing_left();
}

#[test]
fn without_rules_a_v1_controller_denies_as_well() {
    if common::unified() || !std::path::Path::new("/sys/fs/cgroup/devices").exists() {
        testkit::skip("this machine has no v1 devices controller");
        return;
    }
    for rules in [json!([]), json!([{"allow": true, "type": "a", "major": 4095, "access": "rw"}])] {
        let bundle = bundle(&["sh", "-c", &script()], rules);
        let done = bundle.run();
        assert_eq!((stdout(&done).as_str(), refusals(&done)), ("made\n1", 2), "{done:?}");
        bundle.assert_nothing_left();
    }
}
