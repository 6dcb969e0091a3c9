//! CHECK, GC and STATUS.

use super::attach::{record, remove};
use super::hostports::Hostports;
use super::plan::{Side, plan};
use super::settings::Settings;
use crate::netlink::nft::{Held, NftSocket};
use crate::plugin::owner::Owner;
use crate::plugin::{Call, chain};
use crate::spec::{Error, code};

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
    let owner = Owner::of(call);
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
        return Err(failed(format!("the chain {} of {owner} is missing", owner.record())));
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
    let mut socket = NftSocket::open()?;
    let mut failures = Vec::new();
    for hostports in &Hostports::found(&mut socket)? {
        let chains = socket.chains(hostports.table())?;
        let owners = chains.iter().filter_map(|chain| Owner::of_record(&chain.name, &chain.comment));
        for owner in owners.filter(|owner| owner.is_stale(&call.config.name, &valid)) {
            failures.extend(remove(&mut socket, std::slice::from_ref(hostports), &owner).err());
        }
    }
    Error::all(failures).map_or(Ok(()), Err)
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
