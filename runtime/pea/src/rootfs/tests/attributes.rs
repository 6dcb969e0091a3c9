//! What mounts are like: their options, their propagation, their ids.

use super::*;

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
