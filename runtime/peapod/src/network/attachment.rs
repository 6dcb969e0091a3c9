//! A pod's attachment to a network: written down before it is made, so that it can be undone whatever happens.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_bridge::spec::conflist::{Call, Plugin};
use cni_bridge::spec::{Success, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::plugin::Run;
use super::{Network, NetworkError};
use crate::error::{Error, Result};
use crate::files::{read_json, remove_file, write_json};
use crate::manifest::Pod;

/// The pod's interface.
const INTERFACE: &str = "eth0";

/// Everything the plugins are told, and what they answered. This is the pod's `network.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    /// The network as it was configured then: DEL gets the same, whatever the directory holds by now.
    pub network: Network,
    /// The pod.
    pub request: Request,
    /// The last plugin's result; `None` while, or if, ADD did not succeed.
    pub result: Option<Value>,
}

/// What the plugins are told of the pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// CNI_CONTAINERID: the pod's uid.
    pub container_id: String,
    /// CNI_ARGS.
    pub args: String,
    /// What plugins with the matching capability get as `runtimeConfig`.
    pub runtime: Map<String, Value>,
}

impl Request {
    /// What is to be told of `pod`.
    pub fn new(uid: &str, pod: &Pod) -> Request {
        // The keys that containerd and CRI-O send; IgnoreUnknown lets plugins skip those they do not know.
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}",
            pod.namespace, pod.name
        );
        let mut runtime = Map::new();
        let mappings = port_mappings(pod);
        if !mappings.is_empty() {
            runtime.insert("portMappings".into(), mappings.into());
        }
        Request { container_id: uid.to_owned(), args, runtime }
    }
}

fn port_mappings(pod: &Pod) -> Vec<Value> {
    let ports = pod.all_containers().flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            let mut mapping = json!({
                "hostPort": port.host_port?,
                "containerPort": port.container_port,
                "protocol": port.protocol.as_str().to_lowercase(),
            });
            if let Some(ip) = port.host_ip {
                mapping["hostIP"] = ip.to_string().into();
            }
            Some(mapping)
        })
        .collect()
}

impl Attachment {
    /// An attachment that is still to be made.
    pub fn new(network: Network, request: Request) -> Attachment {
        Attachment { network, request, result: None }
    }

    /// The attachment written to `path`, if any.
    pub fn load(path: &Path) -> Result<Option<Attachment>> {
        read_json(path)
    }

    /// Runs ADD of every plugin in order and returns the pod's addresses. `path` holds the attachment before the
    /// first plugin runs, and with the result afterwards. What a failure leaves is for [`Attachment::remove`]; a plugin
    /// that is not there is noticed before the first one runs.
    pub async fn add(&mut self, path: &Path, dirs: &[PathBuf], netns: &Path) -> Result<Vec<IpAddr>> {
        self.network.check_plugins(dirs)?;
        write_json(path, self)?;
        let mut previous = None;
        for plugin in &self.network.list.plugins {
            let answer = self.run("ADD", plugin, Some(netns), previous.take()).run(dirs).await?;
            previous = Some(self.parse(plugin, &answer)?);
        }
        self.result = previous;
        write_json(path, self)?;
        self.addresses()
    }

    /// The addresses of the last plugin's result, in its order.
    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let bad = |reason: String| NetworkError::Step { doing: format!("network {}", self.network.list.name), reason };
        let text = self.result.as_ref().map(Value::to_string).unwrap_or_default();
        let version = self.network.list.version;
        let result = Success::parse(text.as_bytes(), version).map_err(|error| bad(error.to_string()))?;
        if result.ips.is_empty() {
            return Err(bad("its plugins gave the pod no address".to_owned()).into());
        }
        Ok(result.ips.iter().map(|ip| ip.address.ip()).collect())
    }

    /// Runs DEL of every plugin in reverse order, all of them whatever fails, and removes the file at `path`
    /// when none did. `netns` is `None` once the network namespace is gone.
    pub async fn remove(&self, path: &Path, dirs: &[PathBuf], netns: Option<&Path>) -> Result<()> {
        // Only since 0.4.0 is DEL told the result.
        let told = self.network.list.version >= Version::V0_4_0;
        let mut errors = Vec::new();
        for plugin in self.network.list.plugins.iter().rev() {
            let previous = self.result.clone().filter(|_| told);
            errors.extend(self.run("DEL", plugin, netns, previous).run(dirs).await.err());
        }
        match errors.len() {
            0 => remove_file(path),
            1 => Err(errors.remove(0).into()),
            _ => Err(Error::Network(NetworkError::Several(errors))),
        }
    }

    fn run<'a>(
        &'a self,
        verb: &'static str,
        plugin: &'a Plugin,
        netns: Option<&Path>,
        prev_result: Option<Value>,
    ) -> Run<'a> {
        let netns = netns.map(|path| path.as_os_str().to_owned()).unwrap_or_default();
        let env: Vec<(&'static str, OsString)> = vec![
            ("CNI_CONTAINERID", self.request.container_id.clone().into()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", INTERFACE.into()),
            ("CNI_ARGS", self.request.args.clone().into()),
        ];
        let runtime_config = self.request.runtime.clone();
        let call = Call { prev_result, runtime_config, ..Call::default() };
        let list = &self.network.list;
        Run { network: &list.name, plugin: &plugin.plugin_type, verb, env, stdin: list.stdin(plugin, &call) }
    }

    fn parse(&self, plugin: &Plugin, answer: &[u8]) -> Result<Value, NetworkError> {
        serde_json::from_slice(answer).map_err(|error| NetworkError::Plugin {
            network: self.network.list.name.clone(),
            plugin: plugin.plugin_type.clone(),
            verb: "ADD",
            reason: format!("its answer is not one JSON value: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(result: Value) -> Attachment {
        let network = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "x"}]});
        let request = Request { container_id: "id".into(), args: String::new(), runtime: Map::new() };
        let mut made = Attachment::new(Network::try_from(network).unwrap(), request);
        made.result = Some(result);
        made
    }

    #[test]
    fn addresses_are_read_from_results_of_every_version() {
        let texts = |result| -> Vec<String> {
            attachment(result).addresses().unwrap().iter().map(ToString::to_string).collect()
        };
        let new = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.2/24"}, {"address": "fd00::2/64"}]});
        assert_eq!(texts(new), ["10.244.1.2", "fd00::2"]);
        assert_eq!(texts(json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/16"}})), ["10.1.0.5"]);
        let error = attachment(json!({"cniVersion": "1.0.0"})).addresses().unwrap_err().to_string();
        assert!(error.contains("no address"), "{error}");
    }
}
