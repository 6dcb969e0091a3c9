//! What a node and a pod look like to the kernel, without what is random: names of ports, MAC addresses, indices.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::Pod;

/// Everything of one network namespace that two plugins must agree on.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub links: BTreeMap<String, Value>,
    pub addresses: BTreeMap<String, Vec<String>>,
    pub routes: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub qdiscs: Vec<String>,
}

/// Of each link. A bridge's and a port's own flags are beside these. (The reference gives its veths a queue length of 0,
/// which means nothing to a device without a queue.)
const LINK: [&str; 5] = ["mtu", "flags", "master", "promiscuity", "allmulti"];
/// Flags that change by themselves, a moment after what causes it.
const PASSING: [&str; 2] = ["LOWER_UP", "NO-CARRIER"];
const BRIDGE: [&str; 6] =
    ["stp_state", "vlan_filtering", "mcast_snooping", "vlan_default_pvid", "ageing_time", "priority"];
const PORT: [&str; 8] =
    ["hairpin", "guard", "root_block", "learning", "flood", "proxy_arp", "isolated", "neigh_suppress"];
/// Of a node, and of each of its links and of a pod's. (The reference closes a port to router advertisements, which a
/// bridge's port never sees.)
const NODE_SYSCTLS: [&str; 3] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/route_localnet"];
const LINK_SYSCTLS: [&str; 8] = [
    "ipv4/conf/LINK/arp_notify",
    "ipv4/conf/LINK/forwarding",
    "ipv4/conf/LINK/route_localnet",
    "ipv4/conf/LINK/rp_filter",
    "ipv6/conf/LINK/accept_dad",
    "ipv6/conf/LINK/accept_ra",
    "ipv6/conf/LINK/disable_ipv6",
    "ipv6/conf/LINK/keep_addr_on_down",
];

impl Picture {
    /// Of the node this thread is in.
    pub fn of_node() -> Picture {
        Picture::here(&NODE_SYSCTLS)
    }

    pub fn of_pod(pod: &Pod) -> Picture {
        pod.inside(|| Picture::here(&[]))
    }

    fn here(general: &[&str]) -> Picture {
        let links = list(&["ip", "-d", "-j", "link", "show"]);
        let names = named(&links);
        let sysctls = general
            .iter()
            .map(|key| (*key).to_owned())
            .chain(names.keys().flat_map(|name| LINK_SYSCTLS.iter().map(move |key| key.replace("LINK", name))));
        let sysctls = sysctls.filter_map(|key| {
            if key.starts_with("ipv6/conf/veth") && key.ends_with("accept_ra") {
                return None;
            }
            let value = fs::read_to_string(format!("/proc/sys/net/{key}")).ok()?;
            Some((renamed(&key, &names), value.trim().to_owned()))
        });
        Picture {
            sysctls: sysctls.collect(),
            links: links.iter().map(|each| (names[text(each, "ifname")].clone(), link(each, &names))).collect(),
            addresses: addresses(&names),
            routes: routes(&names),
            qdiscs: qdiscs(&names),
        }
    }

    /// Takes something out in which the two are meant to differ.
    pub fn forget_sysctl(&mut self, end: &str) {
        self.sysctls.retain(|key, _| !key.ends_with(end));
    }

    /// What `other` has differently, in words; nothing when they are alike.
    pub fn differences(&self, other: &Picture) -> Vec<String> {
        let mut all = Vec::new();
        differ("link", &self.links, &other.links, &mut all);
        differ("address", &self.addresses, &other.addresses, &mut all);
        differ("sysctl", &self.sysctls, &other.sysctls, &mut all);
        for (what, own, others) in [("route", &self.routes, &other.routes), ("qdisc", &self.qdiscs, &other.qdiscs)] {
            if own != others {
                all.push(format!("{what}s: {own:?} and {others:?}"));
            }
        }
        all
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(
    what: &str,
    own: &BTreeMap<String, T>,
    others: &BTreeMap<String, T>,
    all: &mut Vec<String>,
) {
    let names: std::collections::BTreeSet<_> = own.keys().chain(others.keys()).collect();
    for name in names.into_iter().filter(|name| own.get(*name) != others.get(*name)) {
        all.push(format!("{what} {name}: {:?} and {:?}", own.get(name), others.get(name)));
    }
}

fn list(words: &[&str]) -> Vec<Value> {
    let text = testkit::output(Command::new(words[0]).args(&words[1..]));
    match text.is_empty() {
        true => Vec::new(),
        false => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}")),
    }
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

/// Links by what they are called here: ports have random names, and so have ifb devices.
fn named(links: &[Value]) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let name = |each: &Value| -> String {
        let kind = match (text(&each["linkinfo"], "info_kind"), each["master"].is_string()) {
            ("veth", true) => "port",
            ("ifb", _) => "ifb",
            _ => return text(each, "ifname").to_owned(),
        };
        let count = counts.entry(kind).or_default();
        *count += 1;
        format!("<{kind} {count}>")
    };
    let names: Vec<String> = links.iter().map(name).collect();
    links.iter().map(|each| text(each, "ifname").to_owned()).zip(names).collect()
}

fn renamed(text: &str, names: &BTreeMap<String, String>) -> String {
    let words = text.split_inclusive(['/', ' ']).map(|word| {
        let end = word.len() - word.trim_end_matches(['/', ' ']).len();
        let (word, end) = word.split_at(word.len() - end);
        format!("{}{end}", names.get(word).map_or(word, String::as_str))
    });
    words.collect()
}

fn pick(of: &Value, keys: &[&str]) -> Map<String, Value> {
    keys.iter().filter(|key| !of[**key].is_null()).map(|key| ((*key).to_owned(), of[*key].clone())).collect()
}

fn link(each: &Value, names: &BTreeMap<String, String>) -> Value {
    let mut all = pick(each, &LINK);
    if let Some(Value::Array(flags)) = all.get_mut("flags") {
        flags.retain(|flag| !PASSING.contains(&flag.as_str().unwrap()));
        flags.sort_by_key(Value::to_string);
    }
    if let Some(Value::String(master)) = all.get_mut("master") {
        *master = renamed(master, names);
    }
    let info = &each["linkinfo"];
    all.insert("kind".into(), info["info_kind"].clone());
    all.insert("bridge".into(), json!(pick(&info["info_data"], &BRIDGE)));
    all.insert("port".into(), json!(pick(&info["info_slave_data"], &PORT)));
    Value::Object(all)
}

/// All but link-local ones, which are made of random MAC addresses.
fn addresses(names: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
    let of_link = |each: &Value| {
        let all = each["addr_info"].as_array().cloned().unwrap_or_default();
        let mut all: Vec<String> = all
            .iter()
            .filter(|address| !(text(address, "family") == "inet6" && text(address, "scope") == "link"))
            .map(|address| {
                let broadcast = address["broadcast"].as_str().map(|to| format!(" brd {to}")).unwrap_or_default();
                format!("{}/{} {}{broadcast}", text(address, "local"), address["prefixlen"], text(address, "scope"))
            })
            .collect();
        all.sort();
        (names[text(each, "ifname")].clone(), all)
    };
    list(&["ip", "-j", "address", "show"]).iter().map(of_link).collect()
}

fn routes(names: &BTreeMap<String, String>) -> Vec<String> {
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        let text = testkit::output(Command::new("ip").args([family, "route", "show", "table", "main"]));
        // Whose protocol number a route has tells who made it and no more.
        let plain = text
            .lines()
            .map(|line| line.replace(" proto static", "").replace(" proto boot", "").replace(" linkdown", ""));
        all.extend(plain.map(|line| renamed(line.trim_end(), names)).filter(|line| !line.starts_with("fe80:")));
    }
    all.sort();
    all
}

fn qdiscs(names: &BTreeMap<String, String>) -> Vec<String> {
    let text = testkit::output(Command::new("tc").args(["qdisc", "show"]));
    let mut all: Vec<String> = text
        .lines()
        .filter(|line| !line.contains("noqueue"))
        .map(|line| {
            // "qdisc tbf 8001: dev eth0 root refcnt 2 rate ..."
            let words: Vec<&str> = line.split_whitespace().collect();
            let known = words.iter().enumerate().filter(|(place, word)| {
                *place != 2 && **word != "refcnt" && words.get(place.wrapping_sub(1)) != Some(&"refcnt")
            });
            renamed(&known.map(|(_, word)| *word).collect::<Vec<_>>().join(" "), names)
        })
        .collect();
    all.sort();
    all
}
