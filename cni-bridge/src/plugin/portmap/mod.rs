//! Type `portmap`: ports of the node that lead to a pod, after another plugin of a list.
//!
//! | module | what |
//! |---|---|
//! | [`settings`], [`condition`] | the keys of the type |
//! | [`hostports`] | the nftables tables: what is in them for all pods, and why |
//! | [`entry`] | what is in them for one pod, and the record of it |
//! | [`plan`](mod@plan) | what an ADD will enter |
//! | [`attach`] | entering it, taking it back |
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
pub mod plan;
pub mod settings;
pub mod verify;

use super::reference;
use super::{Call, Type, chain};
use crate::netlink::nft::{Family, NftSocket, Table};
use crate::spec::{Error, Success, Version, code};
use entry::Owner;
use hostports::Hostports;
use settings::{Profile, Settings};

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

fn owner(call: &Call<'_>) -> Owner {
    Owner { network: call.config.name.clone(), attachment: call.attachment() }
}

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
    let owner = owner(call);
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
    // Of a configuration that no longer reads the tables are still the usual ones.
    let settings = Settings::read(call.config).ok();
    let is_asked = settings.as_ref().is_none_or(|settings| !settings.mappings.is_empty());
    let profile = settings.map(|settings| settings.profile).unwrap_or_default();
    let outcome = NftSocket::open().and_then(|mut socket| {
        socket.table_use(Hostports::of(&profile)[0].table())?;
        Ok(socket)
    });
    let mut socket = match outcome {
        Ok(socket) => socket,
        // A kernel without nf_tables never mapped anything.
        Err(_) if !is_asked => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let outcomes = [unmap(&mut socket, &profile, &owner(call)), remove_references(&mut socket, call)];
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

fn unmap(socket: &mut NftSocket, profile: &Profile, owner: &Owner) -> Result<(), Error> {
    let mut all = Hostports::of(profile).to_vec();
    // The configuration may have been changed since.
    let usual = Hostports::of(&Profile::default()).into_iter().filter(|usual| !all.contains(usual)).collect::<Vec<_>>();
    all.extend(usual);
    for removed in attach::remove(socket, &all, owner)? {
        let _ = flush::removed(&removed);
    }
    Ok(())
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
