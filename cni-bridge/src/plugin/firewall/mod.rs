//! Type `firewall`: lets the traffic of pods pass the node's own rules, and keeps pods apart.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | the keys of the type |
//! | [`table`] | the nftables tables: what is in them for all pods, and why |
//! | [`doors`] | the chains of others that let it through |
//! | [`record`] | what is in them for one pod |
//!
//! It is nf_tables whatever `backend` says. As the reference has it, a pod's own connections pass, and answers to
//! them; who may connect to a pod is for the node's rules to say, and for `ingressPolicy`. Different from it, a
//! connection to a published port passes too, and `isolated` keeps pods of one bridge apart where the kernel's
//! br_netfilter does not show them to any rule: their ports of the bridge are isolated as well.

pub mod doors;
pub mod record;
pub mod settings;
pub mod table;

use std::net::IpAddr;

use nix::errno::Errno;
use record::Entry;
use settings::{Policy, Settings};

use super::owner::Owner;
use super::{Call, Type, chain, reference};
use crate::netlink::nft::NftSocket;
use crate::netlink::{RouteSocket, link, tune};
use crate::spec::{Error, Success, Version, code};

/// The type.
pub static TYPE: Type = Type { name: "firewall", oldest: Version::V0_4_0, add, del, check, gc, status };

fn previous(call: &Call<'_>) -> Result<Success, Error> {
    chain::previous(call, "missing prevResult from earlier plugin")
}

/// The addresses of a result, each once: it may name one at two interfaces.
fn ips(result: &Success) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in result.ips.iter().map(|ip| ip.address.ip()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// The bridge that a policy is about: the node's first interface in the result. The reference takes the first one
/// wherever it is; the pod's `eth0` would be taken for the node's, and its traffic dropped.
fn bridge<'a>(settings: &Settings, result: &'a Success) -> Result<Option<&'a str>, Error> {
    if settings.policy == Policy::Open {
        return Ok(None);
    }
    let first = chain::on_node(result).next().map(|interface| interface.name.as_str()).filter(|name| !name.is_empty());
    first.map(Some).ok_or_else(|| {
        Error::config("interface needs to be set for ingressPolicy: prevResult has none on the node")
            .with_details("make sure to chain \"firewall\" plugin with \"bridge\"")
    })
}

/// Enters the pod; the result is the one before.
fn add(call: &Call<'_>) -> Result<Success, Error> {
    let settings = Settings::read(call.config)?;
    let result = previous(call)?;
    let bridge = bridge(&settings, &result)?;
    let mut socket = NftSocket::open()?;
    record::enter(&mut socket, &Entry { owner: Owner::of(call), ips: ips(&result), settings: &settings, bridge })?;
    if settings.policy == Policy::Isolated
        && let Err(cause) = isolate_ports(&result)
    {
        return Err(match record::remove(&mut socket, &Owner::of(call)) {
            Ok(()) => cause,
            Err(failure) => cause.with_details(format!("and undoing failed: {failure}")),
        });
    }
    Ok(result)
}

/// The pod's ports of a bridge, among the interfaces of the result.
fn ports(result: &Success, node: &mut RouteSocket) -> Result<Vec<link::Link>, Error> {
    let mut ports = Vec::new();
    for told in chain::on_node(result).skip(1) {
        ports.extend(link::by_name(node, &told.name)?.filter(|link| link.controller.is_some()));
    }
    Ok(ports)
}

/// They go with the pair, so nothing takes this back.
fn isolate_ports(result: &Success) -> Result<(), Error> {
    let mut node = RouteSocket::open()?;
    let ports = ports(result, &mut node)?;
    Ok(node.apply(ports.iter().map(|port| tune::isolate_port(&port.name)).collect())?)
}

/// Removes the pod from the tables, and what the reference left for its addresses.
fn del(call: &Call<'_>) -> Result<(), Error> {
    let mut socket = match NftSocket::open() {
        // A kernel without netfilter has nothing of a pod.
        Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => return Ok(()),
        opened => opened?,
    };
    let ips = chain::previous_if_readable(call).map(|result| ips(&result)).unwrap_or_default();
    let outcomes = [record::remove(&mut socket, &Owner::of(call)), reference::remove_forward_rules(&mut socket, &ips)];
    Error::all(outcomes.into_iter().filter_map(Result::err).map(Error::from).collect()).map_or(Ok(()), Err)
}

/// Compares the tables with the result.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let settings = Settings::read(call.config)?;
    let result = previous(call)?;
    let differs = |what: String| Err(Error::new(code::CHECK_FAILED, what));
    let mut socket = NftSocket::open()?;
    let Some(missing) = record::missing(&mut socket, &Owner::of(call), &ips(&result))? else {
        // The reference may have made it.
        return match reference::has_forward_rules(&mut socket, &ips(&result))? {
            true => Ok(()),
            false => differs(format!("the pod {} is not in the firewall's tables", call.environment.container_id)),
        };
    };
    if let Some(missing) = missing.into_iter().next() {
        return differs(missing);
    }
    if !table::admin_chains(&mut socket)?.contains(&settings.admin_chain) {
        return differs(format!("no rule leads to the chain {} of the table {}", settings.admin_chain, table::MAIN));
    }
    if let Some((chain, found, expected)) = table::altered(&mut socket)? {
        let table = table::MAIN;
        return differs(format!(
            "the chain {chain} has {found} rules instead of {expected} in the nftables table {table}"
        ));
    }
    if let Some(chain) = doors::first_closed(&mut socket)? {
        return differs(format!("the rule that lets pods' traffic through is missing in the chain {chain}"));
    }
    if let Some(bridge) = bridge(&settings, &result)?
        && !table::is_protected(&mut socket, bridge, settings.policy)?
    {
        return differs(format!("the ingress policy of the bridge {bridge} is missing in the table {}", table::MAIN));
    }
    Ok(())
}

/// Removes the pods of this network that are not on the list.
fn gc(call: &Call<'_>) -> Result<(), Error> {
    let Some(valid) = call.config.valid_attachments()? else { return Ok(()) };
    let mut socket = NftSocket::open()?;
    let all = record::owners(&mut socket)?;
    let is_stale = |owner: &&Owner| owner.is_stale(&call.config.name, &valid);
    let mut failures: Vec<_> =
        all.iter().filter(is_stale).filter_map(|owner| record::remove(&mut socket, owner).err()).collect();
    failures.extend(table::remove_if_unused(&mut socket).err());
    Error::all(failures.into_iter().map(Error::from).collect()).map_or(Ok(()), Err)
}

/// Whether the configuration could be served, by this kernel.
fn status(call: &Call<'_>) -> Result<(), Error> {
    Settings::read(call.config)?;
    let asked = NftSocket::open().and_then(|mut socket| socket.table_use(table::MAIN));
    asked.map(drop).map_err(|error| Error::new(code::NOT_AVAILABLE, error.to_string()))
}
