//! Type `host-local`: addresses of the node's own ranges, leased in files.
//!
//! | module | what |
//! |---|---|
//! | [`exhausted`] | what is done when every address is leased, and what is said |
//!
//! It is called as a plugin by any other, and within the process by `bridge`, which has something to do while the
//! leases are locked: the `_locked` functions are the verbs with a place for that.

pub mod exhausted;

use std::net::IpAddr;
use std::time::Duration;

use super::{Call, Type};
use crate::ipam::{self, AllocateError, Config, Lease, Locked, Origin, StoreError, resolv_conf};
use crate::spec::{self, Attachment, CniArgs, Error, IpConfig, Success, Version, code};

/// The type.
pub static TYPE: Type = Type { name: "host-local", oldest: Version::V0_1_0, add, del, check, gc, status };

/// How long another plugin may hold a network's leases. One holds them for under a millisecond.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

fn add(call: &Call<'_>) -> Result<Success, Error> {
    add_locked(call, &mut |_| Ok(()))
}

fn del(call: &Call<'_>) -> Result<(), Error> {
    del_locked(call, &mut || Ok(()))
}

fn gc(call: &Call<'_>) -> Result<(), Error> {
    gc_locked(call, &mut |_| Ok(()), &mut || Ok(()))
}

/// Leases an address of each range set. `leased` is called with the result while the leases are still locked; when it
/// fails, nothing is leased.
///
/// # Errors
/// [`code::NO_ADDRESS`] when every address is leased, [`code::TRY_AGAIN_LATER`] when the lock is not to be had,
/// [`code::INVALID_CONFIG`] for wrong ranges and for addresses asked for that are not to be had.
pub fn add_locked(call: &Call<'_>, leased: &mut dyn FnMut(&Success) -> Result<(), Error>) -> Result<Success, Error> {
    let config = Config::read(call.config, &call.environment.args)?;
    let dns = config.resolv_conf.as_deref().map(resolv_conf::read).transpose()?.unwrap_or_default();
    let owner = call.attachment();
    let mut locked = ipam::config::store(call.config)?.lock(LOCK_DEADLINE)?;
    let held = locked.held_by(&owner)?;
    let (kept, wanted) = take_over(call, &config, &held, &mut locked)?;
    let leases = allocate(call, &config, &wanted, &mut locked)?;
    let success = success(&leases, &config, dns);
    if let Err(error) = leased(&success) {
        // The first failure is the one to tell; a lease that stays is freed by DEL.
        let _ = leases.iter().try_for_each(|lease| ipam::Leases::free(&mut locked, lease.address.ip()));
        return Err(error);
    }
    let ips: Vec<IpAddr> = leases.iter().map(|lease| lease.address.ip()).chain(kept).collect();
    locked.note(&owner, &ips, Origin::now(call.environment.netns.as_deref()).as_ref());
    Ok(success)
}

fn success(leases: &[Lease], config: &Config, dns: spec::Dns) -> Success {
    let ip = |lease: &Lease| IpConfig::new(lease.address, Some(lease.gateway), None);
    Success { ips: leases.iter().map(ip).collect(), routes: config.routes.clone(), dns, ..Success::default() }
}

/// What an attachment has already stands in the way of a second address of the same set, unless one is asked for by
/// name. But an earlier attachment of the same container may be gone without a DEL: then it gets its addresses back.
/// Returns the leases that stay beside, and the addresses to ask for.
fn take_over(
    call: &Call<'_>,
    config: &Config,
    held: &[IpAddr],
    locked: &mut Locked,
) -> Result<(Vec<IpAddr>, Vec<IpAddr>), Error> {
    let mut wanted = config.requested.clone();
    let asks = |set: &ipam::RangeSet| config.requested.iter().any(|ip| set.range_of(*ip).is_some());
    let in_the_way: Vec<(usize, IpAddr)> = (config.sets.iter().enumerate())
        .filter(|(_, set)| !asks(set))
        .filter_map(|(number, set)| Some((number, *held.iter().find(|ip| set.range_of(**ip).is_some())?)))
        .collect();
    let Some((number, ip)) = in_the_way.first() else { return Ok((held.to_vec(), wanted)) };
    let dead = exhausted::dead(locked, held)?;
    if dead.len() < held.len() {
        let id = &call.environment.container_id;
        let msg = format!(
            "failed to allocate for range {number}: {ip} has been allocated to {id}, duplicate allocation is not allowed"
        );
        return Err(Error::new(code::INTERNAL, msg)
            .with_details("an earlier ADD was not followed by a DEL, and its pod may be alive: DEL it first"));
    }
    locked.release(&call.attachment())?;
    let leasable =
        |(number, ip): &(usize, IpAddr)| config.sets[*number].range_of(*ip).is_some_and(|r| r.gateway != *ip);
    wanted.extend(in_the_way.into_iter().filter(leasable).map(|(_, ip)| ip));
    Ok((Vec::new(), wanted))
}

/// Leases; when a set is exhausted, again after what is certainly dead of it was freed.
fn allocate(call: &Call<'_>, config: &Config, wanted: &[IpAddr], locked: &mut Locked) -> Result<Vec<Lease>, Error> {
    let owner = call.attachment();
    loop {
        match ipam::allocate(&config.sets, wanted, &owner, locked) {
            // Under the lock nobody else takes what was freed, so this comes to an end.
            Err(AllocateError::Exhausted { ref ranges, .. }) if exhausted::reclaim(locked, ranges)? > 0 => {}
            Err(error) => return Err(exhausted::explain(error, locked, call)),
            Ok(leases) => return Ok(leases),
        }
    }
}

/// Frees what the attachment has leased. `last` is called while the leases are locked, when the network has none left.
///
/// # Errors
/// [`code::TRY_AGAIN_LATER`] when the lock is not to be had, [`code::IO`], and those of `last`.
pub fn del_locked(call: &Call<'_>, last: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    // Whatever has become of the ranges since: only the place of the leases is asked for.
    let Some(mut locked) = existing(call)? else { return Ok(()) };
    locked.release(&call.attachment())?;
    end(&mut locked, last)
}

fn end(locked: &mut Locked, last: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    if locked.is_empty()? {
        locked.forget_network();
        last()?;
    }
    Ok(())
}

fn existing(call: &Call<'_>) -> Result<Option<Locked>, Error> {
    Ok(ipam::config::store(call.config)?.lock_existing(LOCK_DEADLINE)?)
}

/// The attachment has the addresses `prevResult` says; without one, at least one.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let config = Config::read(call.config, &call.environment.args)?;
    let held = existing(call)?.map(|mut locked| locked.held_by(&call.attachment())).transpose()?.unwrap_or_default();
    let id = &call.environment.container_id;
    if held.is_empty() {
        let msg = format!("host-local: Failed to find address added by container {id}");
        return Err(Error::new(code::CHECK_FAILED, msg));
    }
    let told = call.config.prev_result()?.unwrap_or_default();
    let ours = |ip: &IpAddr| config.sets.iter().any(|set| set.range_of(*ip).is_some());
    match told.ips.iter().map(|ip| ip.address.ip()).filter(ours).find(|ip| !held.contains(ip)) {
        None => Ok(()),
        Some(ip) => Err(Error::new(code::CHECK_FAILED, format!("host-local: {ip} is not leased to container {id}"))),
    }
}

/// Frees the leases of all attachments that are not on the list; without a list, none. `freed` is told of each holder
/// before its leases go, and may fail; `last` is called when the network has no lease left. Both while the leases are
/// locked.
///
/// # Errors
/// All that failed, as one, after all that could be done.
pub fn gc_locked(
    call: &Call<'_>,
    freed: &mut dyn FnMut(&Attachment) -> Result<(), Error>,
    last: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(valid) = call.config.valid_attachments()? else { return Ok(()) };
    let Some(mut locked) = existing(call)? else { return Ok(()) };
    let is_valid = |holder: &Attachment| valid.iter().any(|valid| ipam::store::is_held_by(holder, valid));
    let mut failures = locked.collect(is_valid, freed)?;
    failures.extend(end(&mut locked, last).err());
    Error::all(failures).map_or(Ok(()), Err)
}

/// Whether an ADD could lease an address of each set.
fn status(call: &Call<'_>) -> Result<(), Error> {
    let config = Config::read(call.config, &CniArgs::default())?;
    if let Some(path) = &config.resolv_conf {
        resolv_conf::read(path).map_err(unavailable)?;
    }
    let store = ipam::config::store(call.config)?;
    store.check_writable().map_err(|error| unavailable(error.into()))?;
    let Some(locked) = store.lock_existing(LOCK_DEADLINE)? else { return Ok(()) };
    config.sets.iter().try_for_each(|set| exhausted::check(&locked, set, call))
}

fn unavailable(error: Error) -> Error {
    Error { code: code::NOT_AVAILABLE, ..error }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        match &error {
            StoreError::Io { .. } => Error::new(code::IO, error.to_string()),
            StoreError::Locked { .. } => Error::new(code::TRY_AGAIN_LATER, error.to_string())
                .with_details("try again; if it stays locked, a plugin hangs: fuser -v on the file names it"),
        }
    }
}

impl From<AllocateError<StoreError>> for Error {
    fn from(error: AllocateError<StoreError>) -> Error {
        match error {
            AllocateError::Store(error) => error.into(),
            AllocateError::Exhausted { .. } => Error::new(code::NO_ADDRESS, error.to_string()),
            _ => Error::config(error.to_string()),
        }
    }
}
