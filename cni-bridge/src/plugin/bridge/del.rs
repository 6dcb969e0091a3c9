//! DEL: repeatable, from the ids alone, and after a crash at any point of an ADD.

use nix::errno::Errno;

use super::addresses::Source;
use super::settings::bridge_name;
use super::{flatten, host_name, is_ours, legacy, spoof};
use crate::netlink::{self, Link, Netns, RouteSocket, link};
use crate::plugin::Call;
use crate::spec::{Attachment, Config, Environment, Error};

/// Detaches the pod. What is gone already is no failure; what fails does not keep the rest from being done.
///
/// # Errors
/// All that failed, as one.
pub fn del(call: &Call<'_>) -> Result<(), Error> {
    let (config, environment, attachment) = (call.config, call.environment, call.attachment());
    // The link before the lease: an address is free only when nobody uses it any more. And before the check of its MAC
    // address: nothing is sent unchecked.
    let outcomes = [
        remove_veth(config, environment, &attachment),
        free(call),
        remove_rules(spoof::remove(&config.name, &attachment), config.root().get("macspoofchk").flag()),
        remove_rules(legacy::remove(&config.name, &attachment), Ok(false)),
    ];
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

fn remove_veth(config: &Config, environment: &Environment, attachment: &Attachment) -> Result<(), Error> {
    let mut node = RouteSocket::open()?;
    let name = host_name(&config.name, attachment);
    if link::by_name(&mut node, &name)?.is_some() {
        return Ok(node.apply(vec![link::delete(&name)])?);
    }
    // Not made by us, or gone. A pair the reference made has a random name; the pod's end leads to it.
    // Where the bridge cannot be, or is not there, nothing is a port of it.
    let Ok(bridge) = bridge_name(config) else { return Ok(()) };
    let Some(bridge) = link::by_name(&mut node, &bridge)? else { return Ok(()) };
    match find_foreign(environment, &mut node, &bridge)? {
        Some(link) => Ok(node.apply(vec![link::delete(&link.name)])?),
        None => Ok(()),
    }
}

/// The node's end of the pair whose other end is `CNI_IFNAME` in the pod, if that is a port of our bridge. Any other
/// interface of that name is somebody else's: an ADD that was refused because of it is followed by a DEL too.
fn find_foreign(
    environment: &Environment,
    node: &mut RouteSocket,
    bridge: &Link,
) -> Result<Option<Link>, netlink::Error> {
    let Some(path) = &environment.netns else { return Ok(None) };
    let home = Netns::current()?;
    // A namespace that is gone, or a leftover file in its place, has no interfaces.
    let Ok(pod) = Netns::open(path) else { return Ok(None) };
    if pod.is(&home)? {
        return Ok(None);
    }
    let Ok(mut inside) = flatten(pod.inside(&home, RouteSocket::open)) else { return Ok(None) };
    let Some(end) = link::by_name(&mut inside, &environment.ifname)?.filter(|end| end.kind == "veth") else {
        return Ok(None);
    };
    let Some(peer) = end.peer else { return Ok(None) };
    let host = link::by_index(node, peer)?;
    let leads_back = |host: &Link| host.kind == "veth" && host.peer == Some(end.index);
    // The index is one of the peer's namespace, which may be a third one: what has our alias is another pod's.
    Ok(host.filter(|host| leads_back(host) && host.controller == Some(bridge.index) && !is_ours(&host.alias)))
}

/// Gives back what an IPAM gave, whatever has become of the configuration's other keys.
fn free(call: &Call<'_>) -> Result<(), Error> {
    let ip_masq = call.config.root().get("ipMasq").flag().unwrap_or_default();
    Source::read(call.config)?.del(call, ip_masq)
}

/// Refusals of a kernel without nf_tables, or without them for bridges.
const NO_NF_TABLES: [Errno; 4] = [Errno::EINVAL, Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT];

/// Where there can be no rules, and none were asked for, it is no failure that they cannot be removed.
pub(super) fn remove_rules(outcome: Result<(), netlink::Error>, wanted: Result<bool, Error>) -> Result<(), Error> {
    match outcome {
        Err(error)
            if !wanted.unwrap_or_default() && error.errno().is_some_and(|errno| NO_NF_TABLES.contains(&errno)) =>
        {
            Ok(())
        }
        outcome => Ok(outcome?),
    }
}
