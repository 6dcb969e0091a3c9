//! GC and STATUS.

use netlink_packet_route::link::InfoKind;

use super::settings::{Settings, bridge_name};
use super::{LOCK_DEADLINE, attachment_of_alias, host_name, masquerade};
use crate::ipam::store::is_held_by;
use crate::ipam::{self, config};
use crate::netlink::{RouteSocket, link};
use crate::plugin::Call;
use crate::spec::{Attachment, CniArgs, Config, Error, code};

/// Removes what belongs to this network and to no attachment on the list. Without a list, nothing.
///
/// # Errors
/// All that failed, as one, after all that could be done.
pub fn gc(call: &Call<'_>) -> Result<(), Error> {
    let config = call.config;
    let Some(valid) = config.valid_attachments()? else { return Ok(()) };
    let outcomes = [collect_veths(config, &valid), collect_leases(config, &valid)];
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

fn is_valid(holder: &Attachment, valid: &[Attachment]) -> bool {
    valid.iter().any(|valid| is_held_by(holder, valid))
}

/// Removes the pairs whose alias names this network and nobody valid. Reads all veths: the one verb that may.
fn collect_veths(config: &Config, valid: &[Attachment]) -> Result<(), Error> {
    let mut node = RouteSocket::open()?;
    let bridge = link::by_name(&mut node, &bridge_name(config)?)?.map(|bridge| bridge.index);
    let stale: Vec<_> = link::of_kind(&mut node, InfoKind::Veth)?
        .into_iter()
        .filter(|link| link.controller == bridge)
        .filter(|link| attachment_of_alias(&config.name, &link.alias).is_some_and(|holder| !is_valid(&holder, valid)))
        .map(|link| link::delete(&link.name))
        .collect();
    Ok(node.apply(stale)?)
}

fn collect_leases(config: &Config, valid: &[Attachment]) -> Result<(), Error> {
    if !matches!(config::is_wanted(config), Ok(true)) {
        return Ok(());
    }
    let Some(mut locked) = config::store(config)?.lock_existing(LOCK_DEADLINE)? else { return Ok(()) };
    let mut node = RouteSocket::open()?;
    let mut failures = Vec::new();
    for (_, holder) in locked.all()? {
        if is_valid(&holder, valid) {
            continue;
        }
        let removed = node.apply(vec![link::delete(&host_name(&config.name, &holder))]).map_err(Error::from);
        let freed = locked.release(&holder).map(drop).map_err(Error::from);
        failures.extend([removed, freed].into_iter().filter_map(Result::err));
    }
    if locked.is_empty()? {
        locked.forget_network();
        let ip_masq = config.root().get("ipMasq").flag().unwrap_or_default();
        failures.extend(masquerade::remove(&config.name).err().filter(|_| ip_masq).map(Error::from));
    }
    Error::all(failures).map_or(Ok(()), Err)
}

/// Whether an ADD could be served now.
///
/// # Errors
/// What is wrong with the configuration, or [`code::NOT_AVAILABLE`] when a range has no free address.
pub fn status(call: &Call<'_>) -> Result<(), Error> {
    let config = call.config;
    let settings = Settings::read(config, &CniArgs::default())?;
    let Some(ipam) = ipam::Config::read(config, &CniArgs::default())? else { return Ok(()) };
    let unavailable = |msg: String| Error::new(code::NOT_AVAILABLE, msg);
    if settings.ip_masq {
        masquerade::is_ensured(&config.name, &[]).map_err(|error| unavailable(error.to_string()))?;
    }
    let store = config::store(config)?;
    let Some(locked) = store.lock_existing(LOCK_DEADLINE)? else { return Ok(()) };
    let leased = locked.leased()?;
    for set in &ipam.sets {
        let held = leased.iter().filter(|ip| set.range_of(**ip).is_some()).count();
        let capacity = set.capacity();
        if u128::try_from(held).is_ok_and(|held| held >= capacity) {
            let directory = store.directory().display();
            return Err(unavailable(format!("no IP addresses available in range set: {set}")).with_details(format!(
                "{held} of {capacity} addresses of {:?} are leased, see {directory}",
                config.name
            )));
        }
    }
    Ok(())
}
