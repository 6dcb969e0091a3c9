//! DEL: repeatable, from the ids alone, and after a crash at any point of an ADD.

use std::net::IpAddr;

use super::settings::bridge_name;
use super::{LOCK_DEADLINE, flatten, host_name, is_ours, masquerade};
use crate::ipam::{Store, config};
use crate::netlink::{self, Link, Netns, RouteSocket, link};
use crate::plugin::Call;
use crate::spec::{Attachment, Config, Environment, Error};

/// Detaches the pod. What is gone already is no failure; what fails does not keep the rest from being done.
///
/// # Errors
/// All that failed, as one.
pub fn del(call: &Call<'_>) -> Result<(), Error> {
    let (config, environment, attachment) = (call.config, call.environment, call.attachment());
    // The link before the lease: an address is free only when nobody uses it any more.
    let outcomes = [remove_veth(config, environment, &attachment), free(config, &attachment)];
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

fn free(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    // An ADD with an IPAM that is not built in was refused, so there is nothing of it.
    if !matches!(config::is_wanted(config), Ok(true)) {
        return Ok(());
    }
    // Where the leases are noted in the result, they are found at once. Without it, or with a broken one, they are searched.
    let told = config.prev_result().ok().flatten().unwrap_or_default();
    let ips: Vec<_> = told.ips.iter().map(|ip| ip.address.ip()).collect();
    let ip_masq = config.root().get("ipMasq").flag().unwrap_or_default();
    release(&config::store(config)?, &config.name, attachment, &ips, ip_masq)
}

/// Frees an attachment's leases, and with the last lease of the network removes its masquerading.
pub(super) fn release(
    store: &Store,
    network: &str,
    attachment: &Attachment,
    _hints: &[IpAddr],
    ip_masq: bool,
) -> Result<(), Error> {
    let Some(mut locked) = store.lock_existing(LOCK_DEADLINE)? else { return Ok(()) };
    locked.release(attachment)?;
    if locked.is_empty()? {
        locked.forget_network();
        // Whether ipMasq was set when the table was made, who knows; where it is not set now, a kernel without
        // nf_tables is no failure.
        masquerade::remove(network).or_else(|error| if ip_masq { Err(error) } else { Ok(()) })?;
    }
    Ok(())
}
