//! A container cannot reach the runtime's own binary, nor the machine through what the runtime holds open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::{Bundle, wait};
use serde_json::json;

/// Tries to open descriptor 3 for writing, once nobody executes that file any more (until then the kernel refuses anyway).
const ATTEMPT: &str = "until test -e /go; do :; done; \
                    until (: >>/proc/self/fd/3) 2>/said.new && echo opened >>/said.new || ! grep -q busy /said.new; \
                    do :; done; mv /said.new /said";

#[test]
fn the_init_runs_from_a_file_that_cannot_be_written() {
    let mut bundle = Bundle::idle();
    // A copy of its own: the other tests execute the same binary all the time.
    let own = bundle.path().join("pea");
    testkit::copy_program(testkit::binary("pea"), &own);
    // In the container, whose process 1 is the init and has not executed the program yet: what keeps the file that it
    // runs from is the hook itself, for whom the init waits.
    let script = format!("exec 3</proc/1/exe; ({ATTEMPT}) >/dev/null 2>&1 </dev/null &");
    bundle.spec["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    // With this capability the init is open to the hook, as to any process of a privileged container.
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        bundle.spec["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
    }
    bundle.spec["root"]["readonly"] = json!(false);
    for verb in ["create", "start"] {
        let arguments: Vec<_> =
            bundle.pea(&[verb, &bundle.id]).get_args().skip(4).map(|word| word.to_owned()).collect();
        let mut pea = Command::new(&own);
        pea.args(arguments).current_dir(bundle.path()).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(pea.status().unwrap().success());
    }
    File::create(bundle.rootfs().join("go")).unwrap();
    let said = bundle.rootfs().join("said");
    wait("the attempt", || said.exists());
    let said = fs::read_to_string(said).unwrap();
    if said.trim().ends_with("Text file busy") {
        testkit::skip("this kernel takes a file for executed that nobody executes any more (user-mode Linux does)");
        return;
    }
    assert!(said.trim().ends_with("Read-only file system"), "{said}");
}

/// Whatever number the runtime's descriptors of the machine have while a process is set up, no path leads through them.
#[test]
fn no_path_leads_through_the_runtimes_descriptors() {
    let mut bundle = Bundle::running();
    let rootfs = bundle.rootfs();
    let rootfs = rootfs.to_str().unwrap();
    let path = bundle.path().to_owned();
    testkit::copy_program(rootfs.to_owned() + "/bin/busybox", path.join("cat"));
    fs::write(path.join("secret"), "secret").unwrap();
    let numbers = 3..12;
    for number in numbers.clone() {
        // From the machine's /proc to its root. The directory is the container's own, but on the machine's mount.
        let cwd = format!("/proc/self/fd/{number}/..{rootfs}/etc");
        let said = testkit::attempt(&mut bundle.pea(&["exec", "--cwd", &cwd, &bundle.id, "cat", "../../secret"]));
        assert!(!said.status.success() && said.stdout.is_empty(), "{cwd}: {said:?}");
        let program = format!("/proc/self/fd/{number}/..{}/cat", path.display());
        let said = testkit::attempt(&mut bundle.pea(&["exec", &bundle.id, &program, "/etc/passwd"]));
        assert!(!said.status.success() && said.stdout.is_empty(), "{program}: {said:?}");
    }
    testkit::run(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    bundle.spec["root"]["readonly"] = json!(false);
    bundle.spec["process"]["args"] = json!(["cat", "../../secret"]);
    for number in numbers {
        for (start, dir) in [("", path.join("made")), ("/..", path.join("made")), ("/..", path.join("rootfs/etc"))] {
            bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}{start}{}", dir.display()));
            let said = bundle.run();
            assert!(!said.status.success() && said.stdout.is_empty(), "{}: {said:?}", bundle.spec["process"]["cwd"]);
            assert!(!path.join("made").exists(), "{}", bundle.spec["process"]["cwd"]);
        }
    }
}
