//! Images as tools write them, loaded into a store and looked at on disk. Needs root: layers have
//! owners, device files and overlayfs' attributes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::process::Command;

use peapod::image::{ImageError, Progress, Store};

fn busybox(path: &Path, arguments: &[&str]) {
    let script = testkit::testdata("../scripts/busybox-image");
    testkit::run(Command::new(script).args(arguments).arg(path));
}

#[test]
fn an_oci_archive_and_a_docker_archive_give_the_same_layer() {
    let scratch = testkit::scratch();
    let store = Store::open(scratch.path()).unwrap();
    let (oci, docker) = (scratch.path().join("oci.tar"), scratch.path().join("docker.tar"));
    busybox(&oci, &[]);
    busybox(&docker, &["--docker"]);
    let error = store.resolve("localhost/busybox").unwrap_err();
    assert!(matches!(&error, ImageError::NotFound { reference } if reference == "localhost/busybox:latest"), "{error}");
    let mut seen = Vec::new();
    let loaded = store.load(&oci, None, &mut |progress| seen.push(progress)).unwrap();
    assert_eq!(loaded[0].reference, "localhost/busybox:latest");
    assert!(matches!(seen.as_slice(), [Progress::Unpacking { index: 1, total: 1, .. }]), "{seen:?}");
    let first = store.resolve("localhost/busybox").unwrap();
    seen.clear();
    store.load(&docker, Some("other:1"), &mut |progress| seen.push(progress)).unwrap();
    assert!(matches!(seen.as_slice(), [Progress::Shared { .. }]), "unpacked once: {seen:?}");
    let second = store.resolve("other:1").unwrap();
    assert_eq!(first.layers, second.layers);
    assert!(first.layers[0].join("bin/busybox").exists());
    let list = store.list().unwrap();
    let names: Vec<_> = list.iter().flat_map(|image| image.references.clone()).collect();
    assert_eq!(names, ["docker.io/library/other:1", "localhost/busybox:latest"]);
}
