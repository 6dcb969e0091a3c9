//! What is said when it does not work, and that nothing is left then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::process::Command;

use common::{Bundle, stderr, stdout};
use serde_json::{Value, json};

/// `pea create` must fail, with each of the phrases in its one line.
fn fails(bundle: &Bundle, phrases: &[&str]) {
    let done = testkit::attempt(&mut bundle.pea(&["create", &bundle.id]));
    let text = stderr(&done);
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for phrase in phrases {
        assert!(text.contains(phrase), "{phrase:?} is not in: {text}");
    }
    bundle.assert_nothing_left();
}

#[test]
fn a_missing_program_is_named() {
    fails(&Bundle::new(&["no-such-program"]), &["\"no-such-program\"", "executable file not found in $PATH"]);
    fails(&Bundle::new(&["/bin/no-such"]), &["/bin/no-such", "no such file or directory"]);
    fails(&Bundle::new(&["/etc/passwd"]), &["/etc/passwd", "permission denied"]);
}

#[test]
fn a_file_that_is_no_program_fails_the_start() {
    let bundle = Bundle::new(&["/bin/data"]);
    fs::write(bundle.rootfs().join("bin/data"), [0x7f, 1, 2, 3]).unwrap();
    testkit::run(Command::new("chmod").arg("755").arg(bundle.rootfs().join("bin/data")));
    let done = bundle.run();
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).contains("/bin/data\": exec format error"), "{}", stderr(&done));
    bundle.assert_nothing_left();
}

#[test]
fn a_missing_bundle_is_named() {
    let bundle = Bundle::idle();
    let done = testkit::attempt(&mut bundle.pea(&["create", "--bundle", "/no/such/bundle", &bundle.id]));
    assert!(stderr(&done).contains("/no/such/bundle: no such file or directory"), "{}", stderr(&done));
    fs::create_dir(bundle.path().join("empty")).unwrap();
    let done = testkit::attempt(&mut bundle.pea(&["create", "--bundle", "empty", &bundle.id]));
    assert!(stderr(&done).contains("empty/config.json: no such file or directory"), "{}", stderr(&done));
    bundle.assert_nothing_left();
}

#[test]
fn a_broken_configuration_is_refused_with_the_place() {
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["cwd"] = json!("relative");
    fails(&bundle, &["process.cwd", "relative"]);
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["user"] = json!({"uid": u32::MAX});
    fails(&bundle, &["process.user", "4294967295"]);
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["args"] = json!([]);
    fails(&bundle, &["process.args"]);
    let mut bundle = Bundle::idle();
    bundle.spec["ociVersion"] = json!("2.0.0");
    fails(&bundle, &["ociVersion"]);
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["namespaces"] = json!([{"type": "pid"}]);
    fails(&bundle, &["hostname: needs a namespace of type \"uts\""]);
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["cgroupsPath"] = json!("/");
    fails(&bundle, &["cgroupsPath"]);
    let mut bundle = Bundle::idle();
    bundle.spec["root"]["path"] = json!("no-rootfs");
    fails(&bundle, &["no-rootfs", "no such file or directory"]);
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["terminal"] = json!(true);
    fails(&bundle, &["console socket"]);
}

#[test]
fn a_value_of_a_wrong_type_is_named_by_its_key() {
    for (pointer, value, place) in [
        ("/process/oomScoreAdj", json!("x"), "config.json: process.oomScoreAdj: invalid type"),
        ("/process/user", json!({"uid": -1}), "config.json: process.user.uid: invalid value"),
        ("/mounts/1", json!({"type": "tmpfs"}), "config.json: mounts[1]: missing field `destination`"),
        ("/linux/namespaces/0/type", json!("no"), "config.json: linux.namespaces[0].type: unknown variant `no`"),
        ("/linux/resources", json!({"memory": {"limit": 1e30}}), "linux.resources.memory.limit: invalid type"),
    ] {
        let mut bundle = Bundle::idle();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        let above = bundle.spec.pointer_mut(above).unwrap();
        match key.parse::<usize>() {
            Ok(index) => above[index] = value,
            Err(_) => above[key] = value,
        }
        fails(&bundle, &[place]);
    }
    let bundle = Bundle::running();
    fs::write(bundle.path().join("resources"), r#"{"cpu": {"shares": "x"}}"#).unwrap();
    let done = testkit::attempt(&mut bundle.pea(&["update", "--resources", "resources", &bundle.id]));
    assert!(stderr(&done).contains("resources of resources: cpu.shares: invalid type"), "{}", stderr(&done));
}

#[test]
fn the_machines_own_devices_are_not_made_anew() {
    let mut bundle = Bundle::idle();
    bundle.spec["root"]["path"] = json!("/");
    bundle.spec["mounts"] = json!([]);
    fails(&bundle, &["root.path", "own root"]);
}

#[test]
fn what_is_not_json_is_refused_with_its_line() {
    let bundle = Bundle::idle();
    let mut create = bundle.pea(&["create", &bundle.id]);
    fs::write(bundle.path().join("config.json"), "{\n\"ociVersion\": oops\n}").unwrap();
    let text = stderr(&testkit::attempt(&mut create));
    assert!(text.contains("config.json: not JSON") && text.contains("line 2"), "{text}");
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    let mut bundle = Bundle::idle();
    let mount = json!({"destination": "/x", "source": "/no/such/source", "type": "bind", "options": ["bind"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    fails(&bundle, &["mounts[7] /x", "/no/such/source", "no such file"]);
    let mount = json!({"destination": "/tmp", "source": "x", "type": "no-such-type"});
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    fails(&bundle, &["no-such-type", "no such device"]);
}

#[test]
fn an_id_cannot_be_a_path() {
    let bundle = Bundle::idle();
    for id in ["../evil", "", ".", "..", "a/b", "@x", "a b", ".hidden"] {
        let done = testkit::attempt(&mut bundle.pea(&["create", "--", id]));
        assert!(stderr(&done).contains("invalid container ID"), "{id:?}: {}", stderr(&done));
    }
}

#[test]
fn two_domain_names_are_refused() {
    let mut bundle = Bundle::idle();
    bundle.spec["domainname"] = json!("one");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.domainname": "two"});
    fails(&bundle, &["domainname", "\"one\"", "\"two\""]);
    bundle.spec["linux"]["sysctl"] = json!({"kernel.domainname": "one"});
    bundle.spec["process"]["args"] = json!(["cat", "/proc/sys/kernel/domainname"]);
    assert_eq!(bundle.output(), "one");
}

#[test]
fn a_capability_nobody_knows_is_a_warning() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_NONE"], "effective": ["CAP_NONE"]});
    let done = testkit::attempt(&mut bundle.pea(&["run", &bundle.id]));
    assert_eq!(stderr(&done), "pea: warning: ignoring unknown or unavailable capabilities: [CAP_NONE]");
    assert!(done.status.success());
}

#[test]
fn a_capability_that_cannot_be_given_is_a_warning() {
    let mut bundle = Bundle::new(&["grep", "-E", "Cap(Inh|Prm|Bnd)", "/proc/self/status"]);
    let both = json!(["CAP_KILL", "CAP_SYS_BOOT"]);
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": both, "effective": both, "permitted": both, "inheritable": both});
    let pea = bundle.pea(&["run", &bundle.id]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_boot"]).arg(pea.get_program()).args(pea.get_args());
    let done = testkit::attempt(command.current_dir(bundle.path()));
    assert_eq!(stderr(&done), "pea: warning: ignoring unknown or unavailable capabilities: [CAP_SYS_BOOT]");
    let kill = "0000000000000020";
    assert_eq!(stdout(&done).trim(), format!("CapInh:\t{kill}\nCapPrm:\t{kill}\nCapBnd:\t{kill}"));
}

#[test]
fn the_log_gets_one_object_that_engines_understand() {
    let bundle = Bundle::new(&["no-such-program"]);
    let arguments = ["--log", "log.json", "--log-format", "json", "create", &bundle.id];
    assert!(!testkit::attempt(&mut bundle.pea(&arguments)).status.success());
    assert!(!testkit::attempt(&mut bundle.pea(&arguments)).status.success());
    let log = fs::read_to_string(bundle.path().join("log.json")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "one a failure, appended: {log}");
    assert_eq!(lines[0]["level"], json!("error"));
    assert!(lines[0]["msg"].as_str().unwrap().contains("executable file not found in $PATH"));
    let time = lines[0]["time"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
}
