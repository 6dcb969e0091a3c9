//! What an ADD will do, computed before anything is done.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use super::entry::{Entry, Record};
use super::hostports::Hostports;
use super::settings::{Mapping, Settings};
use crate::netlink::nft::rule::octets;
use crate::netlink::nft::set::concatenate;
use crate::netlink::nft::{Element, Held};
use crate::netlink::{RouteSocket, link, route};
use crate::plugin::owner::Owner;
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
    let owner = Owner::of(call).to_string();
    let mut planner = Planner { call, settings, previous, owner, node: RouteSocket::open()? };
    let sides = Hostports::of(&settings.profile).map(|hostports| planner.side(hostports));
    sides.into_iter().filter_map(Result::transpose).collect()
}

/// The pod's first address of a family. One whose interface is not said, or is not in the list, is taken for the pod's.
fn address_of(call: &Call<'_>, previous: &Success, v4: bool) -> Option<IpAddr> {
    let is_pods = |index: usize| {
        let interface = previous.interfaces.get(index);
        interface.is_none_or(|one| one.name == call.environment.ifname && !one.sandbox.is_empty())
    };
    let of_family = previous.ips.iter().filter(|ip| ip.address.is_ipv4() == v4);
    of_family.filter(|ip| ip.interface.is_none_or(is_pods)).map(|ip| ip.address.ip()).next()
}

struct Planner<'a> {
    call: &'a Call<'a>,
    settings: &'a Settings,
    previous: &'a Success,
    owner: String,
    node: RouteSocket,
}

impl Planner<'_> {
    /// The plan for one family; none when the pod has no address of it, or no mapping is for it.
    fn side(&mut self, hostports: Hostports) -> Result<Option<Side>, Error> {
        let Some(pod) = address_of(self.call, self.previous, hostports.is_v4()) else { return Ok(None) };
        let mut entries = mapped(&self.settings.mappings, pod)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let behind = match route::towards(&mut self.node, pod)? {
            Some(way) => link::by_index(&mut self.node, way.interface)?.map(|link| link.name),
            None => None,
        };
        entries.extend(masqueraded(self.settings, pod, behind.as_deref()).into_iter().map(|one| (one, Held::Nothing)));
        let record = Record {
            entries: entries.iter().map(|(entry, _)| entry.clone()).collect(),
            pod: Some(pod),
            interfaces: chain::on_node(self.previous).map(|interface| interface.name.clone()).collect(),
            netns: netns(self.call),
        };
        let element = |(entry, held): (Entry, Held)| {
            let element = Element { key: entry.key(), held, comment: self.owner.clone() };
            (entry, element)
        };
        let elements = entries.into_iter().map(element).collect();
        let localnet = behind.filter(|_| self.settings.snat && pod.is_ipv4());
        Ok(Some(Side { hostports, pod, elements, record, localnet }))
    }
}

/// The entries of the mappings that are for this address.
fn mapped(mappings: &[Mapping], pod: IpAddr) -> Result<Vec<(Entry, Held)>, Error> {
    let mappings: Vec<_> = mappings.iter().filter(|mapping| mapping.serves(pod)).collect();
    let mut seen: HashMap<Entry, &Mapping> = HashMap::new();
    let mut entries = Vec::new();
    for mapping in mappings {
        match seen.insert(entry(mapping), mapping) {
            None => entries.push((entry(mapping), target(pod, mapping.container_port))),
            Some(same) if same.container_port == mapping.container_port => {}
            Some(other) => return Err(twice(mapping, other)),
        }
    }
    Ok(entries)
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
