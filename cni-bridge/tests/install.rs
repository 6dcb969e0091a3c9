//! `scripts/install` puts every type where a runtime looks, and takes nothing from anybody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::chain::TYPES;

/// A machine below a scratch directory, and binaries to install that are one word each.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Machine {
        let machine = Machine(testkit::scratch());
        machine.build("first");
        machine
    }

    fn build(&self, word: &str) {
        let built = self.0.path().join("built");
        fs::create_dir_all(&built).unwrap();
        for name in ["pea", "containerd-shim-pea-v2", "peapod", "cni-bridge"] {
            fs::write(built.join(name), word).unwrap();
        }
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install");
        let mut command = Command::new(script);
        command.args(arguments).env("DESTDIR", self.0.path()).env("BUILT", self.0.path().join("built"));
        testkit::attempt(&mut command)
    }

    fn must(&self, arguments: &[&str]) -> String {
        let done = self.install(arguments);
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn put(&self, name: &str, word: &str) {
        fs::create_dir_all(self.0.path().join("opt/cni/bin")).unwrap();
        fs::write(self.0.path().join("opt/cni/bin").join(name), word).unwrap();
    }

    /// What every plugin there is.
    fn plugins(&self) -> BTreeMap<String, String> {
        let files = fs::read_dir(self.0.path().join("opt/cni/bin")).unwrap().map(|entry| entry.unwrap());
        let files = files.filter(|entry| entry.file_type().unwrap().is_file());
        files
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
            .collect()
    }
}

fn all(word: &str) -> BTreeMap<String, String> {
    TYPES.iter().map(|name| ((*name).to_owned(), word.to_owned())).collect()
}

#[test]
fn every_type_is_installed_renewed_and_removed() {
    let machine = Machine::new();
    machine.must(&[]);
    assert_eq!(machine.plugins(), all("first"));
    machine.build("second");
    machine.must(&[]);
    assert_eq!(machine.plugins(), all("second"));
    assert_eq!(fs::read_to_string(machine.0.path().join("usr/local/bin/pea")).unwrap(), "second");
    machine.must(&["--uninstall"]);
    assert_eq!(machine.plugins(), BTreeMap::new());
    assert!(fs::read_dir(machine.0.path().join("usr/local/bin")).unwrap().next().is_none());
    machine.must(&["--uninstall"]);
}

#[test]
fn another_vendors_plugin_stays_and_is_named() {
    let machine = Machine::new();
    machine.put("bridge", "vendor");
    let said = machine.must(&[]);
    assert!(said.contains("left alone") && said.contains("bridge (--replace"), "{said}");
    let mut expected = all("first");
    expected.insert("bridge".into(), "vendor".into());
    assert_eq!(machine.plugins(), expected);
    machine.must(&["--uninstall"]);
    assert_eq!(machine.plugins(), BTreeMap::from([("bridge".into(), "vendor".into())]));
}

#[test]
fn what_is_replaced_comes_back() {
    let machine = Machine::new();
    machine.put("bridge", "vendor");
    machine.must(&["--replace"]);
    assert_eq!(machine.plugins(), all("first"));
    machine.build("second");
    machine.must(&["--replace"]);
    assert_eq!(machine.plugins(), all("second"));
    let said = machine.must(&["--uninstall"]);
    assert!(said.contains("back in"), "{said}");
    assert_eq!(machine.plugins(), BTreeMap::from([("bridge".into(), "vendor".into())]));
    assert!(!machine.0.path().join("opt/cni/bin/.replaced").exists());
}

// kube-flannel's installer does so.
#[test]
fn a_plugin_copied_over_ours_changes_no_other() {
    let machine = Machine::new();
    machine.must(&[]);
    machine.put("flannel", "vendor");
    let mut expected = all("first");
    expected.insert("flannel".into(), "vendor".into());
    assert_eq!(machine.plugins(), expected);
    assert!(machine.must(&[]).contains("left alone"));
    machine.must(&["--uninstall"]);
    assert_eq!(machine.plugins(), BTreeMap::from([("flannel".into(), "vendor".into())]));
}

#[test]
fn an_unknown_argument_changes_nothing() {
    let machine = Machine::new();
    assert!(!machine.install(&["--force"]).status.success());
    assert!(!machine.0.path().join("opt").exists() && !machine.0.path().join("usr").exists());
    assert!(machine.must(&["--help"]).contains("--uninstall"));
}
