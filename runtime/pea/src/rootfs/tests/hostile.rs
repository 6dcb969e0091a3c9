//! Root file systems that try to have something outside of them changed, shown or hidden.

use super::*;
use crate::{RootMount, mount_root, unmount_root};

#[test]
fn a_linked_dev_proc_or_sys_is_refused_and_nothing_is_touched_where_it_leads() {
    for name in ["dev", "proc", "sys"] {
        let bundle = Bundle::new();
        let outside = bundle.path("outside");
        fs::create_dir(&outside).expect("outside");
        fs::write(outside.join("ptmx"), "precious").expect("a file");
        fs::remove_dir(bundle.path("rootfs").join(name)).expect("the directory");
        symlink(&outside, bundle.path("rootfs").join(name)).expect("a link");
        on_a_machine(|| {
            let error = bundle.error();
            assert!(error.contains(&format!("/{name} is a symbolic link to")), "{error}");
        });
        assert_eq!(fs::read_dir(&outside).expect("outside").count(), 1);
        assert_eq!(fs::read_to_string(outside.join("ptmx")).expect("the file"), "precious");
    }
}

#[test]
fn links_at_destinations_lead_to_places_beneath_the_root() {
    let mut bundle = Bundle::new();
    let (outside, source) = (bundle.path("outside"), bundle.path("file"));
    fs::create_dir(&outside).expect("outside");
    fs::write(&source, "content").expect("a file");
    symlink(&outside, bundle.path("rootfs/out")).expect("a link");
    symlink("../../../../../../etc/made", bundle.path("rootfs/dangling")).expect("a link");
    bundle.bind(&source, "/out/sub/file", &["bind"]).bind(&source, "/dangling", &["bind"]);
    bundle.spec["linux"]["devices"] = json!([{"path": "/out/null", "type": "c", "major": 1, "minor": 3}]);
    on_a_machine(|| {
        bundle.inside(INIT, || {
            assert_eq!(fs::read_to_string("/out/sub/file").expect("the mount"), "content");
            assert_eq!(fs::read_to_string("/etc/made").expect("the mount"), "content");
            assert!(fs::metadata("/out/null").expect("the device").file_type().is_char_device());
        });
    });
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0);
}

/// The class of CVE-2025-52881: what is written to procfs must reach the kernel, whatever an image has for links.
#[test]
fn nothing_is_mounted_over_a_process_by_way_of_a_link() {
    let links = [
        ("/vol", "/proc/self/attr", "/vol"),
        ("/vol", "/proc/self/attr/current", "/vol"),
        ("/vol", "../../proc/thread-self", "/vol/attr/exec"),
        ("/vol", "/proc/mounts", "/vol"),
        ("/vol", "/proc", "/vol/self/attr"),
        ("/vol", "/proc/1", "/vol/attr"),
        ("/vol", "/nowhere", "/proc/mounts"),
        ("/vol", "/nowhere", "/proc/net/dev"),
    ];
    for (link, target, destination) in links {
        let mut bundle = Bundle::new();
        symlink(target, bundle.path("rootfs").join(&link[1..])).expect("a link");
        let kind = if target.ends_with("current")
            || target.ends_with("mounts")
            || !destination.starts_with("/vol")
            || destination.ends_with("exec")
        {
            fs::write(bundle.path("trap"), "trap").expect("a file");
            json!({"destination": destination, "source": "trap", "options": ["bind"]})
        } else {
            json!({"destination": destination, "type": "tmpfs", "source": "trap"})
        };
        bundle.mount(kind);
        on_a_machine(|| {
            let error = bundle.error();
            assert!(
                error.contains("nothing can be mounted over what procfs says about a process"),
                "{target}: {error}"
            );
        });
    }
    // What is not of a process may be covered, as some do to show a container's own share of the machine.
    let mut bundle = Bundle::new();
    fs::write(bundle.path("share"), "share").expect("a file");
    symlink("/proc", bundle.path("rootfs/vol")).expect("a link");
    let share = bundle.path("share");
    bundle.bind(&share, "/proc/uptime", &["bind"]).bind(&share, "/vol/swaps", &["bind"]);
    on_a_machine(|| {
        bundle.inside(INIT, || {
            assert_eq!(fs::read_to_string("/proc/uptime").expect("the mount"), "share");
            assert_eq!(fs::read_to_string("/proc/swaps").expect("the mount"), "share");
        });
    });
}

#[test]
fn links_are_copied_or_mounted_upon_when_asked_for() {
    let mut bundle = Bundle::new();
    let (link, file) = (bundle.path("link"), bundle.path("file"));
    symlink("no/such/place", &link).expect("a link");
    fs::write(&file, "content").expect("a file");
    symlink("/etc/target", bundle.path("rootfs/here")).expect("a link");
    bundle.bind(&link, "/copied", &["bind", "copy-symlink"]).bind(&link, "/itself", &["bind", "src-nofollow"]).bind(
        &file,
        "/here",
        &["bind", "dest-nofollow"],
    );
    on_a_machine(|| {
        bundle.inside(INIT, || {
            for path in ["/copied", "/itself"] {
                assert_eq!(fs::read_link(path).expect(path), Path::new("no/such/place"));
            }
            assert_eq!(fs::read_to_string("/here").expect("the mount"), "content");
            assert!(fs::metadata("/etc/target").is_err());
        });
    });
}

#[test]
fn masks_hide_with_the_null_device_only() {
    // What the image has at /dev/null would be shown instead of the masked file.
    for trick in ["file", "link"] {
        let mut bundle = Bundle::new();
        let precious = bundle.path("precious");
        fs::write(&precious, "precious").expect("a file");
        match trick {
            "file" => fs::write(bundle.path("rootfs/dev/null"), "trick").expect("a file"),
            _ => symlink(&precious, bundle.path("rootfs/dev/null")).expect("a link"),
        }
        fs::write(bundle.path("rootfs/secret"), "secret").expect("a file");
        symlink(&precious, bundle.path("rootfs/out")).expect("a link");
        bundle.spec["linux"]["maskedPaths"] = json!(["/secret", "/out", "/proc/interrupts"]);
        bundle.spec["mounts"]
            .as_array_mut()
            .expect("mounts")
            .retain(|mount| !mount["destination"].as_str().is_some_and(|destination| destination.starts_with("/dev")));
        on_a_machine(|| {
            bundle.inside(INIT, || {
                for path in ["/dev/null", "/secret", "/proc/interrupts"] {
                    let file = fs::metadata(path).expect(path);
                    assert!(file.file_type().is_char_device() && file.rdev() == makedev(1, 3), "{trick}: {path}");
                }
            });
            assert_eq!(mounted(&precious.to_string_lossy()), "");
        });
        assert_eq!(fs::read_to_string(&precious).expect("the file"), "precious");
    }
}

#[test]
fn nothing_is_masked_with_a_null_device_that_is_none() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.path("dev")).expect("a directory");
    fs::write(bundle.path("dev/null"), "trick").expect("a file");
    bundle.spec["mounts"].as_array_mut().expect("mounts")[1] =
        json!({"destination": "/dev", "source": "dev", "options": ["rbind"]});
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/interrupts"]);
    on_a_machine(|| {
        let error = bundle.error();
        assert!(error.contains("/dev/null is not the null device"), "{error}");
    });
}

#[test]
fn parameters_are_set_in_procfs_whatever_is_mounted_there() {
    let mut bundle = Bundle::new();
    let trap = bundle.path("trap");
    fs::create_dir(&trap).expect("a directory");
    fs::write(trap.join("shm_rmid_forced"), "trap").expect("a file");
    fs::write(bundle.path("rootfs/shmmni"), "trap").expect("a file");
    bundle.bind(&trap, "/proc/sys/kernel", &["bind"]);
    bundle.spec["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1", "kernel.shmmni": "2000"});
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    on_a_machine(|| {
        bundle.inside(INIT, || {
            assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").expect("the trap"), "trap");
            nix::mount::umount2("/proc/sys/kernel", nix::mount::MntFlags::MNT_DETACH).expect("the trap is removed");
            let value = |name| fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).expect(name);
            assert_eq!((value("shm_rmid_forced").trim(), value("shmmni").trim()), ("1", "2000"));
        });
    });
    bundle.spec["linux"]["sysctl"] = json!({"kernel.shmmni": "many"});
    on_a_machine(|| {
        let error = bundle.error();
        assert!(
            error.contains("linux.sysctl: kernel.shmmni: write \"many\": the kernel takes no such value"),
            "{error}"
        );
    });
}

/// Where a root file system is mounted in parts, one part's links do not lead the next to another place.
#[test]
fn parts_of_a_root_file_system_are_mounted_beneath_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let [root, first, outside] = ["root", "first", "outside"].map(|name| dir.path().join(name));
    for dir in [&root, &outside, &first.join("place")] {
        fs::create_dir_all(dir).expect("a directory");
    }
    fs::write(outside.join("file"), "precious").expect("a file");
    symlink(&outside, first.join("absolute")).expect("a link");
    symlink("../../../../outside", first.join("relative")).expect("a link");
    symlink("/place", first.join("inner")).expect("a link");
    let part = |kind: &str, source: &Path, target: &str, options: &[&str]| RootMount {
        kind: kind.to_owned(),
        source: source.to_string_lossy().into_owned(),
        target: target.into(),
        options: options.iter().map(|&word| word.to_owned()).collect(),
    };
    let whole = part("bind", &first, "", &["rbind"]);
    on_a_machine(|| {
        for target in ["absolute", "/relative"] {
            let error = mount_root(&root, &[whole.clone(), part("tmpfs", "x".as_ref(), target, &[])]);
            let error = error.expect_err(target).to_string();
            assert!(error.contains(target) && error.contains("no such file"), "{error}");
            assert_eq!(fs::read_to_string(outside.join("file")).expect("the file"), "precious");
            assert_eq!(fs::read_dir(&root).expect("the root").count(), 0, "nothing is left mounted");
        }
        mount_root(&root, &[whole.clone(), part("tmpfs", "x".as_ref(), "inner", &["mode=0711"])]).expect("mounts");
        assert_eq!(fs::metadata(root.join("place")).expect("the place").mode() & 0o777, 0o711);
        unmount_root(&root).expect("unmounted");
    });
}
