//! The steps of [`super::Root`] in namespaces of the test's own: one child plays the machine, its child the init.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, pipe2, setresgid, setresuid};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{Context, Plan, Root};
use crate::Error;
use crate::sys::process::{self, Fork};

const MACHINE: i32 = libc::CLONE_NEWNS;
const INIT: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
const USER: i32 = INIT | libc::CLONE_NEWUSER;
/// The first id of the test's user namespaces.
const MAPPED: u32 = 100_000;

/// Does `work` in a child with those namespaces, after `prepare` was told its pid; a panic there is one here.
fn child(namespaces: i32, prepare: impl FnOnce(i32), work: impl FnOnce()) {
    let (wait, go) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    match process::fork_into(namespaces).expect("fork") {
        Fork::Child => {
            drop((go, read));
            let done = catch_unwind(AssertUnwindSafe(|| {
                File::from(wait).read_to_end(&mut Vec::new()).expect("the word to go");
                work();
            }));
            let words = |panic: Box<dyn std::any::Any + Send>| match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"panic")).to_owned(),
            };
            let _ = File::from(write).write_all(done.err().map(words).unwrap_or_default().as_bytes());
            process::exit_now(0);
        }
        Fork::Parent(pid) => {
            drop((wait, write));
            prepare(pid);
            drop(go);
            let mut text = String::new();
            File::from(read).read_to_string(&mut text).expect("the child's words");
            process::wait(pid, true).expect("the child");
            assert!(text.is_empty(), "{text}");
        }
    }
}

/// Does `work` as on a machine of its own: what it mounts goes away with it.
fn on_a_machine(work: impl FnOnce()) {
    child(
        MACHINE,
        |_| (),
        || {
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("private");
            work();
        },
    );
}

fn tmpfs(path: &Path, flags: MsFlags) {
    fs::create_dir_all(path).expect("a mount point");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, None::<&str>).expect("a tmpfs");
}

fn make_shared(path: &Path) {
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("shared");
}

struct Bundle {
    dir: tempfile::TempDir,
    spec: Value,
    no_pivot: bool,
}

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a bundle");
        for name in ["proc", "sys", "dev", "etc"] {
            fs::create_dir_all(dir.path().join("rootfs").join(name)).expect("a directory");
        }
        let mut spec = crate::spec::default_spec();
        spec["root"]["readonly"] = json!(false);
        Self { dir, spec, no_pivot: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&mut self, mount: Value) -> &mut Self {
        self.spec["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) -> &mut Self {
        let mount = json!({"destination": destination, "type": "bind", "source": source, "options": options});
        self.mount(mount)
    }

    /// For a user namespace, whose root must own the root file system.
    fn give_to_user(&mut self) {
        let mapping = json!([{"containerID": 0, "hostID": MAPPED, "size": 65536}]);
        self.spec["linux"]["uidMappings"] = mapping.clone();
        self.spec["linux"]["gidMappings"] = mapping;
        self.spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        for name in ["rootfs", "rootfs/dev", "rootfs/etc"] {
            chown(self.path(name), Some(MAPPED), Some(MAPPED)).expect("chown");
        }
    }

    /// Builds the container in an init with those namespaces, where `work` gets the outcome.
    fn contain(&self, namespaces: i32, work: impl FnOnce(Result<(), Error>)) {
        let user_namespace = namespaces & libc::CLONE_NEWUSER != 0;
        let spec: Spec = serde_json::from_value(self.spec.clone()).expect("a specification");
        let opened = Plan::new(&spec, self.dir.path(), user_namespace).and_then(|plan| Ok((plan.open()?, plan)));
        let map = |pid| {
            for map in ["uid_map", "gid_map"].iter().filter(|_| user_namespace) {
                fs::write(format!("/proc/{pid}/{map}"), format!("0 {MAPPED} 65536")).expect("a mapping");
            }
        };
        child(namespaces, map, || {
            if user_namespace {
                let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
                setresgid(gid, gid, gid).expect("the group");
                setresuid(uid, uid, uid).expect("the user");
            }
            let context =
                Context { no_pivot: self.no_pivot, user_namespace, cgroup_namespace: false, cgroup: "/".into() };
            work(opened.and_then(|(sources, plan)| {
                let mut root = Root::enter(plan, sources, context)?;
                root.mount(&mut || Ok(()))?;
                root.pivot()?;
                root.finish()
            }));
        });
    }

    /// The same, for a container that must be built.
    fn inside(&self, namespaces: i32, work: impl FnOnce()) {
        self.contain(namespaces, |built| {
            built.unwrap_or_else(|error| panic!("{error}"));
            work();
        });
    }

    fn error(&self) -> String {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        self.contain(INIT, |built| {
            let error = built.expect_err("it must be refused").to_string();
            (&File::from(write.try_clone().expect("a copy"))).write_all(error.as_bytes()).expect("a pipe");
        });
        drop(write);
        std::io::read_to_string(File::from(read)).expect("the error")
    }
}

/// The last line of the mount table about that mount point.
fn mounted(path: &str) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_default().to_owned()
}

/// The options of a mount itself.
fn options(path: &str) -> Vec<String> {
    let line = mounted(path);
    let options = line.split(' ').nth(5).unwrap_or_else(|| panic!("nothing is mounted at {path}"));
    options.split(',').map(str::to_owned).collect()
}

/// The peer group of a kind ("shared", "master") a mount is of.
fn peers(path: &str, kind: &str) -> Option<String> {
    let line = mounted(path);
    line.split(' ').take_while(|word| *word != "-").find_map(|word| word.strip_prefix(kind)).map(str::to_owned)
}

fn listed(path: &str) -> usize {
    fs::read_dir(path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
}

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
        bundle.inside(USER, || {
            assert!(mounted("/sys").contains(" - sysfs "), "{}", mounted("/sys"));
            assert!(options("/sys").contains(&"ro".to_owned()), "{}", mounted("/sys"));
            assert!(listed("/sys/class") > 0);
        });
    });
}

#[test]
fn options_of_binds_change_what_they_name_and_nothing_else() {
    let mut bundle = Bundle::new();
    let source = bundle.path("source");
    bundle
        .bind(&source, "/same", &["bind"])
        .bind(&source, "/cleared", &["bind", "suid", "exec", "noatime"])
        .bind(&source, "/top", &["rbind", "ro"])
        .bind(&source, "/all", &["rbind", "rro", "rsuid"]);
    on_a_machine(|| {
        tmpfs(&source, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        tmpfs(&source.join("below"), MsFlags::MS_NOSUID);
        bundle.inside(INIT, || {
            assert_eq!(options("/same"), ["rw", "nosuid", "nodev", "noexec", "relatime"]);
            assert_eq!(mounted("/same/below"), "", "not recursive");
            assert_eq!(options("/cleared"), ["rw", "nodev", "noatime"]);
            assert_eq!(options("/top"), ["ro", "nosuid", "nodev", "noexec", "relatime"]);
            assert_eq!(options("/top/below"), ["rw", "nosuid", "relatime"]);
            assert_eq!(options("/all"), ["ro", "nodev", "noexec", "relatime"]);
            assert_eq!(options("/all/below"), ["ro", "relatime"]);
        });
    });
}

#[test]
fn mounts_spread_as_far_as_asked_for() {
    for (root, word, master, peer) in [
        (None, None, true, false),
        (None, Some("rslave"), true, false),
        (None, Some("rprivate"), false, false),
        (None, Some("rshared"), false, true),
        (Some("rslave"), Some("rslave"), true, false),
        (Some("rshared"), Some("rshared"), false, true),
        (Some("rprivate"), None, false, false),
    ] {
        let mut bundle = Bundle::new();
        let source = bundle.path("source");
        if let Some(root) = root {
            bundle.spec["linux"]["rootfsPropagation"] = json!(root);
        }
        let words: Vec<_> = ["rbind"].into_iter().chain(word).collect();
        bundle.bind(&source, "/mnt", &words);
        on_a_machine(|| {
            tmpfs(&source, MsFlags::empty());
            make_shared(&source);
            let group = peers(&source.to_string_lossy(), "shared:");
            assert!(group.is_some());
            bundle.inside(INIT, || {
                let what = format!("{root:?} {word:?}: {}", mounted("/mnt"));
                assert_eq!(peers("/mnt", "master:"), group.clone().filter(|_| master), "{what}");
                assert_eq!(peers("/mnt", "shared:"), group.clone().filter(|_| peer), "{what}");
            });
        });
    }
}

#[test]
fn the_roots_propagation_is_the_one_given() {
    for (word, has, lacks) in [
        ("private", None, &["shared:", "master:", "unbindable"][..]),
        ("rslave", Some("master:"), &["shared:"]),
        ("shared", Some("shared:"), &[]),
        ("rshared", Some("shared:"), &[]),
        ("unbindable", Some("unbindable"), &["shared:"]),
    ] {
        let mut bundle = Bundle::new();
        bundle.spec["linux"]["rootfsPropagation"] = json!(word);
        bundle.spec["root"]["path"] = json!("machine/rootfs");
        on_a_machine(|| {
            let machine = bundle.path("machine");
            tmpfs(&machine, MsFlags::empty());
            make_shared(&machine);
            for name in ["proc", "sys", "dev"] {
                fs::create_dir_all(machine.join("rootfs").join(name)).expect("a directory");
            }
            let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
            bundle.inside(INIT, || {
                assert!(has.is_none_or(|kind| peers("/", kind).is_some()), "{word}: {}", mounted("/"));
                assert!(lacks.iter().all(|kind| peers("/", kind).is_none()), "{word}: {}", mounted("/"));
                if word != "rshared" {
                    assert_eq!(peers("/proc", "shared:"), None, "{word}");
                }
            });
            let after = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
            assert_eq!(table, after, "{word}: nothing came back to the machine");
        });
    }
}

#[test]
fn ids_are_mapped_as_the_mount_or_the_container_says() {
    let mut bundle = Bundle::new();
    let source = bundle.path("source");
    let map = |inside: u32, outside: u32| json!([{"containerID": inside, "hostID": outside, "size": 10}]);
    bundle.mount(json!({
        "destination": "/own", "type": "bind", "source": source, "options": ["rbind", "ridmap"],
        "uidMappings": map(0, 500), "gidMappings": map(0, 600),
    }));
    bundle.bind(&source, "/inline", &["bind", "idmap=uids=0-40-10#20-60-5;gids=0-50-10"]);
    on_a_machine(|| {
        tmpfs(&source, MsFlags::empty());
        fs::write(source.join("file"), "").expect("a file");
        chown(source.join("file"), Some(3), Some(3)).expect("chown");
        tmpfs(&source.join("below"), MsFlags::empty());
        bundle.inside(INIT, || {
            let owner = |path| fs::metadata(path).map(|file| (file.uid(), file.gid())).expect(path);
            assert_eq!(owner("/own/file"), (503, 603));
            assert_eq!(owner("/own/below"), (500, 600));
            assert_eq!(owner("/inline/file"), (43, 53));
        });
    });
    bundle = Bundle::new();
    bundle.bind(&source, "/mnt", &["bind", "idmap"]);
    bundle.give_to_user();
    on_a_machine(|| {
        let source = bundle.path("source");
        bundle.spec["mounts"].as_array_mut().expect("mounts").last_mut().expect("one")["source"] = json!(source);
        tmpfs(&source, MsFlags::empty());
        fs::write(source.join("file"), "").expect("a file");
        chown(source.join("file"), Some(3), Some(3)).expect("chown");
        bundle.inside(USER | libc::CLONE_NEWNET, || {
            let file = fs::metadata("/mnt/file").expect("the file");
            assert_eq!((file.uid(), file.gid()), (3, 3));
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
            assert!(fs::write("/covered/x", "").is_err(), "read-only once it is filled");
            fs::write("/etc/x", "").expect("writable");
        });
    });
    assert_eq!(fs::read_dir(bundle.path("rootfs/etc")).expect("etc").count(), 0);
}

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
            json!({"destination": "/proc/1/fd/x", "type": "tmpfs"}),
            "config.json: mounts[7] /proc/1/fd/x: make the mount point",
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
