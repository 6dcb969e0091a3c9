//! The node's side of an ADD: the bridge, the gateway, forwarding. Shared by all pods of a bridge; any number of ADDs
//! may do this at once, and each may be killed anywhere.

use ipnetwork::IpNetwork;

use super::plan::{Plan, Wiring};
use super::settings::Settings;
use super::vlan::Vlans;
use crate::netlink::link::{self, End, Link};
use crate::netlink::{Mac, Request, RouteSocket, address, sysctl, vlan};
use crate::spec::{Error, code};

/// The bridge of a pod, and what is its gateway: the bridge itself, or for a native VLAN an interface of its own.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub bridge: Link,
    pub gateway: Option<Link>,
}

impl Shared {
    /// Makes all of it, or finds it.
    pub fn ensure(plan: &Plan, wiring: &Wiring, node: &mut RouteSocket) -> Result<Shared, Error> {
        let (mut bridge, is_new) = ensure_bridge(&plan.settings, node)?;
        let gateway = match wiring.gateways.is_empty() {
            true => None,
            false => plan.settings.vlans.gateway_name(&bridge.name)?,
        };
        let gateway = gateway.map(|name| ensure_vlan_gateway(&name, &plan.settings, &bridge, node)).transpose()?;
        let holder = gateway.as_ref().unwrap_or(&bridge);
        for address in &wiring.gateways {
            ensure_address(*address, &wiring.gateways, holder, plan.settings.force_address, node)?;
        }
        if !is_new && !wiring.gateways.is_empty() && gateway.is_none() {
            pin_mac(&mut bridge, node)?;
        }
        forward(wiring)?;
        Ok(Shared { bridge, gateway })
    }

    /// The interface that has the gateway's addresses, and by which the node reaches the pods.
    pub fn holder(&self) -> &Link {
        self.gateway.as_ref().unwrap_or(&self.bridge)
    }
}

/// Makes the bridge, or finds it; says whether it was made.
fn ensure_bridge(settings: &Settings, node: &mut RouteSocket) -> Result<(Link, bool), Error> {
    let name = &settings.bridge;
    let (bridge, is_new) = match link::by_name(node, name)? {
        Some(bridge) => (bridge, false),
        None => (create_bridge(settings, node)?, true),
    };
    if bridge.kind != "bridge" {
        return Err(Error::config(format!("bridge: {name:?} already exists but is not a bridge")));
    }
    let mut changes = Vec::new();
    changes.extend(filter(&settings.vlans, &bridge)?);
    if !bridge.up {
        // Before it is up: no pod may announce itself as the node's router. Here and not where the bridge is made,
        // for an ADD may be killed in between.
        sysctl::ensure_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        changes.push(link::set_up(name));
    }
    if settings.promiscuous && !bridge.promiscuous {
        changes.push(link::set_promiscuous(name));
    }
    node.apply(changes)?;
    Ok((bridge, is_new))
}

fn create_bridge(settings: &Settings, node: &mut RouteSocket) -> Result<Link, Error> {
    let name = &settings.bridge;
    let mut batch = vec![link::create_bridge(name, Mac::random())];
    batch.extend(settings.mtu.map(|mtu| link::set_mtu(name, mtu)));
    node.apply(batch)?;
    link::by_name(node, name)?.ok_or_else(|| is_gone(name))
}

fn is_gone(name: &str) -> Error {
    Error::new(code::INTERNAL, format!("the interface {name} is gone again: something else removes it"))
}

/// What makes the bridge filter, if it has to and does not. One that was made without keeps all its ports connected:
/// they are in its default VLAN.
pub(super) fn filter(vlans: &Vlans, bridge: &Link) -> Result<Option<Request>, Error> {
    match bridge.filters_vlans {
        _ if !vlans.are_wanted() => Ok(None),
        Some(true) => Ok(None),
        Some(false) => Ok(Some(vlan::filter(&bridge.name))),
        // A kernel without it takes the key and ignores it, and pods of all VLANs would be in one network.
        None => {
            let key = if vlans.native.is_some() { "vlan" } else { "vlanTrunk" };
            Err(Error::config(format!("{key}: the kernel cannot filter VLANs on the bridge {}", bridge.name))
                .with_details(
                    "it is built without CONFIG_BRIDGE_VLAN_FILTERING; use a bridge for each network instead",
                ))
        }
    }
}

/// What makes the port with that index carry its VLANs.
pub(super) fn carry(vlans: &Vlans, bridge: &Link, port: u32) -> Vec<Request> {
    let memberships = vlans.memberships();
    let default = bridge.default_vlan.filter(|id| *id != 0 && !vlans.preserve_default);
    let unwanted = default.filter(|id| !memberships.iter().any(|carried| carried.ids.contains(id)));
    let mut changes: Vec<_> = unwanted.map(|id| vlan::remove(port, id)).into_iter().collect();
    changes.push(vlan::add(port, &memberships));
    changes
}

/// Makes the pair that is the gateway of a VLAN, or finds it: one end a port of the bridge, the other one has the
/// addresses. It is set up last, so one that is up is whole.
fn ensure_vlan_gateway(name: &str, settings: &Settings, bridge: &Link, node: &mut RouteSocket) -> Result<Link, Error> {
    if let Some(gateway) = link::by_name(node, name)?
        && gateway.up
    {
        return Ok(gateway);
    }
    let port = format!("veth{:011x}", crate::plugin::hash(&["gateway", name]) >> 20);
    let end = |name: &str| End { name: name.into(), mac: Mac::random() };
    node.apply(vec![link::create_local_veth(&end(name), &end(&port), bridge.mtu)])?;
    let index = link::by_name(node, &port)?.ok_or_else(|| {
        Error::config(format!("the interface {name} already exists but is not the gateway of a VLAN"))
            .with_details(format!("it would be a veth whose other end is {port}: remove or rename it"))
    })?;
    // Its VLAN only, whatever trunk this pod has.
    let own = Vlans { native: settings.vlans.native, trunk: Vec::new(), ..settings.vlans.clone() };
    let mut changes = vec![link::set_port(&port, bridge.index)];
    changes.extend(carry(&own, bridge, index.index));
    changes.push(link::set_up(name));
    node.apply(changes)?;
    link::by_name(node, name)?.ok_or_else(|| is_gone(name))
}

/// Makes sure of a gateway's address. It is there for every pod but the first, and then the kernel says so at once;
/// only where it was not are the others looked at.
fn ensure_address(
    gateway: IpNetwork,
    gateways: &[IpNetwork],
    holder: &Link,
    force: bool,
    node: &mut RouteSocket,
) -> Result<(), Error> {
    let add = || address::add(holder.index, gateway, false);
    if !node.change(add())? {
        return Ok(());
    }
    let mut obstacles = address::list(node, holder.index)?;
    obstacles.retain(|address| *address != gateway && conflicts(*address, gateway, gateways));
    let Some(first) = obstacles.first() else { return Ok(()) };
    // It may depend on the obstacle (as a secondary address of its subnet), so it goes in any case.
    let mut changes = vec![address::remove(holder.index, gateway)];
    if !force {
        let msg = format!("{:?} already has an IP address different from {gateway}: {first}", holder.name);
        node.apply(changes)?;
        return Err(Error::config(msg).with_details("remove it, or set forceAddress to have it replaced"));
    }
    changes.extend(obstacles.iter().map(|address| address::remove(holder.index, *address)));
    changes.push(add());
    Ok(node.apply(changes)?)
}

/// Whether an address of the bridge is in the way of a gateway: a bridge has one IPv4 address, and IPv6 ones whose
/// subnets do not overlap. Gateways of one configuration are never in each other's way, and the link-local address
/// the kernel gives an interface is never in the way of one chosen.
fn conflicts(address: IpNetwork, gateway: IpNetwork, gateways: &[IpNetwork]) -> bool {
    if gateways.contains(&address) {
        return false;
    }
    match (address, gateway) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(v6), IpNetwork::V6(to)) => {
            !v6.ip().is_unicast_link_local() && (v6.contains(to.ip()) || to.contains(v6.ip()))
        }
        _ => false,
    }
}

/// Gives a bridge of somebody else's a hardware address that stays: nobody may have set it, and then it changes with
/// the ports, or is none at all once the last one is gone. One made here has it from birth.
fn pin_mac(bridge: &mut Link, node: &mut RouteSocket) -> Result<(), Error> {
    let mac = bridge.mac.filter(|mac| mac.0 != [0; 6]).unwrap_or_else(Mac::random);
    if bridge.mac.is_none_or(|now| !now.is_random()) {
        node.apply(vec![link::set_mac(&bridge.name, mac)])?;
        bridge.mac = Some(mac);
    }
    Ok(())
}

/// Makes the node forward the families that have a gateway here.
fn forward(wiring: &Wiring) -> Result<(), Error> {
    for (v4, key) in [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")] {
        if wiring.gateways.iter().any(|gateway| gateway.is_ipv4() == v4) {
            sysctl::ensure(key, "1")?;
        }
    }
    Ok(())
}
