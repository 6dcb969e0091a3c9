//! What can be checked before anything is made: that a pod can be as its manifest wants it, here and now.

use std::collections::BTreeMap;

use super::sandbox::choose_network;
use super::{Desired, Record, Status, list};
use crate::error::{Error, Result};
use crate::image::Store;
use crate::manifest::{Pod, Port};
use crate::settings::Settings;
use crate::volume::{self, VolumeError};

/// Checks `pod`, which `file` describes, against the node, the pods that run on it and those that `file` has `before`
/// it. Returns what the record has to say of its images: the digest of each by its name.
pub fn check(settings: &Settings, pod: &Pod, before: &[Record], file: &str) -> Result<BTreeMap<String, String>> {
    settings.shim()?;
    let images = images(settings, pod, file)?;
    check_volumes(pod, file)?;
    check_network(settings, pod)?;
    check_ports(settings, pod, before)?;
    Ok(images)
}

fn images(settings: &Settings, pod: &Pod, file: &str) -> Result<BTreeMap<String, String>> {
    let store = Store::open(&settings.root)?;
    let mut images = BTreeMap::new();
    for (list, containers) in [("initContainers", &pod.init_containers), ("containers", &pod.containers)] {
        for (index, container) in containers.iter().enumerate() {
            let image = store.resolve(&container.image).map_err(|error| Error::Field {
                file: file.to_owned(),
                path: format!("spec.{list}[{index}].image"),
                reason: error.to_string(),
            })?;
            images.insert(container.image.clone(), image.digest);
        }
    }
    Ok(images)
}

/// The paths of the node are what the manifest says of them.
fn check_volumes(pod: &Pod, file: &str) -> Result<()> {
    volume::check(pod).map_err(|error| match &error {
        VolumeError::HostPath { volume, path, reason } => {
            let index = pod.volumes.iter().position(|other| other.name == *volume).unwrap_or_default();
            Error::Field {
                file: file.to_owned(),
                path: format!("spec.volumes[{index}].hostPath"),
                reason: format!("{} {reason}", path.display()),
            }
        }
        _ => error.into(),
    })
}

/// A network whose plugins are all there, and which can lead the node's ports to the pod if that is wanted.
fn check_network(settings: &Settings, pod: &Pod) -> Result<()> {
    if pod.host_network {
        return Ok(());
    }
    let network = choose_network(settings)?;
    network.check_plugins(&settings.cni_bin_dir)?;
    let port = host_ports(pod).first().and_then(|port| port.host_port);
    if let (Some(port), false) = (port, network.can("portMappings")) {
        let reason = format!(
            "hostPort {port} needs a CNI plugin with the capability portMappings (such as portmap), and network {} has none; \
             configure one in {}",
            network.list.name,
            settings.cni_conf_dir.display()
        );
        return Err(Error::pod(&key(pod), reason));
    }
    Ok(())
}

/// The node's ports that the pod wants are free among the pods that run or will, `before` it.
fn check_ports(settings: &Settings, pod: &Pod, before: &[Record]) -> Result<()> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return Ok(());
    }
    for other in running(settings)?.into_iter().chain(before.iter().map(|record| record.pod.clone())) {
        for (ours, theirs) in wanted.iter().flat_map(|a| host_ports(&other).into_iter().map(move |b| (a, b))) {
            if clash(ours, &theirs) {
                let port = ours.host_port.unwrap_or_default();
                let reason = format!("hostPort {port}/{} is taken by pod {}", ours.protocol.as_str(), key(&other));
                return Err(Error::pod(&key(pod), reason));
            }
        }
    }
    Ok(())
}

fn key(pod: &Pod) -> super::Key {
    super::Key::new(&pod.namespace, &pod.name)
}

/// The pods that hold their ports now.
fn running(settings: &Settings) -> Result<Vec<Pod>> {
    let mut running = Vec::new();
    for places in list(settings)? {
        // One that is removed this very moment holds nothing.
        let Ok(record) = Record::load(&places) else { continue };
        let status = Status::load(&places, &record)?;
        if record.desired == Desired::Running && !status.phase.is_final() {
            running.push(record.pod);
        }
    }
    Ok(running)
}

/// The node's ports a pod takes. One in the node's network takes those it names as its own.
fn host_ports(pod: &Pod) -> Vec<Port> {
    let ports = pod.all_containers().flat_map(|container| container.ports.iter().cloned());
    ports
        .filter_map(|mut port| {
            port.host_port = port.host_port.or(pod.host_network.then_some(port.container_port));
            port.host_port.map(|_| port)
        })
        .collect()
}

/// Whether two ports cannot both be had: same number and protocol, and not on two different addresses.
fn clash(a: &Port, b: &Port) -> bool {
    let apart = |a: &Port, b: &Port| match (a.host_ip, b.host_ip) {
        (Some(a), Some(b)) => a != b && !a.is_unspecified() && !b.is_unspecified(),
        _ => false,
    };
    a.host_port == b.host_port && a.protocol == b.protocol && !apart(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Protocol;

    fn port(number: u16, protocol: Protocol, ip: Option<&str>) -> Port {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        Port { name: None, container_port: 1, host_port: Some(number), protocol, host_ip }
    }

    #[test]
    fn ports_clash_when_number_protocol_and_address_meet() {
        let base = port(80, Protocol::Tcp, None);
        assert!(clash(&base, &port(80, Protocol::Tcp, Some("127.0.0.1"))));
        assert!(clash(&port(80, Protocol::Tcp, Some("0.0.0.0")), &port(80, Protocol::Tcp, Some("127.0.0.1"))));
        assert!(!clash(&port(80, Protocol::Tcp, Some("10.0.0.1")), &port(80, Protocol::Tcp, Some("127.0.0.1"))));
        assert!(!clash(&base, &port(80, Protocol::Udp, None)));
        assert!(!clash(&base, &port(81, Protocol::Tcp, None)));
    }
}
