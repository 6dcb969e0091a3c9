//! Which network a pod gets: the first CNI configuration of a directory, or the built-in one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cni_bridge::spec::{self, NetConfList};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NetworkError;
use super::plugin::find;

/// A CNI network: its configuration as it was read, which is what is stored, and what it means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Network {
    config: Value,
    /// The plugins, and what each is told.
    pub list: NetConfList,
}

impl TryFrom<Value> for Network {
    type Error = spec::Error;

    fn try_from(config: Value) -> Result<Network, spec::Error> {
        let list = NetConfList::parse(config.to_string().as_bytes())?;
        Ok(Network { config, list })
    }
}

impl From<Network> for Value {
    fn from(network: Network) -> Value {
        network.config
    }
}

/// The built-in network: cni0 and its subnet. Bridge and subnet are those that Kubernetes' own networks give the
/// first node, so that a manifest written for one finds the same here.
pub struct BuiltIn<'a> {
    /// The mtu of pods and bridge.
    pub mtu: u32,
    /// Where leases are kept.
    pub leases: &'a Path,
}

impl BuiltIn<'_> {
    /// Its configuration.
    ///
    /// # Errors
    /// When the path of the leases is not text that JSON can hold.
    pub fn network(&self) -> Result<Network, NetworkError> {
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "peapod",
            "plugins": [{
                "type": "cni-bridge",
                "capabilities": {"portMappings": true},
                "bridge": "cni0",
                "isGateway": true,
                "isDefaultGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "mtu": self.mtu,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}]],
                    "dataDir": self.leases.to_string_lossy(),
                },
            }],
        });
        Network::try_from(config)
            .map_err(|error| NetworkError::Config { path: self.leases.to_owned(), reason: error.to_string() })
    }
}

impl Network {
    /// The configuration in `dir` whose file name sorts first, as every CNI runtime chooses; `None` when there is none.
    ///
    /// # Errors
    /// When the directory or that file cannot be read, or the file is no network configuration.
    pub fn load(dir: &Path) -> Result<Option<Network>, NetworkError> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(|source| NetworkError::Read { path: dir.to_owned(), source })?,
        };
        let known = |path: &PathBuf| {
            path.extension().is_some_and(|kind| kind == "conflist" || kind == "conf" || kind == "json")
        };
        let first = entries.flatten().map(|entry| entry.path()).filter(known).min();
        first.map(|path| Self::read(&path)).transpose()
    }

    fn read(path: &Path) -> Result<Network, NetworkError> {
        let bad = |reason: String| NetworkError::Config { path: path.to_owned(), reason };
        let text = fs::read(path).map_err(|source| NetworkError::Read { path: path.to_owned(), source })?;
        let config: Value = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        Network::try_from(config).map_err(|error| bad(error.to_string()))
    }

    /// Checks that the program of every plugin is in one of `dirs`.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check_plugins(&self, dirs: &[PathBuf]) -> Result<(), NetworkError> {
        let list = &self.list;
        list.plugins.iter().try_for_each(|plugin| find(&list.name, &plugin.plugin_type, dirs).map(drop))
    }

    /// Whether a plugin of the list says it can do `capability`, such as `portMappings`.
    pub fn can(&self, capability: &str) -> bool {
        let capability = capability.to_lowercase();
        self.list.plugins.iter().any(|plugin| plugin.capabilities.contains(&capability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn the_first_configuration_by_name_is_taken() {
        let dir = directory(&[
            ("00-readme.txt", "not one"),
            ("20-b.conflist", r#"{"name":"b","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#),
            ("10-a.conf", r#"{"name":"a","cniVersion":"0.4.0","type":"bridge","capabilities":{"portMappings":true}}"#),
        ]);
        let network = Network::load(dir.path()).unwrap().unwrap();
        assert_eq!((network.list.name.as_str(), network.list.version.name()), ("a", "0.4.0"));
        assert_eq!(network.list.plugins[0].plugin_type, "bridge");
        assert!(network.can("portMappings") && !network.can("bandwidth"));
    }

    #[test]
    fn a_directory_that_is_missing_or_empty_holds_no_network() {
        assert!(Network::load(Path::new("/nonexistent/net.d")).unwrap().is_none());
        assert!(Network::load(directory(&[]).path()).unwrap().is_none());
    }

    #[test]
    fn a_broken_configuration_is_an_error_that_names_the_file() {
        for text in ["{", r#"{"name":"a","plugins":[]}"#, r#"{"name":"a","plugins":[{"type":"../x"}]}"#] {
            let dir = directory(&[("a.conflist", text)]);
            let error = Network::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("a.conflist"), "{error}");
        }
    }

    #[test]
    fn the_built_in_network_reads_back_from_its_stored_form() {
        let network = BuiltIn { mtu: 1450, leases: Path::new("/var/lib/x/networks") }.network().unwrap();
        let stored = serde_json::to_value(&network).unwrap();
        assert_eq!(stored["plugins"][0]["mtu"], 1450);
        let back: Network = serde_json::from_value(stored).unwrap();
        assert_eq!((back.list.name.as_str(), back.list.plugins.len()), ("peapod", 1));
        assert!(back.can("portMappings"), "hostPort works without any configuration");
    }
}
