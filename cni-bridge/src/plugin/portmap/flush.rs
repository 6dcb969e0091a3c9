//! Connections over UDP that would go on past a change of the rules.
//!
//! Rules see the first packet of a connection only. One over UDP is over when no packet came for half a minute; a client
//! that keeps asking is sent to where the first packet went: to the pod before, or to no pod at all.

use std::collections::HashMap;
use std::net::IpAddr;

use super::attach::Removed;
use super::entry::Entry;
use super::plan::Side;
use super::settings::Protocol;
use crate::netlink::conntrack::{Flow, forget, udp_to};
use crate::netlink::{Error, RouteSocket, route};

fn udp_ports<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u16> {
    let port = |entry: &Entry| match entry {
        Entry::Port(Protocol::Udp, port) | Entry::Addressed(_, Protocol::Udp, port) => Some(*port),
        _ => None,
    };
    entries.filter_map(port).collect()
}

/// Forgets the connections to host ports that now are the pod's and were not before. Without UDP nothing is looked at.
///
/// # Errors
/// When the kernel cannot be asked or told.
pub fn entered(side: &Side) -> Result<(), Error> {
    let entries = || side.elements.iter().map(|(entry, _)| entry);
    let ports = udp_ports(entries());
    if ports.is_empty() {
        return Ok(());
    }
    let mut node = RouteSocket::open()?;
    let mut known = HashMap::new();
    let mut stale = Vec::new();
    for flow in udp_to(side.pod.is_ipv4(), &ports)? {
        if flow.answered_by.ip() != side.pod && is_ours(&flow, entries(), |ip| is_local(&mut node, &mut known, ip)) {
            stale.push(flow);
        }
    }
    if stale.is_empty() { Ok(()) } else { forget(&stale) }
}

/// Whether a connection is one that the mappings are for. What only passes by on its way to the same port of
/// another machine (a query to a name server) is not.
fn is_ours<'a>(
    flow: &Flow,
    mut entries: impl Iterator<Item = &'a Entry>,
    mut is_local: impl FnMut(IpAddr) -> bool,
) -> bool {
    entries.any(|entry| match entry {
        Entry::Addressed(ip, Protocol::Udp, port) => (*ip, *port) == (flow.to.ip(), flow.to.port()),
        Entry::Port(Protocol::Udp, port) => *port == flow.to.port() && is_local(flow.to.ip()),
        _ => false,
    })
}

fn is_local(node: &mut RouteSocket, known: &mut HashMap<IpAddr, bool>, ip: IpAddr) -> bool {
    // One that cannot be looked up has no route any more, so it is not local.
    let mut look = || matches!(route::towards(node, ip), Ok(Some(way)) if way.is_local);
    *known.entry(ip).or_insert_with(&mut look)
}

/// Forgets the connections that mappings sent to a pod that is gone.
///
/// # Errors
/// When the kernel cannot be asked or told.
pub fn removed(removed: &Removed) -> Result<(), Error> {
    let ports = udp_ports(removed.entries.iter());
    if ports.is_empty() {
        return Ok(());
    }
    let mut flows = udp_to(removed.pod.is_ipv4(), &ports)?;
    flows.retain(|flow| flow.answered_by.ip() == removed.pod && flow.to.ip() != removed.pod);
    if flows.is_empty() { Ok(()) } else { forget(&flows) }
}
