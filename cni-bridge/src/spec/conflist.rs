//! A network configuration list, as a runtime reads it from its directory.

use serde_json::{Map, Value, json};

use super::config::Attachment;
use super::env::is_identifier;
use super::error::{Error, code};
use super::json::Folded;
use super::version::Version;

/// A network: the plugins to call, in order.
#[derive(Debug, Clone)]
pub struct NetConfList {
    /// `name`
    pub name: String,
    /// `cniVersion`, or the newest of `cniVersions` we speak.
    pub version: Version,
    /// `disableCheck`: CHECK is not called.
    pub disable_check: bool,
    /// `disableGC`: GC is not called.
    pub disable_gc: bool,
    /// The plugins in the order ADD calls them; DEL calls them in reverse.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// `type`: the name of the executable.
    pub plugin_type: String,
    /// The names of the capabilities it declares as true, lower-case.
    pub capabilities: Vec<String>,
    raw: Map<String, Value>,
}

/// What a runtime adds to a plugin's configuration for one call.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// The result so far: what the plugin before answered, or for DEL and CHECK the final one.
    pub prev_result: Option<Value>,
    /// What the runtime offers by capability (`portMappings`, `mac`, ...); each plugin gets those it declares.
    pub runtime_config: Map<String, Value>,
    /// For GC: what is still valid.
    pub valid_attachments: Option<Vec<Attachment>>,
}

impl NetConfList {
    /// Reads a `.conflist`, or a `.conf` of a single plugin.
    ///
    /// # Errors
    /// [`code::DECODE`], [`code::INCOMPATIBLE_VERSION`], [`code::INVALID_CONFIG`].
    pub fn parse(text: &[u8]) -> Result<NetConfList, Error> {
        let folded = Folded::parse(text, "the network configuration")?;
        let root = folded.root();
        let raw: Value = serde_json::from_slice(text).map_err(|error| Error::new(code::DECODE, error.to_string()))?;
        let name = root.get("name").text()?.unwrap_or_default().to_owned();
        if !is_identifier(&name) {
            return Err(Error::config(format!("name: {name:?} is not a network's name"))
                .with_details("it starts with a letter or digit and goes on with letters, digits, '_', '.' or '-'"));
        }
        let plugins = match member(&raw, "plugins") {
            Some(Value::Array(plugins)) => plugins.iter().map(Plugin::read).collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err(Error::new(code::DECODE, "plugins: expected an array")),
            None => vec![Plugin::read(&raw)?],
        };
        if plugins.is_empty() {
            return Err(Error::config("plugins: there is no plugin in the list"));
        }
        Ok(NetConfList {
            name,
            version: choose_version(&folded)?,
            disable_check: root.get("disableCheck").flag()?,
            disable_gc: root.get("disableGC").flag()?,
            plugins,
        })
    }

    /// What `plugin` gets on stdin.
    pub fn stdin(&self, plugin: &Plugin, call: &Call) -> Vec<u8> {
        let mut config = plugin.raw.clone();
        config.retain(|key, _| {
            !["name", "cniversion", "prevresult", "runtimeconfig"].contains(&key.to_lowercase().as_str())
        });
        config.insert("name".into(), self.name.clone().into());
        config.insert("cniVersion".into(), self.version.name().into());
        if let Some(result) = &call.prev_result {
            config.insert("prevResult".into(), result.clone());
        }
        let offered: Map<_, _> = call
            .runtime_config
            .iter()
            .filter(|(capability, _)| plugin.capabilities.contains(&capability.to_lowercase()))
            .map(|(capability, value)| (capability.clone(), value.clone()))
            .collect();
        if !offered.is_empty() {
            config.insert("runtimeConfig".into(), offered.into());
        }
        if let Some(attachments) = &call.valid_attachments {
            config.insert("cni.dev/valid-attachments".into(), json!(attachments));
        }
        Value::Object(config).to_string().into_bytes()
    }
}

/// `cniVersion`, unless `cniVersions` has a newer one that we speak.
fn choose_version(folded: &Folded) -> Result<Version, Error> {
    let root = folded.root();
    let offered = root.get("cniVersions").texts()?;
    let best = offered.iter().filter_map(|name| Version::parse(name).ok()).max();
    match (root.get("cniVersion").text()?, best) {
        (Some(name), None) => Version::parse(name),
        (Some(name), Some(best)) => Ok(Version::parse(name).map_or(best, |version| version.max(best))),
        (None, Some(best)) => Ok(best),
        (None, None) => Version::parse(""),
    }
}

/// A member of an object, whatever its case.
fn member<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

impl Plugin {
    fn read(raw: &Value) -> Result<Plugin, Error> {
        let object = raw.as_object().ok_or_else(|| Error::new(code::DECODE, "plugins: a plugin is not an object"))?;
        let plugin_type = member(raw, "type").and_then(Value::as_str).unwrap_or_default();
        if plugin_type.is_empty() || plugin_type.contains('/') {
            return Err(Error::config(format!("type: {plugin_type:?} is not a plugin's name")));
        }
        let capabilities = member(raw, "capabilities").and_then(Value::as_object);
        let declared = |(name, on): (&String, &Value)| (on == &Value::Bool(true)).then(|| name.to_lowercase());
        Ok(Plugin {
            plugin_type: plugin_type.to_owned(),
            capabilities: capabilities.map(|all| all.iter().filter_map(declared).collect()).unwrap_or_default(),
            raw: object.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_the_lists_name_version_and_only_the_capabilities_it_declares() {
        let text = br#"{"cniVersion": "1.0.0", "name": "podnet", "plugins": [
            {"type": "bridge", "name": "other", "ipam": {"Type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}}]}"#;
        let list = NetConfList::parse(text).unwrap();
        let runtime_config = json!({"portMappings": [], "mac": "x"}).as_object().cloned().unwrap();
        let call = Call { prev_result: Some(json!({"ips": []})), runtime_config, valid_attachments: None };
        let stdin =
            |index: usize| -> Value { serde_json::from_slice(&list.stdin(&list.plugins[index], &call)).unwrap() };
        assert_eq!(
            stdin(0),
            json!({"type": "bridge", "name": "podnet", "cniVersion": "1.0.0", "ipam": {"Type": "host-local"}, "prevResult": {"ips": []}})
        );
        assert_eq!(stdin(1)["runtimeConfig"], json!({"portMappings": []}));
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one_and_cni_versions_offer_a_choice() {
        let list =
            NetConfList::parse(br#"{"name": "n", "type": "bridge", "cniVersions": ["0.4.0", "1.1.0", "9.0.0"]}"#)
                .unwrap();
        assert_eq!((list.plugins.len(), list.version), (1, Version::V1_1_0));
    }

    #[test]
    fn a_list_that_cannot_work_is_refused() {
        for text in [
            r#"{"name": "n", "plugins": []}"#,
            r#"{"name": "", "type": "x"}"#,
            r#"{"name": "n", "plugins": [{"type": "../x"}]}"#,
        ] {
            assert_eq!(NetConfList::parse(text.as_bytes()).unwrap_err().code, code::INVALID_CONFIG, "{text}");
        }
    }
}
