//! What an ADD will do, computed before anything is done.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use super::entry::{Entry, Owner, Record};
use super::hostports::Hostports;
use super::settings::{Mapping, Settings};
use crate::netlink::nft::rule::octets;
use crate::netlink::nft::set::concatenate;
use crate::netlink::nft::{Element, Held};
use crate::netlink::{RouteSocket, link, route};
use crate::plugin::{Call, chain};
use crate::spec::{Error, Success};

/// What one IP family's table gets for the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The table.
    pub hostports: Hostports,
    /// The pod's address.
    pub pod: IpAddr,
    /// The elements, each with its entry in the record.
    pub elements: Vec<(Entry, Element)>,
    /// The record.
    pub record: Record,
    /// The interface whose `route_localnet` must be on.
    pub localnet: Option<String>,
}

/// The plan for all families the pod has and mappings are for.
///
/// # Errors
/// When a port is mapped twice, or the way to the pod cannot be looked up.
pub fn plan(call: &Call<'_>, settings: &Settings, previous: &Success) -> Result<Vec<Side>, Error> {
    let mut node = RouteSocket::open()?;
    let mut sides = Vec::new();
    for hostports in Hostports::of(&settings.profile) {
        let Some(pod) = address_of(call, previous, hostports.is_v4()) else { continue };
        let mappings: Vec<_> = settings.mappings.iter().filter(|mapping| mapping.serves(pod)).collect();
        if mappings.is_empty() {
            continue;
        }
        let behind = match route::towards(&mut node, pod)? {
            Some(way) => link::by_index(&mut node, way.interface)?.map(|link| link.name),
            None => None,
        };
        sides.push(side(call, settings, previous, hostports, pod, &mappings, behind)?);
    }
    Ok(sides)
}

/// The pod's first address of a family. One whose interface is not said, or is not in the list, is taken for the pod's.
pub fn address_of(call: &Call<'_>, previous: &Success, v4: bool) -> Option<IpAddr> {
    let is_pods = |index: usize| {
        let interface = previous.interfaces.get(index);
        interface.is_none_or(|one| one.name == call.environment.ifname && !one.sandbox.is_empty())
    };
    let of_family = previous.ips.iter().filter(|ip| ip.address.is_ipv4() == v4);
    of_family.filter(|ip| ip.interface.is_none_or(is_pods)).map(|ip| ip.address.ip()).next()
}

fn side(
    call: &Call<'_>,
    settings: &Settings,
    previous: &Success,
    hostports: Hostports,
    pod: IpAddr,
    mappings: &[&Mapping],
    behind: Option<String>,
) -> Result<Side, Error> {
    let owner = Owner { network: call.config.name.clone(), attachment: call.attachment() }.to_string();
    let mut elements = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let (entry, to) = (entry(mapping), target(pod, mapping.container_port));
        match mappings[..index].iter().find(|other| self::entry(other) == entry) {
            None => elements.push((entry, to)),
            Some(same) if same.container_port == mapping.container_port => {}
            Some(other) => return Err(twice(mapping, other)),
        }
    }
    elements.extend(masqueraded(settings, pod, behind.as_deref()).into_iter().map(|entry| (entry, Held::Nothing)));
    let record = Record {
        entries: elements.iter().map(|(entry, _)| entry.clone()).collect(),
        pod: Some(pod),
        interfaces: chain::on_node(previous).map(|interface| interface.name.clone()).collect(),
        netns: netns(call),
    };
    let element = |entry: &Entry, held| Element { key: entry.key(), held, comment: owner.clone() };
    let elements = elements.into_iter().map(|(entry, held)| (entry.clone(), element(&entry, held))).collect();
    let localnet = behind.filter(|_| settings.snat && pod.is_ipv4());
    Ok(Side { hostports, pod, elements, record, localnet })
}

fn entry(mapping: &Mapping) -> Entry {
    match mapping.only_at() {
        Some(ip) => Entry::Addressed(ip, mapping.protocol, mapping.host_port),
        None => Entry::Port(mapping.protocol, mapping.host_port),
    }
}

fn target(pod: IpAddr, port: u16) -> Held {
    Held::Data(concatenate(&[&octets(pod), &port.to_be_bytes()]))
}

/// Whose connections to the pod are masqueraded.
fn masqueraded(settings: &Settings, pod: IpAddr, behind: Option<&str>) -> Vec<Entry> {
    match (settings.snat, settings.masquerade_all) {
        (false, _) => Vec::new(),
        (true, true) => vec![Entry::Everybody(pod)],
        (true, false) => {
            let neighbours = behind.map(|interface| Entry::Neighbours(interface.into(), pod));
            std::iter::once(Entry::Itself(pod)).chain(neighbours).collect()
        }
    }
}

fn twice(one: &Mapping, other: &Mapping) -> Error {
    let at = one.only_at().map_or_else(String::new, |ip| format!(" at {ip}"));
    Error::config(format!(
        "host port {}/{}{at} is mapped twice, to {} and to {}",
        one.host_port,
        one.protocol.name(),
        other.container_port,
        one.container_port
    ))
}

/// The pod's namespace, to tell later whether it still is: its number alone could be another's by then.
fn netns(call: &Call<'_>) -> Option<(u64, std::path::PathBuf)> {
    let path = call.environment.netns.clone()?;
    let inode = std::fs::metadata(&path).ok()?.ino();
    Some((inode, path))
}
