//! Type `portmap`: ports of the node that lead to a pod, after another plugin of a list.
//!
//! | module | what |
//! |---|---|
//! | [`settings`], [`condition`] | the keys of the type |
//! | [`hostports`] | the nftables tables: what is in them for all pods, and why |
//! | [`entry`] | what is in them for one pod, and the record of it |
//! | [`plan`](mod@plan) | what an ADD will enter |
//! | [`attach`] | entering it, taking it back |
//! | [`localnet`] | the switch that the node's 127.0.0.1 needs |
//! | [`flush`] | UDP connections that go on past a change |
//! | [`verify`] | CHECK, GC, STATUS |
//!
//! It is nf_tables whatever `backend` says. An ADD and a DEL are one transaction each, whose cost does not grow with
//! the pods there are. Two pods cannot have the same port: the second is told which pod has it, unless that one is
//! gone without its DEL; then its entries make way.

pub mod attach;
pub mod condition;
pub mod entry;
pub mod flush;
pub mod hostports;
pub mod localnet;
pub mod plan;
pub mod settings;
pub mod verify;

use super::owner::Owner;
use super::reference;
use super::{Call, Type, chain};
use crate::netlink::nft::{Family, NftSocket, Table};
use crate::spec::{Error, Success, Version, code};
use hostports::Hostports;
use settings::Settings;

/// The row of this type.
pub static TYPE: Type = Type {
    name: "portmap",
    oldest: Version::V0_1_0,
    add,
    del,
    check: verify::check,
    gc: verify::gc,
    status: verify::status,
};

/// Maps the ports; the result is the one before.
fn add(call: &Call<'_>) -> Result<Success, Error> {
    let previous = chain::previous(call, "must be called as chained plugin")?;
    map(call, &previous)?;
    Ok(previous)
}

/// Maps the ports to the pod that `previous` is the result of. Without mappings nothing is done or even looked at.
///
/// # Errors
/// What is wrong with the configuration, or what the kernel refuses; then nothing is left.
pub fn map(call: &Call<'_>, previous: &Success) -> Result<(), Error> {
    let settings = Settings::read(call.config)?;
    if settings.mappings.is_empty() {
        return Ok(());
    }
    let sides = plan::plan(call, &settings, previous)?;
    let owner = Owner::of(call);
    let mut socket = NftSocket::open()?;
    if let Err(cause) = attach::enter(&mut socket, &owner, &sides) {
        // A switch comes after the transaction. Where a port is another's there was none.
        if cause.code != code::PORT_TAKEN {
            let _ = attach::remove(&mut socket, &Hostports::of(&settings.profile), &owner);
        }
        return Err(cause);
    }
    // After the rules: what comes now is sent on by them. A connection that stays is one client's trouble for half a
    // minute, and no reason to refuse the pod.
    for side in &sides {
        let _ = flush::entered(side);
    }
    Ok(())
}

/// Removes the mappings, found by the ids alone, and what the reference left for the same attachment.
fn del(call: &Call<'_>) -> Result<(), Error> {
    let is_asked = Settings::read(call.config).map_or(true, |settings| !settings.mappings.is_empty());
    let outcome = NftSocket::open().and_then(|mut socket| Ok((Hostports::found(&mut socket)?, socket)));
    let (all, mut socket) = match outcome {
        Ok(found) => found,
        // A kernel without nf_tables never mapped anything.
        Err(_) if !is_asked => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let outcomes = [
        unmap(&mut socket, &all, &Owner::of(call)),
        remove_references(&mut socket, call),
        shut_what_is_left(&mut socket, call, &all),
    ];
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

/// From all tables: the configuration may have been changed since.
fn unmap(socket: &mut NftSocket, all: &[Hostports], owner: &Owner) -> Result<(), Error> {
    for removed in attach::remove(socket, all, owner)? {
        let _ = flush::removed(&removed);
    }
    Ok(())
}

/// The node's loopback, where somebody has thrown the tables away that say it is open.
fn shut_what_is_left(socket: &mut NftSocket, call: &Call<'_>, all: &[Hostports]) -> Result<(), Error> {
    if all.iter().any(Hostports::is_v4) {
        return Ok(());
    }
    let previous = chain::previous_if_readable(call).unwrap_or_default();
    chain::on_node(&previous).try_for_each(|interface| localnet::shut_if_left(socket, &interface.name))
}

/// The chains of the reference's iptables backend, which are `iptables-nft`'s, and the rules of its nftables backend.
fn remove_references(socket: &mut NftSocket, call: &Call<'_>) -> Result<(), Error> {
    let (network, id) = (&call.config.name, &call.environment.container_id);
    let chain = reference::chain_name("CNI-DN-", network, id);
    reference::remove_iptables_chain(socket, "nat", &chain, &["CNI-HOSTPORT-DNAT"])?;
    for family in [Family::Ip, Family::Ip6] {
        for chain in ["hostports", "hostip_hostports", "masquerading"] {
            reference::remove_rules(socket, Table::new(family, "cni_hostport"), chain, |comment| comment == id)?;
        }
    }
    Ok(())
}
