//! The specifications in testdata/oci: each says in its annotations what its program prints and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use common::{Bundle, stderr, stdout};
use serde_json::Value;

#[test]
fn every_specification_does_what_it_says() {
    let mut files: Vec<_> = fs::read_dir(testkit::testdata("oci")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let mut bundle = Bundle::new(&[]);
        let spec: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let says = |what: &str| spec["annotations"][format!("testdata.{what}")].as_str().unwrap().to_owned();
        let limits = spec["linux"]["resources"].as_object().into_iter().flatten().map(|(name, _)| name);
        let lacks = limits.filter(|name| *name != "devices").find(|name| !common::controls(name));
        if let Some(controller) = lacks {
            testkit::skip(&format!("{}: this machine has no controller for {controller}", file.display()));
            continue;
        }
        let (prints, code) = (says("prints"), says("exit-code"));
        bundle.spec = spec;
        let done = bundle.run();
        let name = file.file_name().unwrap().to_string_lossy();
        assert_eq!(stdout(&done), prints, "{name}: {}", stderr(&done));
        assert_eq!(done.status.code().unwrap().to_string(), code, "{name}");
        bundle.assert_nothing_left();
    }
}
