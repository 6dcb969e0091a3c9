//! ADD.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnetwork::IpNetwork;

use super::plan::{Plan, Wiring};
use super::undo::{Step, Undo};
use super::{LOCK_DEADLINE, flatten, masquerade, open_pod};
use crate::ipam::{self, AllocateError, Lease, Locked};
use crate::netlink::link::{self, Link, PortFlags};
use crate::netlink::{Netns, RouteSocket, address, neighbour, route, sysctl};
use crate::plugin::Call;
use crate::spec::{Environment, Error, Success, code};

/// The two ends of the work: the node's namespace and the pod's, each with a socket in it.
struct Ends {
    home: Netns,
    pod: Netns,
    node: RouteSocket,
    inside: RouteSocket,
}

impl Ends {
    fn open(environment: &Environment) -> Result<Ends, Error> {
        let home = Netns::current()?;
        let pod = open_pod(environment, &home)?;
        let node = RouteSocket::open()?;
        let inside = flatten(pod.inside(&home, RouteSocket::open))?;
        Ok(Ends { home, pod, node, inside })
    }
}

/// Attaches the pod and returns the result in the configuration's version. A failure leaves nothing.
///
/// # Errors
/// What failed, with its code of the specification.
pub fn add(call: &Call<'_>) -> Result<Success, Error> {
    let environment = call.environment;
    let plan = Plan::new(call)?;
    let mut ends = Ends::open(environment)?;
    // Asked before anything is made: the commonest failure then has nothing to undo.
    if link::by_name(&mut ends.inside, &plan.attachment.ifname)?.is_some() {
        let (ifname, netns) = (&plan.attachment.ifname, ends.pod.path().display());
        return Err(Error::new(code::INTERNAL, format!("container veth name {ifname:?} already exists in {netns}"))
            .with_details("the pod is attached already: DEL it first"));
    }
    let mut undo = Undo::default();
    let attached = attach(&plan, &mut ends, &mut undo);
    attached.map_err(|error| undo.unwind(error, &plan, &mut ends.node))
}

fn attach(plan: &Plan, ends: &mut Ends, undo: &mut Undo) -> Result<Success, Error> {
    let leases = match &plan.ipam {
        Some(ipam) => lease(plan, ipam, undo)?,
        None => Vec::new(),
    };
    let wiring = Wiring::new(plan, leases);
    let bridge = ensure_bridge(plan, &wiring, &mut ends.node)?;
    forward(&wiring)?;
    connect(plan, &wiring, &bridge, ends, undo)?;
    set_up_pod(plan, &wiring, ends)?;
    Ok(wiring.success(plan, &bridge, ends.pod.path()))
}

/// Leases addresses and makes sure of the masquerading, both under the lock of the leases.
fn lease(plan: &Plan, ipam: &ipam::Config, undo: &mut Undo) -> Result<Vec<Lease>, Error> {
    let mut locked = plan.store.lock(LOCK_DEADLINE)?;
    if let Some(ip) = locked.held_by(&plan.attachment)?.first() {
        let id = &plan.attachment.container_id;
        let msg = format!("{ip} has been allocated to {id}, duplicate allocation is not allowed");
        return Err(
            Error::new(code::INTERNAL, msg).with_details("an earlier ADD was not followed by a DEL: DEL it first")
        );
    }
    let leases = ipam::allocate(&ipam.sets, &ipam.requested, &plan.attachment, &mut locked)
        .map_err(|error| explain(error, &locked, plan))?;
    undo.push(Step::Leases);
    let ips: Vec<IpAddr> = leases.iter().map(|lease| lease.address.ip()).collect();
    locked.note(&plan.attachment, &ips, None);
    if plan.settings.ip_masq {
        let subnets: Vec<IpNetwork> = leases.iter().map(|lease| lease.subnet).collect();
        masquerade::ensure(&plan.network, &subnets)?;
    }
    Ok(leases)
}

/// Says of a full network how full it is, and what to do.
fn explain(error: AllocateError<ipam::StoreError>, locked: &Locked, plan: &Plan) -> Error {
    let AllocateError::Exhausted { ranges, .. } = &error else { return error.into() };
    let capacity = ranges.capacity();
    let leased = locked.leased().unwrap_or_default().into_iter().filter(|ip| ranges.range_of(*ip).is_some()).count();
    let advice = format!(
        "{leased} of {capacity} addresses of {:?} are leased; remove pods, widen the range, or remove the leases in {} of containers that are gone",
        plan.network,
        plan.store.directory().display()
    );
    Error::from(error).with_details(advice)
}

/// Makes the bridge, or finds it, with its gateway addresses. Any number of ADDs may do this at once.
fn ensure_bridge(plan: &Plan, wiring: &Wiring, node: &mut RouteSocket) -> Result<Link, Error> {
    let name = &plan.settings.bridge;
    let bridge = match link::by_name(node, name)? {
        Some(bridge) => bridge,
        None => create_bridge(plan, wiring, node)?,
    };
    if bridge.kind != "bridge" {
        return Err(Error::config(format!("bridge: {name:?} already exists but is not a bridge")));
    }
    let mut changes = Vec::new();
    if !bridge.up {
        // Before it is up: no pod may announce itself as the node's router. Here and not where the bridge is made,
        // for an ADD may be killed in between.
        sysctl::ensure_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        changes.push(link::set_up(name));
    }
    if plan.settings.promiscuous && !bridge.promiscuous {
        changes.push(link::set_promiscuous(name));
    }
    if !wiring.gateways.is_empty() {
        let now = address::list(node, bridge.index)?;
        for gateway in wiring.gateways.iter().filter(|gateway| !now.contains(gateway)) {
            for obstacle in now.iter().filter(|address| conflicts(**address, *gateway, &wiring.gateways)) {
                if !plan.settings.force_address {
                    let msg = format!("{name:?} already has an IP address different from {gateway}: {obstacle}");
                    return Err(Error::config(msg).with_details("remove it, or set forceAddress to have it replaced"));
                }
                changes.push(address::remove(bridge.index, *obstacle));
            }
            changes.push(address::add(bridge.index, *gateway, false));
        }
    }
    node.apply(changes)?;
    Ok(bridge)
}

fn create_bridge(plan: &Plan, wiring: &Wiring, node: &mut RouteSocket) -> Result<Link, Error> {
    let name = &plan.settings.bridge;
    let mut batch = vec![link::create_bridge(name, wiring.bridge_mac)];
    batch.extend(plan.settings.mtu.map(|mtu| link::set_mtu(name, mtu)));
    node.apply(batch)?;
    let bridge = link::by_name(node, name)?;
    bridge.ok_or_else(|| {
        Error::new(code::INTERNAL, format!("the bridge {name} is gone again: something else removes it"))
    })
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

/// Makes the node forward the families that have a gateway here.
fn forward(wiring: &Wiring) -> Result<(), Error> {
    for (v4, key) in [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")] {
        if wiring.gateways.iter().any(|gateway| gateway.is_ipv4() == v4) {
            sysctl::ensure(key, "1")?;
        }
    }
    Ok(())
}

/// Makes the veth pair, and forgets where the node last saw the pod's addresses.
fn connect(plan: &Plan, wiring: &Wiring, bridge: &Link, ends: &mut Ends, undo: &mut Undo) -> Result<(), Error> {
    let (settings, name) = (&plan.settings, &wiring.host.name);
    let create = link::create_veth(&wiring.host, &wiring.pod, ends.pod.file().as_fd(), bridge.index, settings.mtu);
    // On its own: what follows must be undone if it fails, but a pair that was there already must not be removed.
    ends.node.apply(vec![create])?;
    undo.push(Step::Veth);
    let mut rest: Vec<_> = plan.alias.iter().map(|alias| link::set_alias(name, alias)).collect();
    if settings.hairpin || settings.isolated {
        rest.push(link::set_port_flags(name, PortFlags { hairpin: settings.hairpin, isolated: settings.isolated }));
    }
    rest.extend(wiring.addresses.iter().map(|address| neighbour::forget(bridge.index, address.ip())));
    Ok(ends.node.apply(rest)?)
}

/// Gives the pod's end its addresses and routes.
fn set_up_pod(plan: &Plan, wiring: &Wiring, ends: &mut Ends) -> Result<(), Error> {
    let name = &wiring.pod.name;
    flatten(ends.pod.inside(&ends.home, || tune(plan, wiring)))?;
    let pod = link::by_name(&mut ends.inside, name)?;
    let index = pod
        .ok_or_else(|| Error::new(code::INTERNAL, format!("{name} is gone again from {}", ends.pod.path().display())))?
        .index;
    let add = |address: &IpNetwork| address::add(index, *address, plan.settings.detect_duplicates);
    let (v4, v6): (Vec<_>, Vec<_>) = wiring.addresses.iter().partition(|address| address.is_ipv4());
    // IPv4 first: setting the link up announces the addresses that are there (arp_notify).
    let mut batch: Vec<_> = v4.into_iter().map(add).collect();
    batch.push(link::set_up(name));
    batch.extend(v6.into_iter().map(add));
    batch.extend(wiring.kernel_routes.iter().map(|new| route::add(index, new)));
    Ok(ends.inside.apply(batch)?)
}

/// The sysctls of the pod's interface; run inside the pod's namespace.
fn tune(plan: &Plan, wiring: &Wiring) -> Result<(), crate::netlink::Error> {
    let name = &wiring.pod.name;
    sysctl::ensure(&format!("ipv4/conf/{name}/arp_notify"), "1")?;
    if !plan.settings.detect_duplicates {
        // The link-local address would be tentative, and packets from it held back, for two seconds.
        sysctl::ensure_if_present(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
    }
    if wiring.addresses.iter().any(IpNetwork::is_ipv6) {
        for (key, value) in [("disable_ipv6", "0"), ("keep_addr_on_down", "1"), ("ndisc_notify", "1")] {
            sysctl::ensure(&format!("ipv6/conf/{name}/{key}"), value)?;
        }
    }
    Ok(())
}
