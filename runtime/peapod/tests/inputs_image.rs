//! Images as tools write them, and as nobody should, loaded into a store and looked at on disk. Needs
//! root: layers have owners, device files and overlayfs' attributes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod inputs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use inputs::{Layout, REF_NAME, Tar, architecture, config, digest, gzip, plain, zstd};
use peapod::image::{Image, ImageError, Loaded, Progress, Store};
use serde_json::{Value, json};

/// A store and a place for sources.
struct Shelf {
    scratch: tempfile::TempDir,
    store: Store,
}

impl Shelf {
    fn new() -> Shelf {
        let scratch = testkit::scratch();
        let store = Store::open(&scratch.path().join("root")).unwrap();
        Shelf { scratch, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Writes an archive and loads it.
    fn load(&self, name: &str, bytes: &[u8]) -> Result<Vec<Loaded>, ImageError> {
        fs::write(self.path(name), bytes).unwrap();
        self.store.load(&self.path(name), None, &mut |_| {})
    }

    /// The text of the one image's only file.
    fn read(&self, reference: &str) -> String {
        fs::read_to_string(self.image(reference).layers[0].join("file")).unwrap()
    }

    fn image(&self, reference: &str) -> Image {
        self.store.resolve(reference).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Loads an archive that must be refused, and fails when anything of it stays in the store.
    fn refused(&self, bytes: &[u8]) -> String {
        let before = self.contents();
        let error = self.load("refused.tar", bytes).expect_err("it must be refused").to_string();
        assert!(error.contains("refused.tar"), "the source is named: {error}");
        assert_eq!(self.contents(), before, "nothing stays in the store");
        error
    }

    fn contents(&self) -> Vec<String> {
        let root = self.path("root/images");
        let list = testkit::output(Command::new("find").arg(&root).args(["-not", "-name", "lock"]));
        let mut list: Vec<String> = list.lines().map(str::to_owned).collect();
        list.sort();
        list
    }
}

/// How bytes are compressed.
type Pack = fn(&[u8]) -> Vec<u8>;

/// A directory's name, tags and layers.
type Saved<'a> = (&'a str, &'a [&'a str], &'a [Vec<u8>]);

fn layer(text: &str) -> Vec<u8> {
    Tar::new().file("file", text).done()
}

fn descriptor(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

fn busybox(path: &Path, arguments: &[&str]) {
    let script = testkit::testdata("../scripts/busybox-image");
    testkit::run(Command::new(script).args(arguments).arg(path));
}

#[test]
fn an_oci_archive_and_a_docker_archive_give_the_same_layer() {
    let shelf = Shelf::new();
    let (oci, docker) = (shelf.path("oci.tar"), shelf.path("docker.tar"));
    busybox(&oci, &[]);
    busybox(&docker, &["--docker"]);
    let error = shelf.store.resolve("localhost/busybox").unwrap_err();
    assert!(matches!(&error, ImageError::NotFound { reference } if reference == "localhost/busybox:latest"), "{error}");
    let mut seen = Vec::new();
    let loaded = shelf.store.load(&oci, None, &mut |progress| seen.push(progress)).unwrap();
    assert_eq!(loaded[0].reference, "localhost/busybox:latest");
    assert!(matches!(seen.as_slice(), [Progress::Unpacking { index: 1, total: 1, .. }]), "{seen:?}");
    seen.clear();
    shelf.store.load(&docker, Some("other:1"), &mut |progress| seen.push(progress)).unwrap();
    assert!(matches!(seen.as_slice(), [Progress::Shared { .. }]), "unpacked once: {seen:?}");
    let first = shelf.image("localhost/busybox");
    assert_eq!(first.layers, shelf.image("other:1").layers);
    assert!(first.layers[0].join("bin/busybox").exists());
    assert_eq!(first.config.config().as_ref().unwrap().env().as_ref().map(Vec::is_empty), Some(false));
    let names: Vec<_> = shelf.store.list().unwrap().into_iter().flat_map(|image| image.references).collect();
    assert_eq!(names, ["docker.io/library/other:1", "localhost/busybox:latest"]);
}

#[test]
fn every_form_and_compression_is_read() {
    let shelf = Shelf::new();
    let directory = shelf.path("layout");
    Layout::simple("x.io/dir:1", &[layer("plain")], plain).write_directory(&directory);
    shelf.store.load(&directory, None, &mut |_| {}).unwrap();
    assert_eq!(shelf.read("x.io/dir:1"), "plain");
    let two_members = |bytes: &[u8]| [gzip(&bytes[..700]), gzip(&bytes[700..])].concat();
    let forms: [(&str, Pack, Pack); 5] = [
        ("gzip-layer", gzip, plain),
        ("zstd-layer", zstd, plain),
        ("gzip-members", two_members, plain),
        ("gzip-archive", plain, gzip),
        ("zstd-archive", gzip, zstd),
    ];
    for (name, of_layer, of_archive) in forms {
        let layout = Layout::simple(&format!("x.io/{name}:1"), &[layer(name)], of_layer);
        shelf.load("archive", &of_archive(&layout.archive())).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(shelf.read(&format!("x.io/{name}:1")), name);
    }
    let error = shelf.refused(&[0xfd, b'7', b'z', b'X', b'Z', 0, 1, 2, 3]);
    assert!(error.contains("xz"), "{error}");
}

#[test]
fn the_list_says_what_an_image_is() {
    let shelf = Shelf::new();
    let layout = Layout::simple("x.io/a:1", &[layer("a")], gzip);
    let loaded = shelf.load("a.tar", &layout.archive()).unwrap();
    let list = shelf.store.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((&list[0].digest, &list[0].references), (&loaded[0].digest, &vec!["x.io/a:1".to_owned()]));
    assert_eq!(list[0].created.as_deref(), Some("2024-01-02T03:04:05Z"));
    assert_eq!(list[0].platform, format!("linux/{}", architecture()));
    let blobs =
        layout.files.iter().filter(|(name, _)| name.starts_with("blobs/") && **name != path_of(&loaded[0].digest));
    assert_eq!(list[0].size, blobs.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[test]
fn a_name_leads_to_the_image_loaded_last_and_a_digest_to_its_own() {
    let shelf = Shelf::new();
    let old = shelf.load("a.tar", &Layout::simple("x.io/a:1", &[layer("old")], gzip).archive()).unwrap().remove(0);
    let new = shelf.load("a.tar", &Layout::simple("x.io/a:1", &[layer("new")], gzip).archive()).unwrap().remove(0);
    assert_ne!(old.digest, new.digest);
    assert_eq!(shelf.read("x.io/a:1"), "new");
    assert_eq!(shelf.read(&old.digest), "old");
    assert_eq!(shelf.read(&format!("x.io/a@{}", old.digest)), "old");
    assert_eq!(shelf.read(&format!("x.io/a:1@{}", new.digest)), "new");
    let list = shelf.store.list().unwrap();
    assert_eq!(list.iter().map(|image| image.references.len()).collect::<Vec<_>>(), [0, 1]);
    let again = shelf.load("a.tar", &Layout::simple("x.io/a:1", &[layer("new")], gzip).archive()).unwrap();
    assert_eq!(again, [new]);
    assert_eq!(shelf.store.list().unwrap(), list, "loading again changes nothing");
    let error = shelf.store.resolve("x.io/a:2").unwrap_err().to_string();
    assert_eq!(error, "image x.io/a:2 is not in the store; load it with `peapod image load ARCHIVE`");
    assert!(matches!(shelf.store.resolve("X//y"), Err(ImageError::BadName(_))));
}

#[test]
fn names_come_from_annotations_the_file_or_the_person() {
    let shelf = Shelf::new();
    let named = |annotation: &str, name: &str, file: &str| {
        let mut layout = Layout::new();
        let image = layout.image(&[layer(file)], config(&[layer(file)], |_| {}), plain);
        layout.list(image, annotation, name);
        shelf.load(file, &layout.archive()).unwrap().remove(0).reference
    };
    assert_eq!(named(REF_NAME, "x.io/a:1", "one.tar"), "x.io/a:1");
    assert_eq!(named(REF_NAME, "1.36", "tool.tar.gz"), "docker.io/library/tool:1.36", "a bare tag");
    assert_eq!(named("io.containerd.image.name", "docker.io/library/b:2", "two.tar"), "docker.io/library/b:2");
    let nameless = named(REF_NAME, "", "three.tar");
    assert!(nameless.starts_with("sha256:"), "{nameless}");
    assert_eq!(shelf.read(&nameless), "three.tar");
    let given = shelf.store.load(&shelf.path("three.tar"), Some("mine"), &mut |_| {}).unwrap().remove(0);
    assert_eq!(given.reference, "docker.io/library/mine:latest");
    assert_eq!(shelf.read("mine"), "three.tar");
    assert!(shelf.store.load(&shelf.path("three.tar"), Some("not/A name"), &mut |_| {}).is_err());
}

#[test]
fn the_image_for_this_machine_is_chosen() {
    let shelf = Shelf::new();
    let mut layout = Layout::new();
    let other = if architecture() == "amd64" { "arm64" } else { "amd64" };
    let mut image = |text: &str, machine: &str| {
        let config = config(&[layer(text)], |config| config["architecture"] = json!(machine));
        layout.image(&[layer(text)], config, gzip)
    };
    let (theirs, ours, attestation) = (image("theirs", other), image("ours", architecture()), image("no", "unknown"));
    let mut special = descriptor(image("special", architecture()), "linux", architecture());
    special["platform"]["variant"] = json!("v9");
    let inner = layout.index(&[
        descriptor(attestation, "unknown", "unknown"),
        descriptor(theirs.clone(), "linux", other),
        special,
        descriptor(ours.clone(), "linux", architecture()),
    ]);
    let outer = layout.index(std::slice::from_ref(&inner));
    layout.list(outer.clone(), REF_NAME, "x.io/multi:1");
    let loaded = shelf.load("multi.tar", &layout.archive()).unwrap();
    assert_eq!(loaded.len(), 1, "{loaded:?}");
    assert_eq!(shelf.read("x.io/multi:1"), "ours");
    let index = outer["digest"].as_str().unwrap();
    assert_eq!(shelf.read(&format!("x.io/multi@{index}")), "ours", "the digest of the whole means this one here");

    let mut foreign = Layout::new();
    let theirs =
        foreign.image(&[layer("x")], config(&[layer("x")], |config| config["architecture"] = json!(other)), gzip);
    foreign.list(descriptor(theirs.clone(), "linux", other), REF_NAME, "x.io/foreign:1");
    let error = shelf.refused(&foreign.archive());
    let machine = format!("linux/{}", architecture());
    assert!(error.contains(&format!("it is for linux/{other}, this machine is {machine}")), "{error}");
    // Without a platform in the index the configuration tells.
    let mut silent = Layout::new();
    let image =
        silent.image(&[layer("x")], config(&[layer("x")], |config| config["architecture"] = json!(other)), gzip);
    silent.list(image, REF_NAME, "x.io/foreign:1");
    let error = shelf.refused(&silent.archive());
    assert!(error.contains(&format!("the image is for linux/{other}")), "{error}");
}

#[test]
fn layers_are_stacked_topmost_first_and_each_once() {
    let shelf = Shelf::new();
    let (a, b) = (layer("a"), layer("b"));
    let layout = Layout::simple("x.io/a:1", &[a.clone(), b.clone(), a.clone()], gzip);
    shelf.load("a.tar", &layout.archive()).unwrap();
    let layers = shelf.image("x.io/a:1").layers;
    let texts: Vec<_> = layers.iter().map(|layer| fs::read_to_string(layer.join("file")).unwrap()).collect();
    assert_eq!(texts, ["a", "b"]);
    shelf.load("b.tar", &Layout::simple("x.io/b:1", &[b], plain).archive()).unwrap();
    assert_eq!(shelf.image("x.io/b:1").layers[0], layers[1], "shared, however it was compressed");
    shelf.load("none.tar", &Layout::simple("x.io/none:1", &[], plain).archive()).unwrap();
    let empty = shelf.image("x.io/none:1").layers;
    assert_eq!(empty.len(), 1, "overlayfs wants one at least");
    assert_eq!(fs::read_dir(&empty[0]).unwrap().count(), 0);
}

fn saved(images: &[Saved<'_>]) -> Tar {
    let mut tar = Tar::new();
    let mut list = Vec::new();
    for (number, (name, tags, layers)) in images.iter().enumerate() {
        let config = config(layers, |_| {});
        let file = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
        let mut paths = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let path = format!("{name}{number}-{index}/layer.tar");
            tar = tar.raw(&path, "", layer, |_| {});
            paths.push(path);
        }
        tar = tar.raw(&file, "", &config, |_| {});
        list.push(json!({"Config": file, "RepoTags": tags, "Layers": paths}));
    }
    tar.raw("manifest.json", "", &serde_json::to_vec(&list).unwrap(), |_| {})
}

#[test]
fn what_docker_save_writes_is_read() {
    let shelf = Shelf::new();
    let tar = saved(&[("a", &["a:1", "x.io/b:2"], &[layer("one")]), ("b", &[], &[layer("two")])]).done();
    let loaded = shelf.load("saved.tar", &gzip(&tar)).unwrap();
    let names: Vec<_> = loaded.iter().map(|one| one.reference.as_str()).collect();
    assert_eq!(&names[..2], ["docker.io/library/a:1", "x.io/b:2"]);
    assert_eq!(
        (shelf.read("a:1"), shelf.read("x.io/b:2"), shelf.read(names[2])),
        ("one".into(), "one".into(), "two".into())
    );
    assert_eq!(shelf.load("again.tar", &tar).unwrap(), loaded, "the same digest, however it is packed");
    let error = shelf.store.load(&shelf.path("again.tar"), Some("c"), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("2 images"), "{error}");
    // An old docker links a layer that comes twice.
    let twice = [layer("x"), layer("x")];
    let config = config(&twice, |_| {});
    let list = json!([{"Config": "c.json", "RepoTags": ["linked:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let tar = Tar::new()
        .raw("1/layer.tar", "", &twice[0], |_| {})
        .link(tar::EntryType::Symlink, "2/layer.tar", "../1/layer.tar")
        .raw("c.json", "", &config, |_| {})
        .raw("manifest.json", "", &serde_json::to_vec(&list).unwrap(), |_| {});
    shelf.load("linked.tar", &tar.done()).unwrap();
    assert_eq!(shelf.read("linked:1"), "x");
}

#[test]
fn damaged_images_are_refused_and_leave_nothing() {
    let shelf = Shelf::new();
    let good = || Layout::simple("x.io/a:1", &[layer("first"), layer("second")], gzip);
    let with = |change: &dyn Fn(&mut Vec<u8>), kind: &str| {
        let mut layout = good();
        let is = |bytes: &[u8]| match kind {
            "layer" => bytes.starts_with(&[0x1f, 0x8b]),
            "config" => bytes.starts_with(b"{\"architecture"),
            _ => {
                bytes.windows(6).any(|window| window == b"layers")
                    && bytes.windows(9).any(|window| window == b"mediaType")
            }
        };
        let (_, bytes) = layout
            .files
            .iter_mut()
            .filter(|(name, _)| name.starts_with("blobs/"))
            .find(|(_, bytes)| is(bytes))
            .unwrap();
        change(bytes);
        shelf.refused(&layout.archive())
    };
    for kind in ["layer", "config", "manifest"] {
        let error = with(&|bytes| *bytes.last_mut().unwrap() ^= 1, kind);
        assert!(error.contains("damaged") || error.contains("cannot be unpacked"), "{kind}: {error}");
        assert!(error.contains("blobs/sha256/"), "{kind}: {error}");
    }
    let error = with(&|bytes| bytes.extend(gzip(b"more")), "layer");
    assert!(error.contains("damaged"), "what comes after the layer counts: {error}");

    let mut layout = good();
    let missing = layout.files.keys().find(|name| name.starts_with("blobs/")).unwrap().clone();
    layout.files.remove(&missing);
    assert!(shelf.refused(&layout.archive()).contains("missing"));

    // A layer that is not the one the configuration names.
    let mut layout = Layout::new();
    let image = layout.image(&[layer("this")], config(&[layer("that")], |_| {}), gzip);
    layout.list(image, REF_NAME, "x.io/a:1");
    assert!(shelf.refused(&layout.archive()).contains(&format!("is not {}", digest(&layer("that")))));
    let mut layout = Layout::new();
    let image = layout.image(&[layer("this")], config(&[], |_| {}), gzip);
    layout.list(image, REF_NAME, "x.io/a:1");
    assert!(shelf.refused(&layout.archive()).contains("1 layers, but its configuration lists 0"));

    let archive = good().archive();
    for length in [100, 600, archive.len() / 2, archive.len() - 1600] {
        shelf.refused(&archive[..length]);
    }
    shelf.refused(b"");
    shelf.refused(&[7; 4096]);
    let error = shelf.refused(&Tar::new().file("unrelated", "x").done());
    assert!(error.contains("it holds no image"), "{error}");
    let error = shelf.refused(&Tar::new().file("manifest.json", "[{\"Config\": \"../../etc/passwd\"}]").done());
    assert!(error.contains("outside of itself"), "{error}");
    let error = shelf.store.load(&shelf.path("nowhere.tar"), None, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("nowhere.tar") && error.contains("No such file"), "{error}");
}
