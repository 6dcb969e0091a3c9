//! Containers as they are built from end to end.

use std::ffi::CStr;

use super::*;
use crate::sys::xattr;

#[test]
fn the_default_specification_is_built() {
    let mut bundle = Bundle::new();
    bundle.spec["root"]["readonly"] = json!(true);
    bundle.spec["linux"]["maskedPaths"] = json!(["/proc/interrupts", "/etc", "/proc/no-such-file", "/sys/kernel"]);
    for no_pivot in [false, true] {
        bundle.no_pivot = no_pivot;
        on_a_machine(|| {
            bundle.inside(INIT, || {
                let null = fs::metadata("/dev/null").expect("null");
                assert!(null.file_type().is_char_device() && null.rdev() == makedev(1, 3));
                assert_eq!(null.mode() & 0o777, 0o666);
                assert_eq!(fs::read_link("/dev/fd").expect("a link"), Path::new("/proc/self/fd"));
                assert_eq!(fs::read("/proc/interrupts").expect("masked"), b"");
                assert_eq!((listed("/etc"), listed("/sys/kernel")), (0, 0));
                for path in ["/", "/proc/sys", "/sys"] {
                    assert!(options(path).contains(&"ro".to_owned()), "{}", mounted(path));
                }
                assert!(fs::write("/x", "").is_err());
                assert!(listed("/sys/fs/cgroup") > 0);
                assert!(fs::metadata(bundle.dir.path()).is_err(), "the machine's files are gone");
            });
        });
    }
    assert_eq!(fs::read_dir(bundle.path("rootfs/dev")).expect("dev").count(), 0);
}

#[test]
fn a_user_namespace_gets_everything_without_rights_on_the_machine() {
    let mut bundle = Bundle::new();
    let secret = bundle.path("secret/inner");
    fs::create_dir_all(&secret).expect("a directory");
    fs::write(secret.join("file"), "found").expect("a file");
    fs::set_permissions(bundle.path("secret"), Permissions::from_mode(0o000)).expect("a mode");
    bundle.bind(&secret, "/mnt/secret", &["rbind", "ro"]);
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/dev/strange", "type": "b", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
    ]);
    bundle.give_to_user();
    on_a_machine(|| {
        bundle.inside(USER | libc::CLONE_NEWNET, || {
            assert_eq!(fs::read_to_string("/mnt/secret/file").expect("the source"), "found");
            let node = fs::metadata("/dev/strange").expect("the device");
            assert!(node.file_type().is_block_device() && node.rdev() == makedev(1, 5));
            assert_eq!((node.mode() & 0o7777, node.uid(), node.gid()), (0o640, 7, 8));
            assert!(fs::metadata("/dev/pipe").expect("the FIFO").file_type().is_fifo());
            fs::write("/dev/null", "x").expect("the null device works");
            for option in ["nosuid", "noexec"] {
                assert!(options("/dev/null").contains(&option.to_owned()), "{}", mounted("/dev/null"));
            }
            assert!(mounted("/sys").contains(" - sysfs "));
            assert_eq!(fs::metadata("/dev/shm").expect("shm").uid(), 0);
            assert!(fs::metadata("/dev/0").is_err() && fs::metadata("/0").is_err(), "the nodes' tmpfs is gone");
        });
    });
}

#[test]
fn the_machines_sysfs_is_shown_where_no_own_one_may_be_mounted() {
    let mut bundle = Bundle::new();
    bundle.give_to_user();
    on_a_machine(|| {
        bundle.inside(USER, || assert!(listed("/sys/fs/cgroup") > 0));
        let mounts = bundle.spec["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["type"] != json!("cgroup"));
        bundle.inside(USER, || {
            assert_eq!(listed("/sys/fs/cgroup"), 0);
            assert!(mounted("/sys").contains(" - sysfs "), "{}", mounted("/sys"));
            assert!(options("/sys").contains(&"ro".to_owned()), "{}", mounted("/sys"));
            assert!(listed("/sys/class") > 0);
            assert!(options("/sys/fs/cgroup").contains(&"ro".to_owned()), "{}", mounted("/sys/fs/cgroup"));
        });
    });
}

#[test]
fn tmpcopyup_takes_over_what_it_covers() {
    let mut bundle = Bundle::new();
    let covered = bundle.path("rootfs/covered");
    fs::create_dir_all(covered.join("dir")).expect("a directory");
    fs::write(covered.join("dir/file"), "content").expect("a file");
    fs::set_permissions(covered.join("dir/file"), Permissions::from_mode(0o4751)).expect("a mode");
    chown(covered.join("dir"), Some(5), Some(6)).expect("chown");
    symlink("/nowhere", covered.join("link")).expect("a link");
    mknod(&covered.join("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).expect("a device");
    fs::set_permissions(&covered, Permissions::from_mode(0o712)).expect("a mode");
    // CAP_NET_BIND_SERVICE, in the effective set (struct vfs_cap_data of linux/capability.h).
    let capability = [0x0200_0001_u32.to_le_bytes(), (1_u32 << 10).to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    let give = |path: &Path, name: &CStr, value: &[u8]| {
        xattr::set(File::open(path).expect("a file").as_fd(), name, value).expect("an attribute");
    };
    give(&covered.join("dir/file"), c"security.capability", &capability);
    give(&covered.join("dir"), c"trusted.pea", b"dir");
    give(&covered, c"trusted.pea", b"root");
    bundle.mount(json!({"destination": "/covered", "type": "tmpfs", "options": ["tmpcopyup", "ro"]}));
    bundle.mount(json!({"destination": "/etc", "type": "tmpfs", "options": ["tmpcopyup"]}));
    on_a_machine(|| {
        bundle.inside(INIT, || {
            assert_eq!(fs::read_to_string("/covered/dir/file").expect("the copy"), "content");
            assert_eq!(fs::metadata("/covered/dir/file").expect("the copy").mode() & 0o7777, 0o4751);
            let dir = fs::metadata("/covered/dir").expect("the copy");
            assert_eq!((dir.uid(), dir.gid()), (5, 6));
            assert_eq!(fs::read_link("/covered/link").expect("the link"), Path::new("/nowhere"));
            assert_eq!(fs::metadata("/covered/device").expect("the device").rdev(), makedev(1, 3));
            assert_eq!(fs::metadata("/covered").expect("the root").mode() & 0o7777, 0o712);
            let attribute = |path: &str, name| xattr::get(File::open(path).expect(path).as_fd(), name).expect(path);
            assert_eq!(attribute("/covered/dir/file", c"security.capability"), capability);
            assert_eq!(attribute("/covered/dir", c"trusted.pea"), b"dir");
            assert_eq!(attribute("/covered", c"trusted.pea"), b"root");
            assert!(fs::write("/covered/x", "").is_err(), "read-only once it is filled");
            fs::write("/etc/x", "").expect("writable");
        });
    });
    assert_eq!(fs::read_dir(bundle.path("rootfs/etc")).expect("etc").count(), 0);
}

#[test]
fn a_directory_bound_over_the_root_is_the_root() {
    let mut bundle = Bundle::new();
    let other = bundle.path("other");
    for name in ["proc", "sys", "dev", "only-here"] {
        fs::create_dir_all(other.join(name)).expect("a directory");
    }
    let mount = json!({"destination": "/", "type": "bind", "source": other, "options": ["bind"]});
    bundle.spec["mounts"].as_array_mut().expect("mounts").insert(0, mount);
    on_a_machine(|| {
        bundle.inside(INIT, || {
            assert!(Path::new("/only-here").is_dir() && !Path::new("/etc").exists());
            assert!(listed("/dev") > 6 && mounted("/proc").contains(" - proc "));
        });
    });
}

#[test]
fn a_bound_dev_stays_as_it_is() {
    let mut bundle = Bundle::new();
    bundle.spec["mounts"] = json!([{"destination": "/dev", "source": "dev", "options": ["rbind"]}]);
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    fs::create_dir(bundle.path("dev")).expect("a directory");
    fs::write(bundle.path("dev/file"), "").expect("a file");
    on_a_machine(|| bundle.inside(INIT, || assert_eq!(listed("/dev"), 1)));
}

#[test]
fn failures_name_the_mount_the_step_and_the_reason() {
    for (mount, phrase) in [
        (
            json!({"destination": "/data", "type": "bind", "source": "/srv/x/y"}),
            "config.json: mounts[7] /data: bind /srv/x/y: no such file or directory",
        ),
        (
            json!({"destination": "/data", "type": "tmpfs", "options": ["size=many"]}),
            "config.json: mounts[7] /data: option size=many",
        ),
        (json!({"destination": "/data", "type": "nofs"}), "config.json: mounts[7] /data: mount nofs: no such device"),
        (
            json!({"destination": "/etc", "type": "bind", "source": "/bin/sh"}),
            "config.json: mounts[7] /etc: bind /bin/sh: not a directory",
        ),
        (
            json!({"destination": "/proc/no/such", "type": "tmpfs"}),
            "config.json: mounts[7] /proc/no/such: make the mount point",
        ),
    ] {
        let mut bundle = Bundle::new();
        bundle.mount(mount);
        on_a_machine(|| {
            let error = bundle.error();
            assert!(error.starts_with(phrase), "{error}");
        });
    }
}

#[test]
fn options_too_long_for_fsconfig_are_taken_all_the_same() {
    let mut bundle = Bundle::new();
    let layers: Vec<_> = (0..8).map(|number| bundle.path(&format!("layer-with-a-long-name-{number}"))).collect();
    on_a_machine(|| {
        for (number, layer) in layers.iter().enumerate() {
            tmpfs(layer, MsFlags::empty());
            fs::write(layer.join(number.to_string()), "").expect("a file");
        }
        let lower: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let option = format!("lowerdir={}", lower.join(":"));
        bundle.mount(json!({"destination": "/mnt", "type": "overlay", "options": [option, "nosuid"]}));
        bundle.inside(INIT, || {
            assert_eq!(listed("/mnt"), 8);
            assert!(options("/mnt").contains(&"nosuid".to_owned()), "{}", mounted("/mnt"));
        });
    });
}

#[test]
fn only_a_terminal_becomes_the_console() {
    let bundle = Bundle::new();
    let spec: Spec = serde_json::from_value(bundle.spec.clone()).expect("a specification");
    on_a_machine(|| {
        let plan = Plan::new(&spec, bundle.dir.path(), false).expect("a plan");
        let sources = plan.open().expect("its sources");
        child(
            INIT,
            |_| (),
            || {
                let context =
                    Context { no_pivot: false, user_namespace: false, cgroup_namespace: false, cgroup: "/".into() };
                let mut root = Root::enter(plan, sources, context).expect("entered");
                root.mount(&mut || Ok(())).expect("mounted");
                root.pivot().expect("inside");
                root.bind_console(File::open("/dev/null").expect("null").as_fd()).expect_err("not a terminal");
                let terminal = nix::pty::openpty(None, None).expect("a terminal");
                root.bind_console(terminal.slave.as_fd()).expect("a terminal");
                let console = fs::metadata("/dev/console").expect("the console");
                let slave = nix::sys::stat::fstat(&terminal.slave).expect("the terminal");
                assert_eq!(console.rdev(), slave.st_rdev);
            },
        );
    });
}
