//! Called by libcni's own tool, in every version of the specification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use common::{Node, PLUGIN, Pod};
use serde_json::{Value, json};

struct Tool {
    path: String,
    node: Node,
}

impl Tool {
    /// None where `CNITOOL` does not name the tool.
    fn new() -> Option<Tool> {
        let Ok(path) = std::env::var("CNITOOL") else {
            testkit::skip(
                "CNITOOL does not name a cnitool (go install github.com/containernetworking/cni/cnitool@v1.3.0)",
            );
            return None;
        };
        let node = Node::new();
        for dir in ["bin", "conf", "var"] {
            fs::create_dir(node.dir.path().join(dir)).unwrap();
        }
        symlink(PLUGIN, node.dir.path().join("bin/cni-bridge")).unwrap();
        Some(Tool { path, node })
    }

    fn configure(&self, version: &str, plugin: Value) {
        let list = json!({"cniVersion": version, "name": "podnet", "plugins": [plugin]});
        fs::write(self.node.dir.path().join("conf/podnet.conflist"), list.to_string()).unwrap();
    }

    /// libcni keeps its results below /var/lib, where nothing of a test may stay: it sees the scratch directory there.
    fn run(&self, verb: &str, netns: &str) -> Output {
        let dir = self.node.dir.path();
        let script = r#"mount --bind "$1" /var/lib && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(dir.join("var"));
        command.args([&self.path, verb, "podnet", netns]);
        command.env("CNI_PATH", dir.join("bin")).env("NETCONFPATH", dir.join("conf"));
        testkit::attempt(&mut command)
    }

    fn must(&self, verb: &str, netns: &str) -> String {
        let done = self.run(verb, netns);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "cnitool {verb}: {text} {}", String::from_utf8_lossy(&done.stderr));
        text
    }
}

#[test]
fn add_check_and_del_pass_in_every_version() {
    let Some(tool) = Tool::new() else { return };
    let conf = tool.node.dual(json!({"ipMasq": true, "mtu": 1450}));
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Pod::new();
        tool.configure(version, conf.clone());
        let result = tool.must("add", &pod.path());
        assert!(result.contains("10.1.2."), "{version}: {result}");
        assert!(pod.pings("10.1.2.1") && pod.pings("fd00:1::1"), "{version}");
        if version >= "0.4.0" {
            tool.must("check", &pod.path());
        }
        if version >= "1.1.0" {
            tool.must("status", &pod.path());
        }
        tool.must("del", &pod.path());
        tool.must("del", &pod.path());
        assert_eq!(
            (tool.node.links(), tool.node.leased().len(), tool.node.ruleset()),
            (vec!["br0".to_owned()], 0, String::new()),
            "{version}"
        );
    }
}

#[test]
fn an_error_reaches_the_caller_in_words() {
    let Some(tool) = Tool::new() else { return };
    tool.configure("1.0.0", tool.node.conf(json!({"vlan": 100})));
    let done = tool.run("add", &Pod::new().path());
    let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert!(!done.status.success() && said.contains("vlan: 100 is not supported"), "{said}");
}

#[test]
fn gc_without_a_list_detaches_what_libcni_knows_and_nothing_else() {
    let Some(tool) = Tool::new() else { return };
    let conf = tool.node.conf(json!({"ipMasq": true}));
    tool.configure("1.1.0", conf.clone());
    let (known, unknown) = (Pod::new(), Pod::new());
    tool.must("add", &known.path());
    tool.node.add(&conf, "unknown", &unknown);
    assert_eq!(tool.node.leased(), ["10.1.2.2", "10.1.2.3"]);
    // cnitool names nobody as valid: libcni calls DEL for each attachment it remembers, then GC without a list.
    tool.must("gc", &known.path());
    assert_eq!(tool.node.leased(), ["10.1.2.3"]);
    assert!(unknown.ip(&["link"]).contains("eth0"));
    tool.node.del(&conf, "unknown", &unknown);
}
