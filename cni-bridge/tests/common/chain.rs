//! A list of plugins called one after the other, as a runtime does it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Answer, PLUGIN, Pod, feed, merge};

/// Whose plugins are called.
#[derive(Debug, Clone)]
pub enum Whose {
    Ours,
    /// Ours too, each under its own name in this directory: see [`link_all`].
    Linked(PathBuf),
    /// The reference's, in this directory.
    Reference(PathBuf),
}

/// Every type there is, and the binary's own name.
pub const TYPES: [&str; 10] = [
    "cni-bridge",
    "bridge",
    "host-local",
    "static",
    "loopback",
    "portmap",
    "flannel",
    "firewall",
    "tuning",
    "bandwidth",
];

/// Makes `directory` what a runtime's directory of plugins is after an installation.
pub fn link_all(directory: &Path) -> Whose {
    std::fs::create_dir_all(directory).unwrap();
    for name in TYPES {
        std::os::unix::fs::symlink(PLUGIN, directory.join(name)).unwrap();
    }
    Whose::Linked(directory.into())
}

impl Whose {
    fn program(&self, plugin: &str) -> PathBuf {
        match self {
            Whose::Ours => PLUGIN.into(),
            Whose::Linked(dir) | Whose::Reference(dir) => dir.join(plugin),
        }
    }

    /// One call of one plugin.
    pub fn call(&self, verb: &str, conf: &Value, id: &str, netns: &str) -> Answer {
        let mut command = Command::new(self.program(conf["type"].as_str().unwrap()));
        let path = match self {
            Whose::Ours => Path::new("/nonexistent"),
            Whose::Linked(dir) | Whose::Reference(dir) => dir,
        };
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("CNI_PATH", path);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0").env("CNI_NETNS", netns);
        feed(&mut command, conf.to_string().as_bytes())
    }
}

/// A list of plugins, all of one make.
#[derive(Debug, Clone)]
pub struct Chain {
    pub whose: Whose,
    pub name: String,
    pub version: String,
    pub plugins: Vec<Value>,
    /// What the runtime offers, by capability.
    pub offers: Value,
}

impl Chain {
    pub fn new(whose: Whose, version: &str, plugins: Vec<Value>) -> Chain {
        Chain { whose, name: "podnet".into(), version: version.into(), plugins, offers: json!({}) }
    }

    /// A list as it lies in a runtime's directory of configurations.
    pub fn of_list(whose: Whose, list: &Value) -> Chain {
        let text = |key: &str| list[key].as_str().unwrap().to_owned();
        let plugins = list["plugins"].as_array().unwrap().clone();
        Chain { whose, name: text("name"), version: text("cniVersion"), plugins, offers: json!({}) }
    }

    /// Gives the plugins that have the capabilities these values.
    pub fn offering(self, offers: Value) -> Chain {
        Chain { offers, ..self }
    }

    /// The configuration the plugin of that place in the list is given.
    pub fn conf(&self, place: usize, previous: &Value) -> Value {
        let mut conf = json!({"cniVersion": self.version, "name": self.name});
        merge(&mut conf, self.plugins[place].clone());
        for (capability, value) in self.offers.as_object().unwrap() {
            if conf["capabilities"][capability] == true {
                conf["runtimeConfig"][capability] = value.clone();
            }
        }
        if !previous.is_null() {
            conf["prevResult"] = previous.clone();
        }
        conf
    }

    /// Calls ADD of each in turn; the first that fails ends it.
    pub fn try_add(&self, id: &str, pod: &Pod) -> Result<Value, Answer> {
        let mut result = Value::Null;
        for place in 0..self.plugins.len() {
            let answer = self.whose.call("ADD", &self.conf(place, &result), id, &pod.path());
            if !answer.ok {
                return Err(answer);
            }
            result = answer.json();
        }
        Ok(result)
    }

    pub fn add(&self, id: &str, pod: &Pod) -> Value {
        self.try_add(id, pod).unwrap_or_else(|answer| panic!("ADD {id}: {answer:?}"))
    }

    /// Calls DEL of each, the last one first; every one must succeed.
    pub fn del(&self, id: &str, netns: &str, result: &Value) {
        for place in (0..self.plugins.len()).rev() {
            let answer = self.whose.call("DEL", &self.conf(place, result), id, netns);
            assert!(answer.ok, "DEL {id}: {}: {answer:?}", self.plugins[place]["type"]);
        }
    }

    /// Calls CHECK of each in turn; the first that fails ends it.
    pub fn check(&self, id: &str, pod: &Pod, result: &Value) -> Result<(), Answer> {
        for place in 0..self.plugins.len() {
            let answer = self.whose.call("CHECK", &self.conf(place, result), id, &pod.path());
            if !answer.ok {
                return Err(answer);
            }
        }
        Ok(())
    }

    /// Calls GC of each with this list of `[id, interface]`, none = without a list.
    pub fn gc(&self, valid: Option<&[(&str, &str)]>) {
        for place in 0..self.plugins.len() {
            let mut conf = self.conf(place, &Value::Null);
            if let Some(valid) = valid {
                let items: Vec<_> =
                    valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
                conf["cni.dev/valid-attachments"] = json!(items);
            }
            let answer = self.whose.call("GC", &conf, "unused", "");
            assert!(answer.ok, "GC: {}: {answer:?}", self.plugins[place]["type"]);
        }
    }
}
