//! Containers of all sorts, made and removed: whether they come up, fail half-way or are removed by force, the machine
//! is as it was before: its mounts, its cgroups, `/run`, the state root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Bundle, stderr};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use testkit::mutation::Random;

/// What a container could leave behind of this machine.
#[derive(Debug, Eq, PartialEq)]
struct Machine {
    mounts: BTreeSet<String>,
    run: BTreeSet<PathBuf>,
    cgroups: BTreeSet<PathBuf>,
}

impl Machine {
    /// This thread's mounts, exactly; of the rest only what has to do with this bundle, for others use it, too.
    fn read(bundle: &Bundle) -> Self {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("the mount table");
        let tree = |top: &str| {
            let mut found = BTreeSet::new();
            walk(Path::new(top), &mut found);
            found.retain(|path| path.to_string_lossy().contains(&bundle.id) || path.starts_with("/run/pea"));
            found
        };
        // A login that ends takes its directory away, and with it the mount there, in every mount namespace.
        let of_a_login = |line: &&str| line.split(' ').nth(4).is_some_and(|place| place.starts_with("/run/user/"));
        let mounts = table.lines().filter(|line| !of_a_login(line)).map(str::to_owned).collect();
        Self { mounts, run: tree("/run"), cgroups: tree("/sys/fs/cgroup") }
    }
}

/// Leaves this thread a mount table of its own, in which mounts spread as they would on the machine.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    testkit::run(Command::new("sh").args(["-c", "mount --make-rprivate / && mount --make-rshared /"]));
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

/// A part of a specification that is there or not, by chance.
type Part = fn(&mut Bundle, &mut Random);

fn list<'a>(bundle: &'a mut Bundle, pointer: &str) -> &'a mut Vec<Value> {
    bundle.spec.pointer_mut(pointer).expect(pointer).as_array_mut().expect(pointer)
}

fn namespaces(bundle: &mut Bundle, random: &mut Random) {
    list(bundle, "/linux/namespaces").retain(|each| {
        let kind = each["type"].as_str().expect("a type");
        // The names that are set need one; without a network namespace no sysfs can be mounted in a user namespace.
        ["mount", "uts", "network"].contains(&kind) || !random.once_in(4)
    });
    if random.once_in(3) {
        list(bundle, "/linux/namespaces").push(json!({"type": "time"}));
        bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100}});
    }
}

fn user(bundle: &mut Bundle, random: &mut Random) {
    if !random.once_in(3) {
        return;
    }
    list(bundle, "/linux/namespaces").retain(|each| ["mount", "time"].iter().any(|kind| each["type"] == *kind));
    for kind in ["user", "pid", "ipc", "uts", "network", "cgroup"] {
        list(bundle, "/linux/namespaces").push(json!({ "type": kind }));
    }
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.spec["linux"]["uidMappings"] = maps.clone();
    bundle.spec["linux"]["gidMappings"] = maps;
}

fn mounts(bundle: &mut Bundle, random: &mut Random) {
    let dir = bundle.path().join("source");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "content").unwrap();
    let all = [
        json!({"destination": "/m/bind", "source": dir, "type": "bind", "options": ["rbind", "ro"]}),
        json!({"destination": "/m/file", "source": dir.join("file"), "type": "bind", "options": ["bind"]}),
        json!({"destination": "/m/relative", "source": "source", "options": ["bind", "rro"]}),
        json!({"destination": "/m/shared", "source": dir, "options": ["rbind", "rshared"]}),
        json!({"destination": "/m/slave", "source": dir, "options": ["bind", "rslave", "nosuid", "noexec"]}),
        json!({"destination": "/m/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700"]}),
        json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
        json!({"destination": "/m/tmp2", "type": "tmpfs", "source": "tmpfs", "options": ["private", "nodev"]}),
        json!({"destination": "/m/bind/../below/x", "source": dir.join("sub"), "options": ["rbind"]}),
    ];
    // None twice: what is mounted on a shared mount spreads to the machine, as asked for, and stays there.
    list(bundle, "/mounts").extend(all.into_iter().filter(|_| random.once_in(2)));
}

fn devices(bundle: &mut Bundle, random: &mut Random) {
    let device =
        json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1, "gid": 2});
    let pipe = json!({"path": "/dev/deep/pipe", "type": "p"});
    bundle.spec["linux"]["devices"] = match random.below(3) {
        0 => json!([device]),
        1 => json!([device, pipe]),
        _ => json!([]),
    };
}

fn protection(bundle: &mut Bundle, random: &mut Random) {
    bundle.spec["root"]["readonly"] = json!(random.once_in(2));
    if random.once_in(2) {
        list(bundle, "/linux/maskedPaths").extend([json!("/etc/passwd"), json!("/var"), json!("/not/there")]);
        list(bundle, "/linux/readonlyPaths").extend([json!("/tmp"), json!("/etc/group"), json!("/not/there")]);
    }
    let words = ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"];
    if random.once_in(2) {
        bundle.spec["linux"]["rootfsPropagation"] = json!(random.pick(&words));
    }
}

fn resources(bundle: &mut Bundle, random: &mut Random) {
    if random.once_in(2) {
        bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/deeper/still", bundle.id));
    }
    if random.once_in(2) && common::controls("pids") && common::controls("memory") {
        bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 20});
        bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    }
}

fn hooks(bundle: &mut Bundle, random: &mut Random) {
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    for kind in kinds {
        // Those of the container run its own programs.
        let program = if random.once_in(12) { "/bin/false" } else { "/bin/true" };
        if random.once_in(2) {
            bundle.spec["hooks"][kind] = json!([{ "path": program }]);
        }
    }
}

/// Something that shows half-way only, when much is there already.
fn obstacle(bundle: &mut Bundle, random: &mut Random) {
    match random.below(20) {
        0 => {
            let mount = json!({"destination": "/gone", "source": bundle.path().join("gone"), "options": ["bind"]});
            list(bundle, "/mounts").push(mount);
        }
        1 => list(bundle, "/mounts").push(json!({"destination": "/odd", "type": "no-such-fs", "source": "none"})),
        2 => bundle.spec["linux"]["sysctl"] = json!({"net.no.such": "1"}),
        3 => bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "not a number"}),
        4 => bundle.spec["linux"]["resources"]["unified"] = json!({"cgroup.no-such-file": "1"}),
        5 => bundle.spec["process"]["args"] = json!(["/no/such/program"]),
        6 => bundle.spec["process"]["cwd"] = json!("/bin/busybox"),
        _ => {}
    }
}

const PARTS: [Part; 8] = [namespaces, user, mounts, devices, protection, resources, hooks, obstacle];

/// Makes the container, starts it, removes it, as far as it comes each time. How far: 0, 1 or 2.
fn live(bundle: &Bundle, random: &mut Random) -> usize {
    let socket = bundle.path().join("console");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a console socket");
    let socket = socket.to_string_lossy();
    let mut words = vec!["create"];
    if bundle.spec["process"]["terminal"] == true {
        words.extend(["--console-socket", &socket]);
    }
    words.push(&bundle.id);
    // Not into pipes, which the container would hold.
    let said = bundle.path().join("said");
    let file = || Stdio::from(fs::File::create(&said).expect("a file"));
    let created = bundle.pea(&words).stdin(Stdio::null()).stdout(file()).stderr(file()).status().expect("pea");
    drop(listener);
    if !created.success() {
        return 0;
    }
    let started = random.once_in(4) || testkit::attempt(&mut bundle.pea(&["start", &bundle.id])).status.success();
    if random.once_in(3) && testkit::attempt(&mut bundle.pea(&["kill", &bundle.id, "KILL"])).status.success() {
        bundle.wait_stopped();
    }
    let deleted = testkit::attempt(&mut bundle.pea(&["delete", "--force", &bundle.id]));
    assert!(deleted.status.success(), "{}", stderr(&deleted));
    1 + usize::from(started)
}

#[test]
fn the_machine_is_as_before_whatever_becomes_of_a_container() {
    own_mounts();
    let mut reached = [0; 3];
    let seeds = std::env::var("PEA_CONTAINERS").map_or(60, |count| count.parse().expect("a number"));
    let mut bundle = Bundle::idle();
    // The root of a user namespace makes mount points, too.
    fs::set_permissions(bundle.rootfs(), fs::Permissions::from_mode(0o777)).unwrap();
    let plain = bundle.spec.clone();
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        bundle.spec = plain.clone();
        bundle.spec["process"]["terminal"] = json!(random.once_in(3));
        for part in PARTS {
            part(&mut bundle, &mut random);
        }
        let before = Machine::read(&bundle);
        let far = live(&bundle, &mut random);
        reached[far] += 1;
        let what = || format!("seed {seed}, which came as far as {far}: {}", bundle.spec);
        assert_eq!(Machine::read(&bundle), before, "{}", what());
        bundle.assert_nothing_left();
        if std::env::var_os("PEA_SAY").is_some() {
            let said = fs::read_to_string(bundle.path().join("said")).unwrap_or_default();
            println!("{seed}: {far} {}", said.trim());
        }
    }
    println!("refused {}, created {}, started {}", reached[0], reached[1], reached[2]);
    assert!(reached.iter().all(|count| *count > 0), "{reached:?}: a kind of end is missing");
}
