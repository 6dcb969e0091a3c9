//! Type `loopback`: sets `lo` up in the pod.
//!
//! containerd calls it for every pod, beside the network's own plugins and with a configuration of version 0.3.1.
//! `CNI_IFNAME` does not matter: there is one loopback interface.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::pod::Pod;
use super::{Call, Type};
use crate::netlink::{Link, RouteSocket, address, link};
use crate::spec::{Error, Interface, IpConfig, Success, Version, code};

/// The type.
pub static TYPE: Type =
    Type { name: "loopback", oldest: Version::V0_1_0, add, del, check, gc: nothing, status: nothing };

const LO: &str = "lo";

/// Sets `lo` up and tells its addresses, or passes on the result of the plugins before.
fn add(call: &Call<'_>) -> Result<Success, Error> {
    let previous = call.config.prev_result()?;
    let pod = Pod::open(call.environment)?;
    let mut inside = pod.socket()?;
    let lo = find(&mut inside)?;
    let mut addresses = address::list(&mut inside, lo.index)?;
    if let Some(foreign) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        let msg = format!("loopback interface found with non-loopback address {foreign}");
        return Err(Error::config(msg).with_details(format!("remove it from lo in {}", pod.path())));
    }
    if !lo.up {
        inside.apply(vec![link::set_up(LO)])?;
        // The kernel gives them when it comes up.
        addresses = address::list(&mut inside, lo.index)?;
    }
    Ok(previous.unwrap_or_else(|| success(&addresses, &lo, pod.path())))
}

/// One address a family, because versions before 0.3.0 have no room for more.
fn success(addresses: &[IpNetwork], lo: &Link, sandbox: String) -> Success {
    let first = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4);
    let ip = |address: &IpNetwork| IpConfig::new(*address, None, Some(0));
    let mac = "00:00:00:00:00:00".to_owned();
    Success {
        interfaces: vec![Interface { name: LO.into(), mac, mtu: lo.mtu, sandbox, ..Interface::default() }],
        ips: [first(true), first(false)].into_iter().flatten().map(ip).collect(),
        ..Success::default()
    }
}

fn find(inside: &mut RouteSocket) -> Result<Link, Error> {
    link::by_name(inside, LO)?.ok_or_else(|| Error::new(code::INTERNAL, "the pod has no loopback interface"))
}

/// Sets `lo` down. A pod that is gone has none.
fn del(call: &Call<'_>) -> Result<(), Error> {
    let Some(pod) = Pod::open_if_there(call.environment) else { return Ok(()) };
    Ok(pod.socket()?.apply(vec![link::set_down(LO)])?)
}

fn check(call: &Call<'_>) -> Result<(), Error> {
    let pod = Pod::open(call.environment)?;
    let mut inside = pod.socket()?;
    let lo = find(&mut inside)?;
    let differs = |what: String| Err(Error::new(code::CHECK_FAILED, what));
    if !lo.up {
        return differs(format!("loopback interface is down in {}", pod.path()));
    }
    let told = call.config.prev_result()?.unwrap_or_default();
    let now: Vec<IpAddr> = address::list(&mut inside, lo.index)?.iter().map(IpNetwork::ip).collect();
    let is_ours = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|index| told.interfaces.get(index));
        interface.is_some_and(|interface| interface.name == LO && !interface.sandbox.is_empty())
    };
    match told.ips.iter().filter(is_ours).find(|ip| !now.contains(&ip.address.ip())) {
        Some(lost) => differs(format!("loopback interface has lost its address {} in {}", lost.address, pod.path())),
        None => Ok(()),
    }
}

/// Nothing of it is on the node, and it needs nothing of the node.
fn nothing(_: &Call<'_>) -> Result<(), Error> {
    Ok(())
}
