//! Layers: what an archive says, and what overlayfs makes of it. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod inputs;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use inputs::{Layout, Tar, plain};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::makedev;
use peapod::image::Store;
use tar::EntryType;

struct Unpacked {
    scratch: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

/// Loads an image with these layers, the lowest first; the result has the topmost first.
fn unpack(layers: &[Vec<u8>]) -> Result<Unpacked, String> {
    let scratch = testkit::scratch();
    let archive = scratch.path().join("image.tar");
    fs::write(&archive, Layout::simple("x.io/a:1", layers, plain).archive()).unwrap();
    fs::create_dir(scratch.path().join("outside")).unwrap();
    fs::write(scratch.path().join("outside/file"), "precious").unwrap();
    let store = Store::open(&scratch.path().join("root")).unwrap();
    store.load(&archive, None, &mut |_| {}).map_err(|error| error.to_string())?;
    let layers = store.resolve("x.io/a:1").unwrap().layers;
    Ok(Unpacked { scratch, layers })
}

fn one(tar: Tar) -> Unpacked {
    unpack(&[tar.done()]).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(tar: Tar) -> String {
    unpack(&[tar.done()]).err().expect("it must be refused")
}

fn stat(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_char_device() && there.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    xattr::get(path, "trusted.overlay.opaque").unwrap().as_deref() == Some(b"y")
}

#[test]
fn owners_modes_times_and_kinds_are_kept() {
    // Version 2 of the attribute: effective, CAP_NET_BIND_SERVICE permitted (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let unpacked = one(Tar::new()
        .raw("./", "", b"", |header| {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o751);
        })
        .raw("dir/", "", b"", |header| {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o2750);
            header.set_uid(1000);
            header.set_gid(1001);
            header.set_mtime(5);
        })
        .raw("dir/suid", "", b"content", |header| {
            header.set_mode(0o6755);
            header.set_uid(1000);
        })
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("SCHILY.xattr.user.note", b"hello")])
        .file("dir/capable", "")
        .link(EntryType::Link, "dir/hard", "dir/suid")
        .link(EntryType::Symlink, "dir/soft", "/outside/of/everything")
        .raw("null", "", b"", |header| {
            header.set_entry_type(EntryType::Char);
            header.set_mode(0o666);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .raw("pipe", "", b"", |header| header.set_entry_type(EntryType::Fifo))
        .pax(&[
            ("mtime", b"1500000000.25"),
            ("path", "long/".repeat(60).trim_end_matches('/').as_bytes()),
            ("uid", b"4000000"),
        ])
        .file("short", "x"));
    let root = &unpacked.layers[0];
    assert_eq!(stat(root).mode() & 0o7777, 0o751, "the root's own entry");
    let dir = stat(&root.join("dir"));
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid()), (0o2750, 1000, 1001));
    assert_eq!(dir.mtime(), 5, "though files were made in it later");
    let suid = stat(&root.join("dir/suid"));
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.size(), suid.mtime()), (0o6755, 1000, 7, 1_000_000_000));
    assert_eq!(stat(&root.join("dir/hard")).ino(), suid.ino());
    assert_eq!(fs::read_link(root.join("dir/soft")).unwrap(), Path::new("/outside/of/everything"));
    let capable = root.join("dir/capable");
    assert_eq!(xattr::get(&capable, "security.capability").unwrap().as_deref(), Some(capability.as_slice()));
    assert_eq!(xattr::get(&capable, "user.note").unwrap().as_deref(), Some(b"hello".as_slice()));
    let null = stat(&root.join("null"));
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o7777), (makedev(1, 3), 0o666));
    assert!(stat(&root.join("pipe")).file_type().is_fifo());
    let long = stat(&root.join("long/".repeat(60).trim_end_matches('/')));
    assert_eq!((long.uid(), long.mtime(), long.mtime_nsec()), (4_000_000, 1_500_000_000, 250_000_000));
}

#[test]
fn attributes_of_overlayfs_are_not_taken_from_a_layer() {
    let unpacked = one(Tar::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
        ])
        .dir("dir"));
    let kept: Vec<_> = xattr::list(unpacked.layers[0].join("dir")).unwrap().collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let unpacked = one(Tar::new()
        .file("a", "old")
        .file("a", "new")
        .file("b", "file")
        .dir("b")
        .dir("c")
        .file("c/inside", "x")
        .file("c", "file now")
        .link(EntryType::Symlink, "d", "/etc")
        .dir("d")
        .file("d/inside", "x")
        .dir("e")
        .file("e/kept", "x")
        .dir("e"));
    let root = &unpacked.layers[0];
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "new");
    assert!(stat(&root.join("b")).is_dir());
    assert_eq!(fs::read_to_string(root.join("c")).unwrap(), "file now");
    assert!(stat(&root.join("d")).is_dir() && root.join("d/inside").exists());
    assert!(root.join("e/kept").exists(), "a directory joins the one that is there");
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let unpacked = one(Tar::new()
        .dir("dir")
        .file("dir/.wh.gone", "")
        .file(".wh.top", "")
        .file("opaque/.wh..wh..opq", "")
        .dir("opaque")
        .file("opaque/new", "x")
        .file(".wh.first", "")
        .dir("first")
        .dir("second")
        .file(".wh.second", "")
        .file(".wh.replaced", "")
        .file("replaced", "x")
        .file("own", "x")
        .file(".wh.own", "")
        .file(".wh..wh.plnk", ""));
    let root = &unpacked.layers[0];
    assert!(is_whiteout(&root.join("dir/gone")) && is_whiteout(&root.join("top")));
    assert!(is_opaque(&root.join("opaque")) && root.join("opaque/new").exists());
    assert!(is_opaque(&root.join("first")), "removed, then made anew");
    assert!(is_opaque(&root.join("second")), "in either order");
    assert!(!is_opaque(&root.join("dir")));
    assert_eq!(fs::read_to_string(root.join("replaced")).unwrap(), "x");
    assert_eq!(fs::read_to_string(root.join("own")).unwrap(), "x", "a whiteout is for the layers below");
    let names: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".wh.")), "{names:?}");
    for name in [".wh.", ".wh..", ".wh..."] {
        assert!(refused(Tar::new().file(name, "")).contains("names nothing"), "{name}");
    }
}

#[test]
fn overlayfs_shows_the_layers_as_one() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let lowest = Tar::new().dir("d").file("d/a", "1").file("d/b", "1").file("gone", "1").dir("e").file("e/x", "1");
    let middle = Tar::new().dir("d").file("d/.wh.a", "").file("d/c", "2").file(".wh.gone", "").file(".wh.e", "");
    let top = Tar::new().dir("d").file("d/a", "3").dir("e").file("e/.wh..wh..opq", "").file("e/y", "3");
    let unpacked = unpack(&[lowest.done(), middle.done(), top.done()]).unwrap();
    let path = |name: &str| {
        let path = unpacked.scratch.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (upper, work, merged) = (path("upper"), path("work"), path("merged"));
    let lower: Vec<_> = unpacked.layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    let read = |name: &str| fs::read_to_string(merged.join(name)).ok();
    assert_eq!(read("d/a").as_deref(), Some("3"), "removed and made anew");
    assert_eq!((read("d/b").as_deref(), read("d/c").as_deref()), (Some("1"), Some("2")));
    assert_eq!((read("gone"), read("e/x")), (None, None));
    assert_eq!(read("e/y").as_deref(), Some("3"));
    umount(&merged).unwrap();
}

#[test]
fn nothing_is_written_outside_of_the_layer() {
    for name in ["../escape", "a/../../escape", "..", "dir/.."] {
        let error = refused(Tar::new().file(name, "x"));
        assert!(error.contains("contains \"..\"") && error.contains(name), "{name}: {error}");
    }
    let error = refused(Tar::new().link(EntryType::Link, "passwd", "../../../../../../etc/passwd"));
    assert!(error.contains("contains \"..\""), "{error}");

    let absolute = one(Tar::new().file("/etc/inside", "x").link(EntryType::Link, "/hard", "/etc/inside"));
    assert!(absolute.layers[0].join("etc/inside").exists() && absolute.layers[0].join("hard").exists());
    assert!(!Path::new("/etc/inside").exists());
}

#[test]
fn links_of_a_layer_are_followed_inside_of_it_only() {
    let scratch = testkit::scratch();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "precious").unwrap();
    let target = outside.to_string_lossy().into_owned();
    let up = format!("../../../../../../../../../..{target}");
    for target in [target.as_str(), up.as_str()] {
        let tar = Tar::new()
            .link(EntryType::Symlink, "link", target)
            .file("link/new", "x")
            .dir("link/dir")
            .file("link/.wh.file", "")
            .file("link/sub/.wh..wh..opq", "");
        let unpacked = one(tar);
        let inside = unpacked.layers[0].join(target.trim_start_matches("../").trim_start_matches('/'));
        assert_eq!(fs::read_to_string(inside.join("new")).unwrap(), "x", "as if the layer were the root");
        assert!(is_whiteout(&inside.join("file")));
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "nothing outside has changed");
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious");

        // A file where a link stands replaces the link.
        let tar = Tar::new()
            .link(EntryType::Symlink, "f", &format!("{target}/file"))
            .file("f", "mine")
            .link(EntryType::Symlink, "g", target)
            .raw("g", "", b"", |header| header.set_mode(0o777));
        let unpacked = one(tar);
        assert_eq!(fs::read_to_string(unpacked.layers[0].join("f")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious");
        // Another name of a file outside would let a container change it.
        let tar = Tar::new().link(EntryType::Symlink, "l", target).link(EntryType::Link, "h", "l/file");
        let error = refused(tar);
        assert!(error.contains("\"h\"") && error.contains("No such file"), "{error}");
        assert_eq!(stat(&outside.join("file")).nlink(), 1);
    }
    // Through /proc a path would leave by another way.
    let tar = Tar::new().link(EntryType::Symlink, "p", "/proc/self/root/tmp").file("p/x", "x");
    let unpacked = one(tar);
    assert!(unpacked.layers[0].join("proc/self/root/tmp/x").exists());
}

#[test]
fn an_archive_that_cannot_be_right_is_refused_with_the_entry_named() {
    let error = refused(Tar::new().file("a", "x").file("a/b", "x"));
    assert!(error.contains("a/b") && error.contains("Not a directory"), "{error}");
    let error = refused(Tar::new().raw("odd", "", b"", |header| header.set_entry_type(EntryType::new(b'Z'))));
    assert!(error.contains("odd") && error.contains("not known"), "{error}");
    let error = refused(Tar::new().link(EntryType::Link, "hard", "missing"));
    assert!(error.contains("hard"), "{error}");
    let mut cut = Tar::new().raw("big", "", &[1; 4096], |_| {}).done();
    cut.truncate(2048);
    let error = unpack(&[cut]).err().unwrap();
    assert!(error.contains("cannot be unpacked"), "{error}");
}
