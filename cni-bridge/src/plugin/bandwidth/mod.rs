//! Type `bandwidth`: limits what a pod receives and sends.
//!
//! What the pod receives leaves the node's end of its veth pair, through a token bucket there. What it sends comes
//! in by that end, and is redirected to an `ifb` device of its own, through the token bucket of that. With the pair
//! goes all but this device, which DEL removes.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | the keys of the type, and the numbers the kernel is told |
//! | [`device`] | the `ifb` device: its name and whose it is |

pub mod device;
pub mod settings;

use device::Ifb;
use settings::{Limit, Limits};

use super::pod::Pod;
use super::{Call, Type, chain};
use crate::netlink::tc::{self, Device, TokenBucket};
use crate::netlink::{Link, Request, RouteSocket, link};
use crate::spec::{Error, Interface, Success, Version, code};

/// The type.
pub static TYPE: Type = Type { name: "bandwidth", oldest: Version::V0_3_0, add, del, check, gc: device::gc, status };

fn previous(call: &Call<'_>) -> Result<Success, Error> {
    chain::previous(call, "must be called as chained plugin")
}

/// The node's end of the pod's veth pair, which must be in the result.
fn host_end(call: &Call<'_>, result: &Success, node: &mut RouteSocket) -> Result<Link, Error> {
    let name = &call.environment.ifname;
    let pod = Pod::open(call.environment)?;
    let none = |what: &str| {
        Error::config(format!("container interface {name} has no veth peer{what}"))
            .with_details("bandwidth goes after a plugin that makes a veth pair, such as bridge")
    };
    let inside = link::by_name(&mut pod.socket()?, name)?;
    let end = inside.filter(|end| end.kind == "veth").ok_or_else(|| none(""))?;
    let host = end.peer.map(|peer| link::by_index(node, peer)).transpose()?.flatten();
    // The index is one of the peer's namespace, which may be a third one.
    let leads_back = |host: &Link| host.kind == "veth" && host.peer == Some(end.index);
    let host = host.filter(leads_back).ok_or_else(|| none(" on the node"))?;
    match chain::on_node(result).any(|told| told.name == host.name) {
        true => Ok(host),
        false => Err(none(&format!(" in prevResult: {} is not in it", host.name))),
    }
}

/// A change, and the one that takes it back.
struct Step {
    change: Request,
    undo: Request,
}

/// Applies all, or nothing.
fn apply(node: &mut RouteSocket, steps: Vec<Step>) -> Result<(), Error> {
    let mut done = Vec::new();
    for Step { change, undo } in steps {
        if let Err(cause) = node.apply(vec![change]) {
            return Err(take_back(node, done, cause.into()));
        }
        done.push(undo);
    }
    Ok(())
}

fn take_back(node: &mut RouteSocket, done: Vec<Request>, cause: Error) -> Error {
    let failures = done.into_iter().rev().filter_map(|undo| node.apply(vec![undo]).err()).map(Error::from).collect();
    match Error::all(failures) {
        None => cause,
        Some(failure) => cause.and_failed("undoing", &failure),
    }
}

fn limit(device: Device<'_>, bucket: &TokenBucket) -> Step {
    Step { change: device.add_bucket(bucket), undo: device.remove_bucket() }
}

/// Sets the limits, and adds the `ifb` device to the result, if one is needed.
fn add(call: &Call<'_>) -> Result<Success, Error> {
    let limits = Limits::read(call.config)?;
    let mut result = previous(call)?;
    if limits.is_empty() {
        return Ok(result);
    }
    let mut node = RouteSocket::open()?;
    let host = host_end(call, &result, &mut node)?;
    let host_device = Device { index: host.index, name: &host.name };
    let ingress = limits.ingress.map(Limit::bucket).transpose()?;
    let mut steps: Vec<Step> = ingress.iter().map(|bucket| limit(host_device, bucket)).collect();
    let Some(egress) = limits.egress.map(Limit::bucket).transpose()? else {
        apply(&mut node, steps)?;
        return Ok(result);
    };
    let ifb = Ifb::create(call, host.mtu, &mut node)?;
    let device = Device { index: ifb.link.index, name: &ifb.link.name };
    steps.push(limit(device, &egress));
    steps.push(Step { change: host_device.add_ingress(), undo: host_device.remove_ingress() });
    // Last of all: from here on the pod sends by the device.
    steps.push(Step { change: host_device.add_redirect(device), undo: host_device.remove_ingress() });
    apply(&mut node, steps).map_err(|cause| take_back(&mut node, vec![link::delete(&ifb.link.name)], cause))?;
    result.interfaces.push(Interface {
        name: ifb.link.name.clone(),
        mac: ifb.link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: ifb.link.mtu,
        ..Interface::default()
    });
    Ok(result)
}

/// Removes the `ifb` device. The limits of the veth pair go with it.
fn del(call: &Call<'_>) -> Result<(), Error> {
    let mut node = RouteSocket::open()?;
    match Ifb::find(call, &mut node)? {
        Some(ifb) => Ok(node.apply(vec![link::delete(&ifb.link.name)])?),
        None => Ok(()),
    }
}

/// Compares the token buckets with the configuration.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let limits = Limits::read(call.config)?;
    let result = previous(call)?;
    if limits.is_empty() {
        return Ok(());
    }
    let mut node = RouteSocket::open()?;
    let host = host_end(call, &result, &mut node)?;
    if let Some(limit) = limits.ingress {
        check_bucket(&host, limit, &mut node)?;
    }
    if let Some(limit) = limits.egress {
        let ifb = Ifb::find(call, &mut node)?;
        let ifb = ifb.ok_or_else(|| {
            Error::new(code::CHECK_FAILED, "the ifb device that limits what the pod sends is missing")
        })?;
        check_bucket(&ifb.link, limit, &mut node)?;
        let (from, to) = (Device { index: host.index, name: &host.name }, Device { index: ifb.link.index, name: "" });
        if !from.redirects_to(to, &mut node)? {
            let what = format!("what comes in by {} is not redirected to {}", host.name, ifb.link.name);
            return Err(Error::new(code::CHECK_FAILED, what));
        }
    }
    Ok(())
}

fn check_bucket(link: &Link, limit: Limit, node: &mut RouteSocket) -> Result<(), Error> {
    let differs = |what: String| Err(Error::new(code::CHECK_FAILED, format!("{}: {what}", link.name)));
    let asked = limit.bucket()?;
    let wanted = asked.as_kept(tc::ticks_per_microsecond()?);
    match (Device { index: link.index, name: &link.name }).bucket(node)? {
        None => differs("what leaves it is not limited".into()),
        Some(now) if now.rate != wanted.rate => {
            differs(format!("Rate doesn't match: {} bytes a second, not {}", now.rate, wanted.rate))
        }
        Some(now) if now.limit != wanted.limit => {
            differs(format!("Limit doesn't match: {} bytes, not {}", now.limit, wanted.limit))
        }
        // Where the kernel keeps it as it was asked for, the limit is none.
        Some(now) if now.buffer != wanted.buffer && now.buffer != asked.buffer => {
            differs(format!("Buffer doesn't match: {} ticks, not {}", now.buffer, wanted.buffer))
        }
        Some(_) => Ok(()),
    }
}

/// Whether the configuration could be served.
fn status(call: &Call<'_>) -> Result<(), Error> {
    Limits::read(call.config).map(drop)
}
