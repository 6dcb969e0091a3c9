//! CHECK: the attachment is as ADD left it. What others added since is none of its business.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::plan::Plan;
use super::{LOCK_DEADLINE, flatten, masquerade, open_pod};
use crate::netlink::route::Family;
use crate::netlink::{Link, Netns, RouteSocket, address, link, route};
use crate::plugin::Call;
use crate::spec::{Error, Interface, IpConfig, Success, code};

fn differs(what: impl Into<String>) -> Error {
    Error::new(code::CHECK_FAILED, what)
}

/// Compares the attachment with `prevResult` and with the configuration.
///
/// # Errors
/// [`code::CHECK_FAILED`] with the first difference.
pub fn check(call: &Call<'_>) -> Result<(), Error> {
    let (config, environment) = (call.config, call.environment);
    let plan = Plan::new(call)?;
    let result = config.prev_result()?.ok_or_else(|| Error::config("Required prevResult missing"))?;
    let home = Netns::current()?;
    let pod = open_pod(environment, &home)?;
    let mut node = RouteSocket::open()?;
    let mut inside = flatten(pod.inside(&home, RouteSocket::open))?;

    let sandbox = pod.path().display().to_string();
    let pod_interface = interface(&result, &plan.attachment.ifname, |found| !found.is_empty())?;
    if pod_interface.sandbox != sandbox {
        return Err(differs(format!(
            "prevResult has {} in {}, CNI_NETNS is {sandbox}",
            pod_interface.name, pod_interface.sandbox
        )));
    }
    let ips = addresses_of(&result, pod_interface);
    let bridge = check_bridge(&plan, &result, &ips, &mut node)?;
    check_host_end(&plan, &result, &bridge, &mut node)?;
    let end = check_link(pod_interface, link::by_name(&mut inside, &pod_interface.name)?)?;
    if end.kind != "veth" {
        return Err(differs(format!("{} in {sandbox} is not a veth", end.name)));
    }
    if let Some(ip) = missing(ips.iter().map(|ip| ip.address), &end, &mut inside)? {
        return Err(differs(format!("the interface {} has lost its address {ip}", end.name)));
    }
    check_routes(&plan, &result, &mut inside)?;
    check_leases(&plan, &ips)
}

/// The addresses of one interface of the result. Plugins after this one may have added interfaces with their own.
fn addresses_of<'a>(result: &'a Success, interface: &Interface) -> Vec<&'a IpConfig> {
    let is_its = |index: usize| result.interfaces.get(index) == Some(interface);
    result.ips.iter().filter(|ip| ip.interface.is_none_or(is_its)).collect()
}

/// The first of `wanted` that an interface does not have.
fn missing(
    mut wanted: impl Iterator<Item = IpNetwork>,
    link: &Link,
    socket: &mut RouteSocket,
) -> Result<Option<IpNetwork>, Error> {
    let now = address::list(socket, link.index)?;
    Ok(wanted.find(|ip| !now.contains(ip)))
}

fn interface<'a>(result: &'a Success, name: &str, sandbox: impl Fn(&str) -> bool) -> Result<&'a Interface, Error> {
    let found = result.interfaces.iter().find(|interface| interface.name == name && sandbox(&interface.sandbox));
    found.ok_or_else(|| differs(format!("prevResult has no interface {name:?}")))
}

/// The link is there, up, and has the MAC address of the result.
fn check_link(told: &Interface, link: Option<Link>) -> Result<Link, Error> {
    let link = link.ok_or_else(|| differs(format!("the interface {} is missing", told.name)))?;
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&mac) {
        return Err(differs(format!("the interface {} has the MAC address {mac}, not {}", told.name, told.mac)));
    }
    if !link.up {
        return Err(differs(format!("the interface {} is down", told.name)));
    }
    Ok(link)
}

fn check_bridge(plan: &Plan, result: &Success, ips: &[&IpConfig], node: &mut RouteSocket) -> Result<Link, Error> {
    let name = &plan.settings.bridge;
    let bridge = check_link(interface(result, name, str::is_empty)?, link::by_name(node, name)?)?;
    if bridge.kind != "bridge" {
        return Err(differs(format!("the interface {name} is not a bridge")));
    }
    if plan.settings.promiscuous && !bridge.promiscuous {
        return Err(differs(format!("the bridge {name} is not promiscuous")));
    }
    if plan.settings.is_gateway {
        let gateway = |ip: &&IpConfig| IpNetwork::new(ip.gateway?, ip.address.prefix()).ok();
        if let Some(gateway) = missing(ips.iter().filter_map(gateway), &bridge, node)? {
            return Err(differs(format!("the bridge {name} has lost its address {gateway}")));
        }
    }
    Ok(bridge)
}

/// The node's end is a port of the bridge. An attachment the reference made has another name for it, so the
/// result's is taken: the veth of the node that is not the bridge.
fn check_host_end(plan: &Plan, result: &Success, bridge: &Link, node: &mut RouteSocket) -> Result<(), Error> {
    let told = result
        .interfaces
        .iter()
        .find(|told| told.sandbox.is_empty() && told.name != plan.settings.bridge)
        .ok_or_else(|| differs("prevResult has no interface for the node's end"))?;
    let host = check_link(told, link::by_name(node, &told.name)?)?;
    if host.controller != Some(bridge.index) {
        return Err(differs(format!("the interface {} is not a port of the bridge {}", host.name, bridge.name)));
    }
    Ok(())
}

fn check_routes(plan: &Plan, result: &Success, inside: &mut RouteSocket) -> Result<(), Error> {
    for (family, v4) in [(Family::V4, true), (Family::V6, false)] {
        let told: Vec<_> =
            result.routes.iter().filter(|told| told.dst.is_ipv4() == v4 && told.table.is_none()).collect();
        if told.is_empty() {
            continue;
        }
        let now = route::list(inside, family)?;
        // A configured destination may have host bits set; the kernel's have none.
        let leads_to = |to: &IpNetwork, dst: &IpNetwork| to.ip() == dst.network() && to.prefix() == dst.prefix();
        let is_there = |dst: &IpNetwork, gw: Option<IpAddr>| {
            now.iter().any(|(to, via)| leads_to(to, dst) && (gw.is_none() || gw == *via))
        };
        if let Some(lost) = told.iter().find(|told| !is_there(&told.dst, told.gw)) {
            let via = lost.gw.map_or_else(String::new, |gw| format!(" via {gw}"));
            return Err(differs(format!(
                "the pod {} has lost its route to {}{via}",
                plan.attachment.container_id, lost.dst
            )));
        }
    }
    Ok(())
}

/// Every address is leased to the attachment, and masqueraded if it should be.
fn check_leases(plan: &Plan, ips: &[&IpConfig]) -> Result<(), Error> {
    let Some(ipam) = &plan.ipam else { return Ok(()) };
    let ips: Vec<_> = ips.iter().map(|ip| ip.address.ip()).collect();
    let held = match plan.store.lock_existing(LOCK_DEADLINE)? {
        Some(mut locked) => locked.held_by(&plan.attachment)?,
        None => Vec::new(),
    };
    let leasable = |ip| ipam.sets.iter().any(|set| set.range_of(ip).is_some());
    if let Some(ip) = ips.iter().find(|ip| leasable(**ip) && !held.contains(ip)) {
        return Err(differs(format!(
            "{ip} is not leased to {} ({})",
            plan.attachment.container_id,
            plan.store.directory().display()
        )));
    }
    let subnets: Vec<_> =
        ips.iter().filter_map(|ip| Some(ipam.sets.iter().find_map(|set| set.range_of(*ip))?.subnet)).collect();
    if plan.settings.ip_masq && !masquerade::is_ensured(&plan.network, &subnets)? {
        let table = masquerade::table(&plan.network);
        return Err(differs(format!("the nftables table inet {table} is missing or lacks a subnet")));
    }
    Ok(())
}
