//! CHECK, GC and STATUS.

use super::attach::{record, remove};
use super::entry::{Owner, RECORD};
use super::hostports::Hostports;
use super::plan::{Side, plan};
use super::settings::Settings;
use crate::netlink::nft::{Held, NftSocket};
use crate::plugin::{Call, chain};
use crate::spec::{Attachment, Error, code};

/// Compares the tables with what an ADD would have entered.
///
/// # Errors
/// [`code::CHECK_FAILED`] with what is missing or other.
pub fn check(call: &Call<'_>) -> Result<(), Error> {
    let previous = chain::previous(call, "Required prevResult missing")?;
    let settings = Settings::read(call.config)?;
    if settings.mappings.is_empty() {
        return Ok(());
    }
    let owner = super::owner(call);
    let mut socket = NftSocket::open()?;
    plan(call, &settings, &previous)?.iter().try_for_each(|side| check_side(&mut socket, side, &owner))
}

fn check_side(socket: &mut NftSocket, side: &Side, owner: &Owner) -> Result<(), Error> {
    let table = side.hostports.table();
    let failed = |what: String| Error::new(code::CHECK_FAILED, format!("{what} in the nftables table {table}"));
    for (name, expected) in side.hostports.rules() {
        let found = socket.rules(table, name)?.len();
        if found != expected {
            return Err(failed(format!("the chain {name} has {found} rules instead of {expected}")));
        }
    }
    if record(socket, &side.hostports, owner)?.is_none() {
        return Err(failed(format!("the chain {} of {owner} is missing", owner.chain())));
    }
    for (entry, element) in &side.elements {
        let Some(found) = socket.element(table, entry.set(), &element.key)? else {
            return Err(failed(format!("the entry {entry:?} of {owner} is missing")));
        };
        let data = match &element.held {
            Held::Data(data) => data.as_slice(),
            _ => &[],
        };
        // What the kernel answers may be filled up to whole words.
        if found.comment != element.comment || !found.data.starts_with(data) {
            return Err(failed(format!("the entry {entry:?} is of {} and not of {owner}", found.comment)));
        }
    }
    Ok(())
}

/// Removes the mappings of this network's attachments that are not on the list. Without a list, none.
///
/// # Errors
/// All that failed, as one, after all that could be done.
pub fn gc(call: &Call<'_>) -> Result<(), Error> {
    let Some(valid) = call.config.valid_attachments()? else { return Ok(()) };
    let all = Hostports::of(&Settings::read(call.config)?.profile);
    let mut socket = NftSocket::open()?;
    let mut failures = Vec::new();
    for hostports in &all {
        for chain in socket.chains(hostports.table())? {
            if let Some(owner) = stale(&chain.name, &chain.comment, &call.config.name, &valid) {
                failures.extend(remove(&mut socket, std::slice::from_ref(hostports), &owner).err());
            }
        }
    }
    Error::all(failures).map_or(Ok(()), Err)
}

/// The owner of a record, if it is of this network and not on the list.
fn stale(chain: &str, comment: &str, network: &str, valid: &[Attachment]) -> Option<Owner> {
    let owner: Owner = comment.parse().ok().filter(|_| chain.starts_with(RECORD))?;
    (owner.network == network && !valid.contains(&owner.attachment)).then_some(owner)
}

/// Whether an ADD could be served: the configuration is understood, and there is nf_tables.
///
/// # Errors
/// What is wrong with the configuration, or [`code::NOT_AVAILABLE`].
pub fn status(call: &Call<'_>) -> Result<(), Error> {
    let settings = Settings::read(call.config)?;
    let ask = || {
        let mut socket = NftSocket::open()?;
        Hostports::of(&settings.profile).iter().try_for_each(|one| socket.table_use(one.table()).map(drop))
    };
    ask().map_err(|error: crate::netlink::Error| Error::new(code::NOT_AVAILABLE, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_this_network_that_are_not_listed_are_stale() {
        let valid = [Attachment { container_id: "abc".into(), ifname: "eth0".into() }];
        let is_stale = |chain: &str, comment: &str| stale(chain, comment, "podnet", &valid).is_some();
        assert!(is_stale("pod-1", "podnet gone eth0") && is_stale("pod-1", "podnet abc eth1"));
        assert!(!is_stale("pod-1", "podnet abc eth0") && !is_stale("pod-1", "other gone eth0"));
        assert!(!is_stale("prerouting", "podnet gone eth0") && !is_stale("pod-1", ""));
    }
}
