//! What one plugin reads from stdin: the keys every plugin has.
//!
//! Keys of one type of plugin are read by that plugin from [`Config::root`].
//! Unknown keys are tolerated, as the specification and every reference do.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::env::{address, is_identifier};
use super::error::{Error, code};
use super::json::{Folded, Node};
use super::result::{Dns, Success};
use super::version::Version;

/// A plugin's configuration: the common part, and all of it for the plugin's own keys.
#[derive(Debug, Clone)]
pub struct Config {
    /// `cniVersion`
    pub version: Version,
    /// `name` of the network: letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// `type` of the plugin.
    pub plugin_type: String,
    folded: Folded,
}

/// `runtimeConfig` and `args.cni`, as far as a bridge has use for them.
#[derive(Debug, Clone, Default)]
pub struct Runtime {
    /// Addresses asked for, of all sources.
    pub ips: Vec<IpAddr>,
    /// The container interface's MAC address asked for; `runtimeConfig` wins over `args.cni`.
    pub mac: Option<String>,
}

/// An attachment, as GC lists the valid ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name in the container.
    pub ifname: String,
}

impl Config {
    /// Reads stdin.
    ///
    /// # Errors
    /// [`code::DECODE`], [`code::INCOMPATIBLE_VERSION`], or [`code::INVALID_CONFIG`] for a name missing or invalid.
    pub fn parse(text: &[u8]) -> Result<Config, Error> {
        let folded = Folded::parse(text, "the network configuration")?;
        let root = folded.root();
        let version = Version::parse(root.get("cniVersion").text()?.unwrap_or_default())?;
        let name = root.get("name").text()?.unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Error::config("missing network name: name"));
        }
        if !is_identifier(&name) {
            return Err(Error::config(format!("invalid characters found in network name: {name:?}"))
                .with_details("it starts with a letter or digit and goes on with letters, digits, '_', '.' or '-'"));
        }
        let plugin_type = root.get("type").text()?.unwrap_or_default().to_owned();
        Ok(Config { version, name, plugin_type, folded })
    }

    /// All keys, matched whatever their case.
    pub fn root(&self) -> Node<'_> {
        self.folded.root()
    }

    /// `prevResult`, when there is one.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is no result.
    pub fn prev_result(&self) -> Result<Option<Success>, Error> {
        let node = self.root().get("prevResult");
        if !node.exists() {
            return Ok(None);
        }
        node.object()
            .and_then(|node| Success::read(&node, self.version))
            .map(Some)
            .map_err(|error| error.context("could not parse prevResult"))
    }

    /// `dns` of the network, which wins over what the IPAM says.
    ///
    /// # Errors
    /// [`code::DECODE`].
    pub fn dns(&self) -> Result<Dns, Error> {
        Dns::read(&self.root().get("dns"))
    }

    /// `args.cni` and `runtimeConfig`.
    ///
    /// # Errors
    /// [`code::DECODE`] or [`code::INVALID_CONFIG`], with the path.
    pub fn runtime(&self) -> Result<Runtime, Error> {
        let args = self.root().get("args").object()?.get("cni").object()?;
        let runtime = self.root().get("runtimeConfig").object()?;
        let mut asked = Runtime::default();
        for source in [&args, &runtime] {
            for ip in source.get("ips").items()? {
                let text = ip.text()?.unwrap_or_default();
                let ip =
                    address(text).ok_or_else(|| Error::config(format!("{}: {text:?} is not an address", ip.path())))?;
                asked.ips.push(ip);
            }
            if let Some(mac) = source.get("mac").text()? {
                asked.mac = Some(mac.to_owned());
            }
        }
        Ok(asked)
    }

    /// `cni.dev/valid-attachments` of GC, or `cni.dev/attachments` as the first runtimes of 1.1.0 spell it (issue 1101 of
    /// containernetworking/cni). None when the key is absent, which is not the same as empty: an absent list destroys
    /// nothing, an empty one everything.
    ///
    /// # Errors
    /// [`code::DECODE`], or [`code::INVALID_CONFIG`] for an item without id or interface: to leave such a one out
    /// would be to destroy the attachment it was meant to keep.
    pub fn valid_attachments(&self) -> Result<Option<Vec<Attachment>>, Error> {
        let named = |key: &str| Some(self.root().get(key)).filter(Node::exists);
        let Some(node) = named("cni.dev/valid-attachments").or_else(|| named("cni.dev/attachments")) else {
            return Ok(None);
        };
        let member = |item: &Node<'_>, key: &str| {
            let member = item.get(key);
            let text = member.text()?.ok_or_else(|| Error::config(format!("{} is missing", member.path())))?;
            Ok::<_, Error>(text.to_owned())
        };
        let read = |item: &Node<'_>| {
            Ok(Attachment { container_id: member(item, "containerID")?, ifname: member(item, "ifname")? })
        };
        node.items()?.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// The error for a key this plugin does not serve, with key and value as the specification asks.
    pub fn unsupported(node: &Node<'_>) -> Error {
        let value = node.value().map(ToString::to_string).unwrap_or_default();
        Error::new(code::UNSUPPORTED_FIELD, format!("{}: {value} is not supported", node.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Behaviours 9 to 12, 15, 19, 20.
    #[test]
    fn the_common_keys_are_checked() {
        let code_of = |text: &str| Config::parse(text.as_bytes()).unwrap_err().code;
        assert_eq!(code_of("{"), code::DECODE);
        assert_eq!(code_of("[]"), code::DECODE);
        assert_eq!(code_of("{}"), code::INVALID_CONFIG);
        assert_eq!(code_of(r#"{"name": "a/b"}"#), code::INVALID_CONFIG);
        assert_eq!(code_of(r#"{"name": "a", "cniVersion": "2.0.0"}"#), code::INCOMPATIBLE_VERSION);
        let config = Config::parse(br#"{"NAME": "net", "Type": "bridge", "whatever": {"x": 1}}"#).unwrap();
        assert_eq!((config.name.as_str(), config.version), ("net", Version::V0_1_0));
    }

    // Go refuses it too: a result or a wish that is misspelt must not be lost in silence.
    #[test]
    fn what_should_be_an_object_is_not_taken_for_an_empty_one() {
        let of = |keys: &str| Config::parse(format!(r#"{{"name": "n", {keys}}}"#).as_bytes()).unwrap();
        let refused = of(r#""prevResult": 5"#).prev_result().unwrap_err();
        assert_eq!(
            (refused.code, refused.msg.as_str()),
            (code::DECODE, "could not parse prevResult: prevResult: expected an object, found 5")
        );
        for keys in [r#""args": []"#, r#""args": {"cni": "x"}"#, r#""runtimeConfig": []"#] {
            assert_eq!(of(keys).runtime().unwrap_err().code, code::DECODE, "{keys}");
        }
        assert!(of(r#""args": null, "runtimeConfig": {}"#).runtime().is_ok());
    }

    // Behaviours 48, 49, 82.
    #[test]
    fn runtime_config_wins_and_requested_addresses_add_up() {
        let text = br#"{"name": "n", "args": {"cni": {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.5"]}},
            "RuntimeConfig": {"Mac": "02:00:00:00:00:02", "ips": ["10.0.0.6/24"]}}"#;
        let asked = Config::parse(text).unwrap().runtime().unwrap();
        assert_eq!(asked.mac.as_deref(), Some("02:00:00:00:00:02"));
        assert_eq!(asked.ips, ["10.0.0.5".parse::<IpAddr>().unwrap(), "10.0.0.6".parse().unwrap()]);
    }

    #[test]
    fn an_absent_list_of_attachments_is_not_an_empty_one() {
        let list = |text: &str| Config::parse(text.as_bytes()).unwrap().valid_attachments().unwrap();
        assert_eq!(list(r#"{"name": "n"}"#), None);
        assert_eq!(list(r#"{"name": "n", "cni.dev/valid-attachments": []}"#), Some(vec![]));
        let one = list(r#"{"name": "n", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}"#);
        assert_eq!(one, Some(vec![Attachment { container_id: "a".into(), ifname: "eth0".into() }]));
        let legacy = r#""cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]"#;
        assert_eq!(list(&format!(r#"{{"name": "n", {legacy}}}"#)), one);
        assert_eq!(list(&format!(r#"{{"name": "n", {legacy}, "cni.dev/valid-attachments": []}}"#)), Some(vec![]));
        assert_eq!(list(r#"{"name": "n", "cni.dev/valid-attachments": null}"#), None, "what libcni sends for no list");
    }

    #[test]
    fn a_list_with_an_unreadable_item_is_refused_whole() {
        for items in [r#"["a"]"#, "[null]", "[{}]", r#"[{"containerID": "a"}]"#, r#"[{"ifname": "eth0"}]"#, "{}"] {
            let text = format!(r#"{{"name": "n", "cni.dev/valid-attachments": {items}}}"#);
            assert!(Config::parse(text.as_bytes()).unwrap().valid_attachments().is_err(), "{items}");
        }
    }
}
