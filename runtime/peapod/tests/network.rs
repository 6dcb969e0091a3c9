//! The runtime side of CNI against plugins that write down what they were told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use peapod::manifest::Pod;
use peapod::network::{Attachment, Network, Request};
use serde_json::{Value, json};

const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - name: c
    image: i
    ports: [{containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}, {containerPort: 53, protocol: UDP}]
";

/// A directory of plugins, and of what they wrote down.
struct Plugins {
    scratch: tempfile::TempDir,
}

impl Plugins {
    fn new() -> Plugins {
        Plugins { scratch: testkit::scratch() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A plugin that notes each call and its input, answers ADD with `answer`, and fails the verbs in `fails`.
    fn add(&self, name: &str, answer: &str, fails: &str) {
        let dir = self.scratch.path().display();
        let script = format!(
            "#!/bin/sh\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS\" >> {dir}/calls\n\
             cat > {dir}/{name}.$CNI_COMMAND\necho \"$CNI_ARGS\" > {dir}/{name}.args\n\
             case ' {fails} ' in *\" $CNI_COMMAND \"*) echo '{{\"code\": 999, \"msg\": \"out of luck\"}}'; exit 1;; esac\n\
             [ $CNI_COMMAND = DEL ] || echo '{answer}'\n"
        );
        // Written and closed under another name by another process: a file that is being written cannot be run.
        let (path, part) = (self.path(name), self.path("part"));
        fs::write(&part, script).unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).unwrap();
        testkit::run(std::process::Command::new("cp").args(["-p", &part.to_string_lossy(), &path.to_string_lossy()]));
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn input(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn dirs(&self) -> Vec<PathBuf> {
        vec![self.path("empty"), self.scratch.path().to_owned()]
    }

    fn attachment(&self, version: &str) -> Attachment {
        let manifest = self.path("web.yaml");
        fs::write(&manifest, MANIFEST).unwrap();
        let pod: Pod = peapod::manifest::load(&manifest).unwrap().remove(0);
        let config = json!({"cniVersion": version, "name": "n", "plugins": [
            {"type": "first", "bridge": "br0"}, {"type": "second", "capabilities": {"portMappings": true}},
        ]});
        Attachment::new(Network::try_from(config).unwrap(), Request::new("uid-1", &pod))
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

const FIRST: &str = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]}"#;
const SECOND: &str = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.3/24"}], "mark": 2}"#;

#[test]
fn plugins_are_chained_forwards_for_add_and_backwards_for_del() {
    let plugins = Plugins::new();
    plugins.add("first", FIRST, "");
    plugins.add("second", SECOND, "");
    let file = plugins.path("network.json");
    let mut attachment = plugins.attachment("1.0.0");
    let addresses = block_on(attachment.add(&file, &plugins.dirs(), Path::new("/proc/1/ns/net"))).unwrap();
    assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.9.0.3"], "the last result counts");
    let add = ["first ADD uid-1 eth0 /proc/1/ns/net", "second ADD uid-1 eth0 /proc/1/ns/net"];
    assert_eq!(plugins.calls(), add);

    assert_eq!(plugins.input("first.ADD")["bridge"], "br0");
    assert_eq!(plugins.input("first.ADD").get("runtimeConfig"), None, "it did not say that it can map ports");
    let second = plugins.input("second.ADD");
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]);
    assert_eq!(second["runtimeConfig"]["portMappings"], mapping);
    let args = fs::read_to_string(plugins.path("first.args")).unwrap();
    assert!(args.contains("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"), "{args}");

    // What is on disk is enough, and the namespace need not be there any more.
    let stored = Attachment::load(&file).unwrap().unwrap();
    block_on(stored.remove(&file, &plugins.dirs(), None)).unwrap();
    assert_eq!(plugins.calls()[2..], ["second DEL uid-1 eth0", "first DEL uid-1 eth0"]);
    assert_eq!(plugins.input("first.DEL")["prevResult"]["mark"], 2, "DEL is told the final result");
    assert!(!file.exists());
}

#[test]
fn a_failed_add_is_one_clear_error_and_can_be_undone() {
    let plugins = Plugins::new();
    plugins.add("first", FIRST, "");
    plugins.add("second", SECOND, "ADD");
    let file = plugins.path("network.json");
    let mut attachment = plugins.attachment("1.0.0");
    let error = block_on(attachment.add(&file, &plugins.dirs(), Path::new("/proc/1/ns/net"))).unwrap_err();
    assert_eq!(error.to_string(), "network n: ADD by plugin second failed: out of luck");
    let stored = Attachment::load(&file).unwrap().expect("written down before the first plugin ran");
    block_on(stored.remove(&file, &plugins.dirs(), None)).unwrap();
    assert_eq!(plugins.calls()[2..], ["second DEL uid-1 eth0", "first DEL uid-1 eth0"]);
}

#[test]
fn every_plugin_gets_its_del_and_what_failed_can_be_tried_again() {
    let plugins = Plugins::new();
    plugins.add("first", FIRST, "");
    plugins.add("second", SECOND, "DEL");
    let file = plugins.path("network.json");
    let mut attachment = plugins.attachment("0.3.1");
    block_on(attachment.add(&file, &plugins.dirs(), Path::new("/proc/1/ns/net"))).unwrap();
    let error = block_on(attachment.remove(&file, &plugins.dirs(), None)).unwrap_err().to_string();
    assert!(error.contains("DEL by plugin second failed: out of luck"), "{error}");
    assert_eq!(plugins.calls().last().unwrap(), "first DEL uid-1 eth0");
    assert_eq!(plugins.input("first.DEL").get("prevResult"), None, "DEL is told no result before 0.4.0");
    assert!(file.exists(), "kept for the next attempt");
}

#[test]
fn a_plugin_that_is_not_there_is_named_with_where_it_was_sought() {
    let plugins = Plugins::new();
    let mut attachment = plugins.attachment("1.0.0");
    let file = plugins.path("network.json");
    let error = block_on(attachment.add(&file, &plugins.dirs(), Path::new("/proc/1/ns/net"))).unwrap_err().to_string();
    assert!(error.contains("plugin first") && error.contains(&*plugins.path("empty").to_string_lossy()), "{error}");
}
