//! CHECK: the attachment is as ADD left it. What others added since is none of its business.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::plan::Plan;
use super::{addresses, flatten, legacy, masquerade, open_pod, spoof};
use crate::netlink::route::Family;
use crate::netlink::{Link, Mac, Netns, RouteSocket, address, link, route, vlan};
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
    let bridge = check_bridge(&plan, &result, &mut node)?;
    check_gateway(&plan, &result, &bridge, &ips, &mut node)?;
    check_host_end(&plan, &result, &bridge, &mut node)?;
    let end = check_link(pod_interface, link::by_name(&mut inside, &pod_interface.name)?)?;
    if end.kind != "veth" {
        return Err(differs(format!("{} in {sandbox} is not a veth", end.name)));
    }
    if !end.up && !plan.settings.leave_down {
        return Err(is_down(&end));
    }
    if let Some(ip) = missing(ips.iter().map(|ip| ip.address), &end, &mut inside)? {
        return Err(differs(format!("the interface {} has lost its address {ip}", end.name)));
    }
    check_routes(&plan, &result, &mut inside)?;
    plan.source.check(call)?;
    check_rules(&plan, &ips, end.mac)
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

fn is_down(link: &Link) -> Error {
    differs(format!("the interface {} is down", link.name))
}

/// The link is there, and has the MAC address of the result.
fn check_link(told: &Interface, link: Option<Link>) -> Result<Link, Error> {
    let link = link.ok_or_else(|| differs(format!("the interface {} is missing", told.name)))?;
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&mac) {
        return Err(differs(format!("the interface {} has the MAC address {mac}, not {}", told.name, told.mac)));
    }
    Ok(link)
}

fn check_bridge(plan: &Plan, result: &Success, node: &mut RouteSocket) -> Result<Link, Error> {
    let name = &plan.settings.bridge;
    let bridge = check_link(interface(result, name, str::is_empty)?, link::by_name(node, name)?)?;
    if bridge.kind != "bridge" {
        return Err(differs(format!("the interface {name} is not a bridge")));
    }
    if !bridge.up {
        return Err(is_down(&bridge));
    }
    if plan.settings.promiscuous && !bridge.promiscuous {
        return Err(differs(format!("the bridge {name} is not promiscuous")));
    }
    if plan.settings.vlans.are_wanted() && bridge.filters_vlans != Some(true) {
        return Err(differs(format!("the bridge {name} does not filter VLANs")));
    }
    Ok(bridge)
}

/// The gateway's addresses are on the bridge, or on the interface that is the gateway of the VLAN.
fn check_gateway(
    plan: &Plan,
    result: &Success,
    bridge: &Link,
    ips: &[&IpConfig],
    node: &mut RouteSocket,
) -> Result<(), Error> {
    if !plan.settings.is_gateway || ips.is_empty() {
        return Ok(());
    }
    let of_vlan = match plan.settings.vlans.gateway_name(&bridge.name)? {
        Some(name) => Some(check_link(interface(result, &name, str::is_empty)?, link::by_name(node, &name)?)?),
        None => None,
    };
    let holder = of_vlan.as_ref().unwrap_or(bridge);
    if !holder.up {
        return Err(is_down(holder));
    }
    let gateway = |ip: &&IpConfig| IpNetwork::new(ip.gateway?, ip.address.prefix()).ok();
    match missing(ips.iter().filter_map(gateway), holder, node)? {
        Some(gateway) => Err(differs(format!("the {} {} has lost its address {gateway}", holder.kind, holder.name))),
        None => Ok(()),
    }
}

/// The node's end is a port of the bridge. An attachment the reference made has another name for it, so the
/// result's is taken: the interface of the node that is neither the bridge nor the gateway of a VLAN.
fn check_host_end(plan: &Plan, result: &Success, bridge: &Link, node: &mut RouteSocket) -> Result<(), Error> {
    let gateway = plan.settings.vlans.gateway_name(&plan.settings.bridge).ok().flatten();
    let is_shared = |name: &String| *name == plan.settings.bridge || Some(name) == gateway.as_ref();
    let told = result
        .interfaces
        .iter()
        .find(|told| told.sandbox.is_empty() && !is_shared(&told.name))
        .ok_or_else(|| differs("prevResult has no interface for the node's end"))?;
    let host = check_link(told, link::by_name(node, &told.name)?)?;
    if host.controller != Some(bridge.index) {
        return Err(differs(format!("the interface {} is not a port of the bridge {}", host.name, bridge.name)));
    }
    if !host.up {
        return Err(is_down(&host));
    }
    let wanted = [
        (plan.settings.hairpin, host.port.hairpin, "in hairpin mode"),
        (plan.settings.isolated, host.port.isolated, "isolated"),
    ];
    if let Some((.., what)) = wanted.iter().find(|(wanted, is, _)| *wanted && !is) {
        return Err(differs(format!("the port {} of the bridge {} is not {what}", host.name, bridge.name)));
    }
    check_vlans(plan, &host, node)
}

/// The port carries its VLANs.
fn check_vlans(plan: &Plan, host: &Link, node: &mut RouteSocket) -> Result<(), Error> {
    if !plan.settings.vlans.are_wanted() {
        return Ok(());
    }
    let ports = vlan::list(node)?;
    let carried: Vec<_> = ports.iter().filter(|(index, _)| *index == host.index).flat_map(|(_, all)| all).collect();
    for wanted in plan.settings.vlans.memberships() {
        let is_carried = |id: &u16| carried.iter().any(|now| now.ids.contains(id) && now.native == wanted.native);
        if let Some(lost) = wanted.ids.clone().find(|id| !is_carried(id)) {
            let how = if wanted.native { "without a tag" } else { "with its tag" };
            return Err(differs(format!("the interface {} has lost its VLAN {lost} {how}", host.name)));
        }
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

/// What is in nf_tables: the masquerading of the network, the check of the pod's MAC address.
fn check_rules(plan: &Plan, ips: &[&IpConfig], mac: Option<Mac>) -> Result<(), Error> {
    let subnets = addresses::subnets(ips.iter().copied());
    if plan.settings.ip_masq
        && !masquerade::is_ensured(&plan.network, &subnets)?
        && !legacy::masquerades(&plan.network, &plan.attachment)?
    {
        let table = masquerade::table(&plan.network);
        return Err(differs(format!("the nftables table inet {table} is missing or lacks a subnet")));
    }
    let is_checked = |mac| spoof::is_there(&plan.network, &plan.attachment, mac);
    if plan.settings.check_mac && !mac.map_or(Ok(false), is_checked)? {
        let (table, port) = (spoof::table(&plan.network), &plan.host_name);
        return Err(differs(format!("the nftables table bridge {table} does not check the MAC addresses of {port}")));
    }
    Ok(())
}
