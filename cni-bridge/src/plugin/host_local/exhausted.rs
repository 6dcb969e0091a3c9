//! When every address of a set is leased: those of pods that are gone are freed, and otherwise it is said whose they are.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::ipam::{AllocateError, Leases, Living, Locked, RangeSet, StoreError, Suspect};
use crate::netlink::survey::{Survey, survey};
use crate::plugin::Call;
use crate::spec::{Attachment, Error, code};

/// The leases among `ips` whose attachments are gone for certain. Reads no more than these leases unless one is
/// suspected; then it looks through all namespaces of the node.
///
/// # Errors
/// When a lease cannot be read. Where the node cannot be looked through, none is dead.
pub fn dead(locked: &Locked, ips: &[IpAddr]) -> Result<Vec<Suspect>, StoreError> {
    let mut suspects = locked.suspects(ips)?;
    if suspects.is_empty() {
        return Ok(suspects);
    }
    let Ok(Survey { namespaces, addresses }) = survey() else { return Ok(Vec::new()) };
    let living = Living { namespaces, addresses };
    suspects.retain(|suspect| suspect.is_dead(&living));
    Ok(suspects)
}

/// The addresses of a set that somebody has. Reads all leases: a file that a crash left empty is none.
fn leased(locked: &Locked, set: &RangeSet) -> Result<Vec<IpAddr>, StoreError> {
    let leases = locked.all()?.into_iter().map(|(ip, _)| ip);
    Ok(leases.filter(|ip| set.range_of(*ip).is_some()).collect())
}

fn is_full(ips: &[IpAddr], set: &RangeSet) -> bool {
    let count = ips.iter().filter(|ip| set.range_of(**ip).is_some()).count();
    u128::try_from(count).is_ok_and(|count| count >= set.capacity())
}

/// Frees the leases of a set whose attachments are gone. Returns how many.
///
/// # Errors
/// When the leases cannot be read or removed.
pub fn reclaim(locked: &mut Locked, set: &RangeSet) -> Result<usize, StoreError> {
    let dead = dead(locked, &leased(locked, set)?)?;
    for suspect in &dead {
        locked.free(suspect.ip)?;
    }
    Ok(dead.len())
}

/// Refuses when no address of a set is free or can be freed.
///
/// # Errors
/// [`code::NOT_AVAILABLE`], with whose the addresses are.
pub fn check(locked: &Locked, set: &RangeSet, call: &Call<'_>) -> Result<(), Error> {
    // By their names alone, as long as these are not too many.
    if !is_full(&locked.leased()?, set) {
        return Ok(());
    }
    let leased = leased(locked, set)?;
    if !is_full(&leased, set) || !dead(locked, &leased)?.is_empty() {
        return Ok(());
    }
    let msg = format!("no IP addresses available in range set: {set}");
    Err(Error::new(code::NOT_AVAILABLE, msg).with_details(whose(locked, set, call)))
}

/// The error for an exhausted set, with whose its addresses are and what to do.
pub fn explain(error: AllocateError<StoreError>, locked: &Locked, call: &Call<'_>) -> Error {
    let AllocateError::Exhausted { ranges, .. } = &error else { return error.into() };
    let details = whose(locked, ranges, call);
    Error::from(error).with_details(details)
}

/// How many of the oldest leases are named.
const NAMED: usize = 3;

fn whose(locked: &Locked, set: &RangeSet, call: &Call<'_>) -> String {
    let leased = leased(locked, set).unwrap_or_default();
    let mut held: Vec<(SystemTime, IpAddr, Attachment)> = leased
        .iter()
        .filter_map(|ip| locked.holder(*ip).ok().flatten().map(|(holder, written)| (written, *ip, holder)))
        .collect();
    held.sort_by_key(|(written, ip, _)| (*written, *ip));
    let containers: std::collections::BTreeSet<_> = held.iter().map(|(_, _, holder)| &holder.container_id).collect();
    let oldest: Vec<_> =
        held.iter().take(NAMED).map(|(_, ip, holder)| format!("{ip} by {}", holder.container_id)).collect();
    format!(
        "{} of {} addresses of {:?} are leased, to {} containers (longest {}); remove pods, widen the range, or, of \
         containers that are gone, remove the files in {}",
        leased.len(),
        set.capacity(),
        call.config.name,
        containers.len(),
        oldest.join(", "),
        locked.directory().display()
    )
}
