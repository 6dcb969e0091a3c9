//! Mounts as whole containers and their machine see them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::{Bundle, stderr, stdout};
use serde_json::{Value, json};

fn mount(bundle: &mut Bundle, destination: &str, source: &Path, options: &[&str]) {
    let mount = json!({"destination": destination, "type": "bind", "source": source, "options": options});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
}

/// Lets the container's root mount what it likes.
fn allow_mounts(bundle: &mut Bundle) {
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
    }
}

/// What a shell prints that plays the machine: `source` of the bundle is a shared mount there, and `$PEA` is pea.
fn on_a_machine(bundle: &Bundle, script: &str) -> String {
    let pea = bundle.pea(&[]);
    let words: Vec<_> =
        [pea.get_program()].into_iter().chain(pea.get_args()).map(|word| word.to_str().unwrap()).collect();
    let set_up = "set -e; mount -t tmpfs tmpfs source; mount --make-shared source; mkdir source/below";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c", &format!("{set_up}; {script}")]);
    testkit::output(shell.current_dir(bundle.path()).env("PEA", words.join(" ")).env("ID", &bundle.id))
}

#[test]
fn mounts_made_inside_reach_the_machine_through_a_shared_bind_only() {
    for (word, reach) in [("rshared", true), ("rslave", false), ("rprivate", false)] {
        let mut bundle = Bundle::shell("mount -t tmpfs inside /mnt/below && touch /mnt/below/file");
        let source = bundle.path().join("source");
        fs::create_dir(&source).unwrap();
        mount(&mut bundle, "/mnt", &source, &["rbind", word]);
        bundle.spec["root"]["readonly"] = json!(false);
        bundle.spec["linux"]["rootfsPropagation"] = json!(word);
        allow_mounts(&mut bundle);
        // What spread to the machine stays there when the container is gone.
        let listed = on_a_machine(&bundle, "$PEA run $ID; ls source/below");
        assert_eq!(listed, if reach { "file" } else { "" }, "{word}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn mounts_made_on_the_machine_reach_a_container_unless_its_bind_is_private() {
    for (word, reach) in [(None, true), (Some("rslave"), true), (Some("rshared"), true), (Some("rprivate"), false)] {
        let mut bundle = Bundle::idle();
        let source = bundle.path().join("source");
        fs::create_dir(&source).unwrap();
        let options: Vec<_> = ["rbind"].into_iter().chain(word).collect();
        mount(&mut bundle, "/mnt", &source, &options);
        bundle.spec["root"]["readonly"] = json!(false);
        let script = "$PEA run --detach $ID </dev/null >&0 2>&0; mount -t tmpfs later source/below; \
                      touch source/below/file; $PEA exec $ID ls /mnt/below; $PEA delete --force $ID";
        let listed = on_a_machine(&bundle, script);
        assert_eq!(listed, if reach { "file" } else { "" }, "{word:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_mount_that_fails_leaves_nothing_whatever_came_before_it() {
    let mut bundle = Bundle::new(&["true"]);
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = table();
    let good = bundle.spec["mounts"].as_array().unwrap().len();
    let bad = json!({"destination": "/bad", "type": "tmpfs", "options": ["size=x"]});
    for place in [0, 2, good] {
        let mut mounts = bundle.spec["mounts"].clone();
        mounts.as_array_mut().unwrap().insert(place, bad.clone());
        let whole = std::mem::replace(&mut bundle.spec["mounts"], mounts);
        let done = bundle.run();
        let error = stderr(&done);
        assert!(error.contains(&format!("config.json: mounts[{place}] /bad: option size=x")), "{error}");
        bundle.spec["mounts"] = whole;
        bundle.assert_nothing_left();
        assert_eq!(table(), before);
    }
}

#[test]
fn a_volume_whose_parts_become_links_while_others_are_mounted_leads_nowhere() {
    // Another container with the same volume exchanges a directory and a link to the machine's files for each other.
    let mut bundle = Bundle::shell("true");
    let volume = bundle.path().join("volume");
    let outside = bundle.path().join("outside");
    for dir in [&volume, &outside, &volume.join("real")] {
        fs::create_dir_all(dir).unwrap();
    }
    symlink(&outside, volume.join("swap")).unwrap();
    mount(&mut bundle, "/volume", &volume, &["rbind"]);
    for number in 0..20 {
        let file = Path::new("/etc/hostname");
        mount(&mut bundle, &format!("/volume/swap/made-{number}"), file, &["bind", "ro"]);
    }
    bundle.spec["linux"]["maskedPaths"] = json!(["/volume/swap"]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, swap) = (volume.join("real"), volume.join("swap"));
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = nix::fcntl::renameat2(
                    nix::fcntl::AT_FDCWD,
                    &real,
                    nix::fcntl::AT_FDCWD,
                    &swap,
                    nix::fcntl::RenameFlags::RENAME_EXCHANGE,
                );
            }
        });
        for _ in 0..10 {
            // It may fail: a mount point can be gone the next moment. It may not touch what is outside.
            let _ = bundle.run();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    bundle.assert_nothing_left();
}

#[test]
fn a_user_namespace_is_no_hindrance_to_mounts_and_devices() {
    let script = "cat /mnt/file; stat -c %a:%u:%g:%t:%T /dev/odd; echo x >/dev/null && test ! -e /dev/0";
    let mut bundle = Bundle::shell(script);
    let source = bundle.path().join("hidden/source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "found\n").unwrap();
    testkit::run(Command::new("chmod").arg("0").arg(bundle.path().join("hidden")));
    testkit::run(Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()));
    mount(&mut bundle, "/mnt", &source, &["rbind", "ro"]);
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let linux = &mut bundle.spec["linux"];
    linux["uidMappings"] = mapping.clone();
    linux["gidMappings"] = mapping;
    linux["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    linux["devices"] =
        json!([{"path": "/dev/odd", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 3, "gid": 4}]);
    bundle.spec["root"]["readonly"] = Value::Bool(false);
    assert_eq!(bundle.output(), "found\n640:3:4:a:c8");
    bundle.assert_nothing_left();
}

#[test]
fn without_a_mount_namespace_the_mounts_are_the_machines_until_the_container_is_deleted() {
    let mut bundle = Bundle::idle();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|each| each["type"] != json!("mount"));
    let source = bundle.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(bundle.rootfs().join("etc/name"), "container").unwrap();
    let script = "cp /proc/self/mountinfo before; $PEA run --detach $ID </dev/null >&0 2>&0; \
                  $PEA exec $ID cat /etc/name; grep -c $PWD/rootfs /proc/self/mountinfo >count; test $(cat count) -gt 5; \
                  $PEA delete --force $ID; cmp before /proc/self/mountinfo";
    assert_eq!(on_a_machine(&bundle, script), "container");
    bundle.spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/bad", "type": "nofs"}));
    let script = "cp /proc/self/mountinfo before; ! $PEA run $ID 2>&1; cmp before /proc/self/mountinfo";
    let error = on_a_machine(&bundle, script);
    assert!(error.contains("/bad: mount nofs"), "{error}");
    bundle.assert_nothing_left();
}

/// Somebody outside renames a directory that procfs is mounted on, which the mount then moves with.
#[test]
fn what_is_masked_stays_so_wherever_procfs_is_moved_to() {
    let mut bundle = Bundle::shell("cat /seen/filesystems; touch /seen/sys/kernel/hostname; echo done");
    let rootfs = bundle.rootfs();
    let script = "cd $0 && mv proc seen && mkdir proc";
    let args = json!(["sh", "-c", script, rootfs]);
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": args}]});
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/filesystems"]);
    let said = bundle.run();
    assert_eq!(stdout(&said), "done", "{said:?}");
    assert!(stderr(&said).contains("Read-only file system"), "{said:?}");
}
