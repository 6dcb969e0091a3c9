//! The plugin `host-local` under its own name, and its files.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Answer, PLUGIN, feed, merge};

/// A directory of leases, and the plugin.
pub struct Ipam {
    pub dir: tempfile::TempDir,
}

impl Ipam {
    pub fn new() -> Ipam {
        testkit::enter_node();
        Ipam { dir: testkit::scratch() }
    }

    pub fn net(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    pub fn conf(&self, extra: Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "ptp", "ipam": {
            "type": "host-local", "dataDir": self.dir.path(), "ranges": [[{"subnet": "10.1.2.0/24"}]]}});
        merge(&mut conf, extra);
        conf
    }

    /// A network of that subnet only.
    pub fn of(&self, subnet: &str) -> Value {
        self.conf(json!({"ipam": {"ranges": [[{"subnet": subnet}]]}}))
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.net().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn leased(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.net()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        names.sort();
        names
    }

    /// A lease as the reference writes it, in a boot long past or now.
    pub fn lease(&self, name: &str, text: &str, old: bool) {
        fs::create_dir_all(self.net()).unwrap();
        fs::write(self.net().join(name), text).unwrap();
        if old {
            self.age(name);
        }
    }

    pub fn age(&self, name: &str) {
        let year_2001 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(self.net().join(name)).unwrap().set_modified(year_2001).unwrap();
    }
}

pub fn command(verb: &str, id: &str, ifname: &str, netns: &str) -> Command {
    let mut command = Command::new(PLUGIN);
    command.arg0("host-local").env_clear().env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id);
    command.env("CNI_IFNAME", ifname).env("CNI_NETNS", netns);
    command
}

pub fn call(verb: &str, conf: &Value, id: &str) -> Answer {
    feed(&mut command(verb, id, "eth0", "/dev/null"), conf.to_string().as_bytes())
}

pub fn add(conf: &Value, id: &str) -> Vec<String> {
    let answer = call("ADD", conf, id);
    assert!(answer.ok, "ADD {id}: {}", answer.text);
    let ips = answer.json()["ips"].as_array().unwrap().clone();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

pub fn refused(conf: &Value, id: &str) -> String {
    call("ADD", conf, id).message()
}

pub fn del(conf: &Value, id: &str) {
    let answer = call("DEL", conf, id);
    assert!(answer.ok && answer.text.is_empty(), "DEL {id}: {}", answer.text);
}
