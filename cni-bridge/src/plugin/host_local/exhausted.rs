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

fn leased(locked: &Locked, set: &RangeSet) -> Result<Vec<IpAddr>, StoreError> {
    Ok(locked.leased()?.into_iter().filter(|ip| set.range_of(*ip).is_some()).collect())
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
    let leased = leased(locked, set)?;
    if u128::try_from(leased.len()).is_ok_and(|count| count < set.capacity()) || !dead(locked, &leased)?.is_empty() {
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
