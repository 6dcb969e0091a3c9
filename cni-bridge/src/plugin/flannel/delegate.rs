//! The configuration of the plugin that does the work, made of flannel's own and of what flanneld wrote.

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::subnet::Subnet;
use crate::spec::json::Node;
use crate::spec::{Config, Error};

/// What does the work unless `delegate.type` says otherwise.
const BRIDGE: &str = "bridge";
/// What never does.
const FLANNEL: &str = "flannel";

/// What is known of the node's subnet.
#[derive(Debug, Clone)]
pub enum Known {
    /// What flanneld wrote.
    All(Subnet),
    /// The file is gone. The subnets of the attachment's addresses, if it is known what these were: enough to undo it.
    Subnets(Vec<IpNetwork>),
}

/// The plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegated {
    /// Its type.
    pub plugin: String,
    /// What it gets on stdin, without what is of one call only.
    pub config: Map<String, Value>,
}

impl Delegated {
    /// Makes it.
    ///
    /// # Errors
    /// [`crate::spec::code::INVALID_CONFIG`] for a `delegate` that says what flannel itself says.
    pub fn new(config: &Config, known: &Known) -> Result<Delegated, Error> {
        let root = config.root();
        let mut made = object(&root.get("delegate"))?;
        let plugin = check(&made)?.to_owned();
        made.insert("name".into(), json!(config.name));
        made.insert("type".into(), json!(plugin));
        made.insert("cniVersion".into(), json!(config.version.name()));
        // `args` too: what was asked of this plugin is asked of the one that can do it.
        for key in ["runtimeConfig", "args"] {
            if let Some(value) = root.get(key).value() {
                made.insert(key.into(), value.clone());
            }
        }
        if let Known::All(subnet) = known {
            // Where flanneld does not masquerade, the plugin does.
            set_unless_there(&mut made, "ipMasq", json!(!subnet.ip_masq));
            set_unless_there(&mut made, "mtu", json!(subnet.mtu));
        }
        if plugin == BRIDGE {
            set_unless_there(&mut made, "isGateway", json!(true));
        }
        made.insert("ipam".into(), Value::Object(ipam(&root.get("ipam"), known)?));
        Ok(Delegated { plugin, config: made })
    }

    /// The one that an ADD has noted; none when the note is no configuration.
    pub fn of_note(note: &[u8]) -> Option<Delegated> {
        let config: Map<String, Value> = serde_json::from_slice(note).ok()?;
        let plugin = member(&config, "type")?.as_str().filter(|name| *name != FLANNEL)?.to_owned();
        Some(Delegated { plugin, config })
    }

    /// Whether it is one of this network.
    pub fn is_of(&self, network: &str) -> bool {
        member(&self.config, "name").and_then(Value::as_str) == Some(network)
    }

    /// The subnets its addresses come from.
    pub fn subnets(&self) -> Vec<IpNetwork> {
        let ipam = member(&self.config, "ipam").and_then(Value::as_object);
        let ranges = ipam.and_then(|ipam| member(ipam, "ranges")).and_then(Value::as_array).into_iter().flatten();
        let subnet = |range: &Value| member(range.as_object()?, "subnet")?.as_str()?.parse().ok();
        ranges.filter_map(Value::as_array).flatten().filter_map(subnet).collect()
    }

    /// What goes to its stdin, with what the runtime says for this call.
    pub fn stdin(&self, call: &Config) -> Vec<u8> {
        let mut config = self.config.clone();
        for key in ["prevResult", "cni.dev/valid-attachments", "cni.dev/attachments"] {
            if let Some(value) = call.root().get(key).value() {
                config.insert(key.into(), value.clone());
            }
        }
        Value::Object(config).to_string().into_bytes()
    }
}

fn object(node: &Node<'_>) -> Result<Map<String, Value>, Error> {
    match node.value() {
        None => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object.clone()),
        Some(other) => {
            Err(Error::new(crate::spec::code::DECODE, format!("{}: expected an object, found {other}", node.path())))
        }
    }
}

/// A member, whatever its case.
fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

fn set_unless_there(object: &mut Map<String, Value>, key: &str, value: Value) {
    if member(object, key).is_none() {
        object.insert(key.into(), value);
    }
}

/// Checks `delegate`; returns its type. The words are the reference's.
fn check(delegate: &Map<String, Value>) -> Result<&str, Error> {
    for key in ["name", "ipam"] {
        if member(delegate, key).is_some() {
            let msg = format!("'delegate' dictionary must not have '{key}' field, it'll be set by flannel");
            return Err(Error::config(msg));
        }
    }
    match member(delegate, "type") {
        None => Ok(BRIDGE),
        Some(Value::String(name)) if name == FLANNEL => {
            Err(Error::config("'delegate' dictionary must not have the type flannel: it would call itself"))
        }
        Some(Value::String(name)) => Ok(name),
        Some(_) => Err(Error::config("'delegate' dictionary, if present, must have (string) 'type' field")),
    }
}

/// `ipam`: flannel's own, with the node's subnets, and routes to the cluster's networks after those it has.
fn ipam(node: &Node<'_>, known: &Known) -> Result<Map<String, Value>, Error> {
    let mut ipam = object(node)?;
    set_unless_there(&mut ipam, "type", json!("host-local"));
    let (subnets, networks) = match known {
        Known::All(subnet) => (&subnet.subnets[..], &subnet.networks[..]),
        Known::Subnets(subnets) => (&subnets[..], &[][..]),
    };
    let mut routes = match node.get("routes").value() {
        None => Vec::new(),
        Some(Value::Array(routes)) => routes.clone(),
        Some(_) => return Err(Error::config("failed to parse ipam.routes: expected an array")),
    };
    routes.extend(networks.iter().map(|network| json!({"dst": network})));
    ipam.retain(|key, _| !["ranges", "routes"].iter().any(|ours| key.eq_ignore_ascii_case(ours)));
    if !subnets.is_empty() {
        let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
        ipam.insert("ranges".into(), Value::Array(ranges));
    }
    ipam.insert("routes".into(), Value::Array(routes));
    Ok(ipam)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let networks = |all: &[&str]| all.iter().map(|each| each.parse().unwrap()).collect();
        Known::All(Subnet {
            networks: networks(&["10.244.0.0/16", "fd00::/56"]),
            subnets: networks(&["10.244.1.0/24", "fd00:0:0:1::/64"]),
            mtu: 1450,
            ip_masq: true,
        })
    }

    fn made(keys: &str) -> Result<Delegated, Error> {
        let text = format!(r#"{{"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel" {keys}}}"#);
        Delegated::new(&Config::parse(text.as_bytes()).unwrap(), &known())
    }

    #[test]
    fn the_plugin_gets_what_flanneld_wrote() {
        let delegated = made(r#", "delegate": {"hairpinMode": true, "isDefaultGateway": true}"#).unwrap();
        assert_eq!(delegated.plugin, "bridge");
        assert_eq!(
            Value::Object(delegated.config),
            json!({
                "name": "cbr0", "cniVersion": "0.3.1", "type": "bridge", "hairpinMode": true, "isDefaultGateway": true,
                "isGateway": true, "ipMasq": false, "mtu": 1450,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:0:0:1::/64"}]],
                    "routes": [{"dst": "10.244.0.0/16"}, {"dst": "fd00::/56"}],
                },
            })
        );
    }

    #[test]
    fn what_the_person_says_stays_and_what_the_runtime_says_is_passed_on() {
        let delegated = made(
            r#", "Delegate": {"type": "macvlan", "MTU": 9000, "ipMasq": true, "master": "eth0"},
            "ipam": {"dataDir": "/x", "routes": [{"dst": "0.0.0.0/0"}]}, "runtimeConfig": {"mac": "02:00:00:00:00:01"}"#,
        );
        let delegated = delegated.unwrap();
        let config = &delegated.config;
        assert_eq!(
            (delegated.plugin.as_str(), &config["MTU"], &config["ipMasq"]),
            ("macvlan", &json!(9000), &json!(true))
        );
        assert!(!config.contains_key("mtu") && !config.contains_key("isGateway"));
        assert_eq!((&config["ipam"]["dataDir"], config["ipam"]["routes"].as_array().unwrap().len()), (&json!("/x"), 3));
        assert_eq!(config["ipam"]["routes"][0], json!({"dst": "0.0.0.0/0"}));
        assert_eq!(config["runtimeConfig"]["mac"], "02:00:00:00:00:01");
    }

    #[test]
    fn what_flannel_says_itself_is_refused_in_the_references_words() {
        let refusal = |delegate: &str| made(&format!(r#", "delegate": {delegate}"#)).unwrap_err().msg;
        assert_eq!(
            refusal(r#"{"name": "x"}"#),
            "'delegate' dictionary must not have 'name' field, it'll be set by flannel"
        );
        assert_eq!(
            refusal(r#"{"ipam": {}}"#),
            "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel"
        );
        assert_eq!(refusal(r#"{"type": 5}"#), "'delegate' dictionary, if present, must have (string) 'type' field");
        let itself = refusal(r#"{"type": "flannel"}"#);
        assert_eq!(itself, "'delegate' dictionary must not have the type flannel: it would call itself");
        assert_eq!(refusal("[]"), "delegate: expected an object, found []");
    }

    #[test]
    fn a_note_reads_back_and_says_of_which_network_it_is() {
        let delegated = made("").unwrap();
        let call = Config::parse(br#"{"name": "cbr0", "prevResult": {"ips": []}}"#).unwrap();
        let again = Delegated::of_note(&delegated.stdin(&call)).unwrap();
        assert_eq!(again.config["prevResult"], json!({"ips": []}));
        assert!(again.is_of("cbr0") && !again.is_of("other"));
        assert_eq!(
            again.subnets().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.1.0/24", "fd00:0:0:1::/64"]
        );
        for note in ["", "{", "[]", "{}", r#"{"type": 5}"#, r#"{"type": "flannel"}"#] {
            assert_eq!(Delegated::of_note(note.as_bytes()), None, "{note}");
        }
    }
}
