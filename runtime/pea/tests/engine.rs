//! How a container comes into being: namespaces, hooks, what its init holds, and what a failure leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{Bundle, stderr, stdout};
use serde_json::{Value, json};

fn add_namespace(bundle: &mut Bundle, kind: &str) {
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": kind}));
}

fn map_ids(bundle: &mut Bundle) {
    add_namespace(bundle, "user");
    let maps = json!([
        {"containerID": 0, "hostID": 100_000, "size": 1000},
        {"containerID": 1000, "hostID": 300_000, "size": 10},
    ]);
    bundle.spec["linux"]["uidMappings"] = maps.clone();
    bundle.spec["linux"]["gidMappings"] = maps;
}

/// `pea create` must fail with all of the phrases, and leave nothing.
fn refused(bundle: &Bundle, phrases: &[&str]) {
    let done = testkit::attempt(&mut bundle.pea(&["create", &bundle.id]));
    let text = stderr(&done);
    assert!(!done.status.success() && text.lines().count() == 1, "{text}");
    for phrase in phrases {
        assert!(text.contains(phrase), "{phrase:?} is not in: {text}");
    }
    bundle.assert_nothing_left();
}

#[test]
fn a_user_namespace_has_its_maps_and_the_user_is_who_he_is_mapped_to() {
    let mut bundle = Bundle::shell("cat /proc/self/uid_map /proc/self/gid_map; id -u; echo mine > /own/file");
    map_ids(&mut bundle);
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1001});
    let own = bundle.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::create_dir(bundle.rootfs().join("own")).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
    let mount = json!({"destination": "/own", "source": own, "type": "bind", "options": ["rbind"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    let text = bundle.output();
    let fields: Vec<&str> = text.split_whitespace().collect();
    let map = ["0", "100000", "1000", "1000", "300000", "10"];
    assert_eq!(fields, [&map[..], &map[..], &["1000"]].concat());
    let made = fs::metadata(own.join("file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (300_000, 300_001));
    bundle.assert_nothing_left();
}

#[test]
fn exec_enters_a_user_namespace_that_was_made() {
    let mut bundle = Bundle::idle();
    map_ids(&mut bundle);
    bundle.start_up();
    let pid = bundle.pid();
    let theirs = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(theirs, fs::read_link("/proc/self/ns/user").unwrap());
    assert_eq!(bundle.exec(&["readlink", "/proc/self/ns/user"]), theirs.to_string_lossy());
    assert_eq!(fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(), 100_000);
}

#[test]
fn ids_that_cannot_be_mapped_are_named() {
    let mut bundle = Bundle::idle();
    add_namespace(&mut bundle, "user");
    let map = |inside: u32| json!([{"containerID": inside, "hostID": 100_000, "size": 10}]);
    bundle.spec["linux"]["uidMappings"] = json!([map(0)[0], map(5)[0]]);
    bundle.spec["linux"]["gidMappings"] = map(0);
    refused(&bundle, &["uid_map", "0 100000 10, 5 100000 10", "invalid argument"]);
    bundle.spec["linux"]["uidMappings"] = map(7);
    refused(&bundle, &["become root", "is id 0 mapped?"]);
}

#[test]
fn the_clocks_of_a_time_namespace_are_set() {
    for user in [false, true] {
        let mut bundle = Bundle::shell("cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time");
        add_namespace(&mut bundle, "time");
        if user {
            map_ids(&mut bundle);
        }
        bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7_000_000, "nanosecs": 5}});
        let text = bundle.output();
        let (uptime, namespace) = text.split_once('\n').unwrap();
        let own = fs::read_to_string("/proc/uptime").unwrap();
        let own: f64 = own.split(' ').next().unwrap().parse().unwrap();
        let ahead = uptime.parse::<f64>().unwrap() - own;
        assert!((6_999_000.0..7_000_001.0).contains(&ahead), "{ahead}");
        assert_ne!(Path::new(namespace), fs::read_link("/proc/self/ns/time").unwrap());
        bundle.spec["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
        refused(&bundle, &["linux.timeOffsets", "\"realtime\""]);
    }
}

/// A hook that writes a line into `log`: its kind, its mount namespace, whether it sees the machine's root, its state.
fn hook(kind: &str, log: &Path) -> Value {
    let log = log.display();
    let script = format!(
        "test -e {log} && root=machine || root=container; \
         test $root = machine && to={log} || to=/log/log; \
         echo \"{kind} $(readlink /proc/self/ns/mnt) $root $(tr -d '\\n')\" >> $to"
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

#[test]
fn hooks_run_in_order_each_in_its_place_with_the_state() {
    let mut bundle = Bundle::shell("echo program >> /log/log");
    let dir = bundle.path().join("log");
    fs::create_dir(&dir).unwrap();
    let log = dir.join("log");
    fs::write(&log, "").unwrap();
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    bundle.spec["hooks"] = kinds.iter().map(|kind| ((*kind).to_owned(), hook(kind, &log))).collect();
    let mount = json!({"destination": "/log", "source": dir, "type": "bind", "options": ["bind"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    bundle.create();
    let init = bundle.pid();
    let inside = fs::read_link(format!("/proc/{init}/ns/mnt")).unwrap();
    testkit::run(&mut bundle.pea(&["start", &bundle.id]));
    bundle.wait_stopped();
    testkit::run(&mut bundle.pea(&["delete", &bundle.id]));
    let text = fs::read_to_string(&log).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7, "{text}");
    // The program and the poststart hook run beside each other.
    let program = lines.iter().position(|line| *line == "program").unwrap();
    assert!((4..=5).contains(&program), "{text}");
    lines.remove(program);
    let machine = fs::read_link("/proc/self/ns/mnt").unwrap();
    let expected = [
        ("prestart", &machine, "machine", "creating", init),
        ("createRuntime", &machine, "machine", "creating", init),
        ("createContainer", &inside, "machine", "creating", 1),
        ("startContainer", &inside, "container", "created", 1),
        ("poststart", &machine, "machine", "running", init),
        ("poststop", &machine, "machine", "stopped", 0),
    ];
    for (line, (kind, namespace, root, status, pid)) in lines.iter().zip(expected) {
        let mut fields = line.splitn(4, ' ');
        let mut field = || fields.next().unwrap();
        assert_eq!((field(), field(), field()), (kind, namespace.to_str().unwrap(), root), "{line}");
        let state: Value = serde_json::from_str(field()).expect(line);
        assert_eq!((&state["id"], &state["bundle"]), (&json!(bundle.id), &json!(bundle.path())), "{line}");
        assert_eq!(state["status"], json!(status), "{line}");
        // How fast the program ends is not known.
        if kind != "poststart" || state["pid"] != json!(0) {
            assert_eq!(state["pid"], json!(pid), "{line}");
        }
    }
    bundle.assert_nothing_left();
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_creation() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::idle();
        bundle.spec["hooks"] = json!({kind: [{"path": "/bin/true"}, {"path": "/bin/false"}]});
        refused(&bundle, &[&format!("{kind} hook failed with exit code 1: /bin/false")]);
        bundle.spec["hooks"] = json!({kind: [{"path": "/no/such/hook"}]});
        refused(&bundle, &[kind, "/no/such/hook", "no such file or directory"]);
        bundle.spec["hooks"] = json!({kind: [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
        refused(&bundle, &[kind, "/bin/sleep", "did not end within 1s"]);
    }
}

#[test]
fn a_poststart_hook_that_fails_takes_the_container_along() {
    let mut bundle = Bundle::idle();
    bundle.spec["hooks"] = json!({"poststart": [{"path": "/bin/false"}]});
    bundle.create();
    let done = testkit::attempt(&mut bundle.pea(&["start", &bundle.id]));
    assert!(stderr(&done).contains("poststart hook failed with exit code 1: /bin/false"), "{}", stderr(&done));
    bundle.assert_nothing_left();
}

#[test]
fn a_waiting_init_holds_nothing_of_the_machine_and_cannot_be_looked_into() {
    let mut bundle = Bundle::idle();
    map_ids(&mut bundle);
    bundle.create();
    let proc = format!("/proc/{}", bundle.pid());
    // Its standard error is ours.
    let own = fs::read_link("/proc/self/fd/2").unwrap().to_string_lossy().into_owned();
    let links: Vec<String> = fs::read_dir(format!("{proc}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned())
        .filter(|link| link != "/dev/null" && *link != own)
        .collect();
    // The gate, and nothing else.
    assert!(links.len() == 1 && links[0].starts_with("socket:"), "{links:?}");
    let root = fs::metadata(format!("{proc}/root")).unwrap();
    assert_eq!(root.ino(), fs::metadata(bundle.rootfs()).unwrap().ino());
    assert_eq!(fs::metadata(format!("{proc}/cwd")).unwrap().ino(), root.ino());
    // The files in /proc of a process that is not dumpable are root's, and not its user's.
    assert_eq!(fs::metadata(format!("{proc}/environ")).unwrap().uid(), 0);
}

#[test]
fn the_init_leads_a_session_of_its_own() {
    assert_eq!(Bundle::shell("cut -d' ' -f6 /proc/self/stat").output(), "1");
}

#[test]
fn the_loopback_device_of_a_new_network_is_up() {
    let bundle = Bundle::shell("ip link show lo | grep -c UP");
    assert_eq!(bundle.output(), "1");
}

#[test]
fn network_devices_move_in_with_their_addresses() {
    testkit::enter_node();
    let ip = |words: &str| testkit::attempt(Command::new("ip").args(words.split(' ')));
    if !ip("link add pea0 type veth peer name pea1").status.success() {
        return testkit::skip("no veth devices on this machine");
    }
    for words in
        ["addr add 10.9.8.7/24 brd 10.9.8.255 dev pea0", "addr add fd00::7/64 dev pea0 nodad", "link set pea0 up"]
    {
        assert!(ip(words).status.success(), "{words}");
    }
    let mut bundle = Bundle::shell("ip addr show net0");
    bundle.spec["linux"]["netDevices"] = json!({"pea0": {"name": "net0"}});
    let text = bundle.output();
    for phrase in ["10.9.8.7/24 brd 10.9.8.255", "fd00::7/64", ",UP"] {
        assert!(text.contains(phrase), "{phrase:?} is not in: {text}");
    }
    assert!(!ip("link show pea0").status.success(), "it is still here");
    bundle.spec["linux"]["netDevices"] = json!({"no-such-link": {}});
    refused(&bundle, &["linux.netDevices", "no-such-link", "no such device"]);
}

#[test]
fn a_name_that_a_sysctl_would_change_again_is_refused() {
    let mut bundle = Bundle::idle();
    bundle.spec["domainname"] = json!("one");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.domainname": "two"});
    refused(&bundle, &["domainname", "kernel.domainname"]);
}

#[test]
fn names_and_working_directory_are_set_in_a_read_only_root() {
    let mut bundle = Bundle::shell("hostname; cat /proc/sys/kernel/domainname; pwd; touch x 2>&1");
    bundle.spec["hostname"] = json!("pod");
    bundle.spec["domainname"] = json!("cluster");
    bundle.spec["process"]["cwd"] = json!("/made/for/it");
    let done = bundle.run();
    assert!(stdout(&done).starts_with("pod\ncluster\n/made/for/it\n"), "{}{}", stdout(&done), stderr(&done));
    assert!(stdout(&done).contains("Read-only file system"), "{}", stdout(&done));
}
