//! A container cannot reach the runtime's own binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::{Bundle, wait};
use serde_json::json;

/// In the container, whose process 1 is the init and has not executed the program yet: keeps the file that it runs from,
/// and tries to open it for writing once nobody executes it any more (until then the kernel refuses anyway).
const HOOK: &str = "exec 3</proc/1/exe; (until test -e /go; do :; done; : >>/proc/self/fd/3) 2>/said.new && echo opened \
                    >>/said.new; mv /said.new /said";

#[test]
fn the_init_runs_from_a_file_that_cannot_be_written() {
    let mut bundle = Bundle::idle();
    // A copy of its own: the other tests execute the same binary all the time.
    let own = bundle.path().join("pea");
    fs::copy(testkit::binary("pea"), &own).unwrap();
    let script = format!("({HOOK}) >/dev/null 2>&1 </dev/null &");
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
    assert!(said.trim().ends_with("Read-only file system"), "{said}");
}
