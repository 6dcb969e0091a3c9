//! AppArmor profiles, where the kernel has them enabled (as in the machine of `scripts/vm`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::Command;

use common::{Bundle, stderr};
use serde_json::json;

/// A profile that is loaded as long as this lives: all is allowed but to read `/etc/secret`.
struct Profile {
    bundle: Bundle,
    name: String,
}

impl Profile {
    /// With a bundle whose container runs under it; `None` where there is no AppArmor.
    fn load() -> Option<Self> {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
        if !enabled || Command::new("apparmor_parser").arg("--version").output().is_err() {
            testkit::skip("AppArmor is not enabled, or apparmor_parser (Debian package apparmor) not installed");
            return None;
        }
        let mut bundle = Bundle::idle();
        fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
        let name = format!("pea-{}", bundle.id);
        bundle.spec["process"]["apparmorProfile"] = json!(name);
        let flags = "flags=(attach_disconnected,mediate_deleted)";
        let rules = "file, capability, network, signal, unix, deny /etc/secret r,";
        let text = format!("profile \"{name}\" {flags} {{ {} }}\n", rules.replace(", ", ",\n"));
        fs::write(bundle.path().join("profile"), text).unwrap();
        let profile = Self { bundle, name };
        testkit::run(&mut profile.parser("--replace"));
        Some(profile)
    }

    fn parser(&self, what: &str) -> Command {
        let mut parser = Command::new("apparmor_parser");
        parser.args([what, "--skip-cache"]).arg(self.bundle.path().join("profile"));
        parser
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = testkit::attempt(&mut self.bundle.pea(&["delete", "--force", &self.bundle.id]));
        let _ = testkit::attempt(&mut self.parser("--remove"));
    }
}

const TELL: [&str; 3] = ["sh", "-c", "cat /proc/self/attr/current; cat /etc/secret 2>&1 || true"];

#[test]
fn the_profile_confines_the_first_process_and_those_executed_later() {
    let Some(mut profile) = Profile::load() else { return };
    let confined = format!("{} (enforce)\ncat: can't open '/etc/secret': Permission denied", profile.name);
    let idle = profile.bundle.spec["process"]["args"].clone();
    profile.bundle.spec["process"]["args"] = json!(TELL);
    assert_eq!(profile.bundle.output(), confined);
    profile.bundle.spec["process"]["args"] = idle;
    profile.bundle.start_up();
    assert_eq!(profile.bundle.exec(&TELL), confined);
    let process = json!({"args": TELL, "cwd": "/", "user": {}, "env": ["PATH=/bin"]});
    fs::write(profile.bundle.path().join("process.json"), process.to_string()).unwrap();
    let words = ["exec", "--process", "process.json", &profile.bundle.id];
    assert_eq!(testkit::output(&mut profile.bundle.pea(&words)), confined);
}

/// The machine's, which no mount of the container's can be in the way of.
#[test]
fn the_profile_is_set_through_the_machines_procfs() {
    let Some(mut profile) = Profile::load() else { return };
    let trap = profile.bundle.path().join("trap");
    fs::create_dir_all(trap.join("self/attr/apparmor")).unwrap();
    for file in ["self/attr/exec", "self/attr/apparmor/exec"] {
        fs::write(trap.join(file), "").unwrap();
    }
    // What the container has for its procfs is a directory of somebody else's.
    profile.bundle.spec["mounts"][0] = json!({"destination": "/proc", "source": trap, "options": ["bind"]});
    profile.bundle.spec["linux"]["readonlyPaths"] = json!([]);
    profile.bundle.spec["process"]["args"] = json!(["cat", "/etc/secret"]);
    let done = profile.bundle.run();
    assert!(stderr(&done).contains("Permission denied"), "{done:?}");
    assert_eq!(fs::read_to_string(trap.join("self/attr/exec")).unwrap(), "");
}

#[test]
fn a_profile_that_is_not_loaded_is_named() {
    let Some(mut profile) = Profile::load() else { return };
    profile.bundle.spec["process"]["apparmorProfile"] = json!("no-such-profile");
    let said = stderr(&profile.bundle.run());
    assert!(said.contains("no-such-profile") && said.lines().count() == 1, "{said}");
    profile.bundle.assert_nothing_left();
}
