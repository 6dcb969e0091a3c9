//! What the tables have for one pod: its addresses in the sets, and the record by which they are found again from
//! the ids alone.
//!
//! An address says whose it is. One that was given to another pod meanwhile is that one's, and stays when the first
//! is removed late.

use std::net::IpAddr;

use nix::errno::Errno;

use super::doors;
use super::settings::{Policy, Settings};
use super::table::{self, MAIN, RECORDS, set_of};
use crate::netlink::Error;
use crate::netlink::nft::rule::octets;
use crate::netlink::nft::{Batch, Element, Exists, Family, FoundChain, NftSocket, Place, Rule};
use crate::plugin::owner::Owner;

/// How often a transaction is tried that others' changes are in the way of.
const ATTEMPTS: u32 = 10;
const CHANGED: [Errno; 3] = [Errno::EEXIST, Errno::ENOENT, Errno::EBUSY];

/// What a pod is entered with.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Whose it is.
    pub owner: Owner,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// How it is protected.
    pub settings: &'a Settings,
    /// The bridge to protect it on.
    pub bridge: Option<&'a str>,
}

fn again(doing: &str, mut attempt: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        if attempt()? {
            return Ok(());
        }
    }
    Err(Error::Refused { doing: doing.into(), errno: Errno::EBUSY, note: " (others keep changing it)".into() })
}

/// Enters a pod, in place of what an earlier ADD entered.
///
/// # Errors
/// When the kernel refuses; then nothing was changed.
pub fn enter(socket: &mut NftSocket, entry: &Entry<'_>) -> Result<(), Error> {
    let doing = format!("let the traffic of {} pass", entry.owner);
    again(&doing, || {
        let mut batch = Batch::new(&doing);
        table::prepare(socket, &mut batch, entry.settings)?;
        doors::open(socket, &mut batch)?;
        if let Some(bridge) = entry.bridge.filter(|_| entry.settings.policy != Policy::Open) {
            table::protect(&mut batch, bridge, entry.settings.policy);
        }
        if let Some(old) = socket.chain(RECORDS, &entry.owner.record())? {
            take_out(socket, &mut batch, &old)?;
        }
        put_in(socket, &mut batch, entry)?;
        socket.commit_unless(batch, &CHANGED)
    })
}

fn put_in(socket: &mut NftSocket, batch: &mut Batch, entry: &Entry<'_>) -> Result<(), Error> {
    let (chain, comment) = (entry.owner.record(), entry.owner.to_string());
    batch.add_chain(RECORDS, &chain, Exists::Refused, &comment);
    for ip in &entry.ips {
        let element = Element { comment: comment.clone(), ..Element::of(octets(*ip)) };
        // Of a pod that is gone without its DEL.
        let other = socket.element(MAIN, set_of(*ip), &element.key)?.filter(|found| found.comment != comment);
        if other.is_some() {
            batch.delete_elements(MAIN, set_of(*ip), &[Element::of(octets(*ip))]);
        }
        batch.add_elements(MAIN, set_of(*ip), Exists::Fine, &[element]);
        batch.add_rule(RECORDS, &chain, Place::Last, &Rule::new(Family::Inet).comment(ip.to_string()));
    }
    Ok(())
}

/// The addresses of a record that are still its pod's.
fn addresses(socket: &mut NftSocket, record: &FoundChain) -> Result<Vec<IpAddr>, Error> {
    let told: Vec<IpAddr> =
        socket.rules(RECORDS, &record.name)?.iter().filter_map(|rule| rule.comment.parse().ok()).collect();
    let mut its = Vec::new();
    for ip in told {
        let found = socket.element(MAIN, set_of(ip), &octets(ip))?;
        if found.is_some_and(|found| found.comment == record.comment) && !its.contains(&ip) {
            its.push(ip);
        }
    }
    Ok(its)
}

fn take_out(socket: &mut NftSocket, batch: &mut Batch, record: &FoundChain) -> Result<(), Error> {
    for ip in addresses(socket, record)? {
        batch.delete_elements(MAIN, set_of(ip), &[Element::of(octets(ip))]);
    }
    batch.delete_chain_by_handle(RECORDS, record.handle);
    Ok(())
}

/// Removes a pod, found from its ids; that there is nothing of it is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(socket: &mut NftSocket, owner: &Owner) -> Result<(), Error> {
    let doing = format!("remove the firewall's entries of {owner}");
    again(&doing, || {
        let Some(record) = socket.chain(RECORDS, &owner.record())? else { return Ok(true) };
        let mut batch = Batch::new(&doing);
        take_out(socket, &mut batch, &record)?;
        socket.commit_unless(batch, &CHANGED)
    })?;
    // Whether or not there was something: a DEL that was killed may have come no further.
    table::remove_if_unused(socket)
}

/// What of a pod is not there: in words, for CHECK. None when it was never entered.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn missing(socket: &mut NftSocket, owner: &Owner, ips: &[IpAddr]) -> Result<Option<Vec<String>>, Error> {
    let Some(record) = socket.chain(RECORDS, &owner.record())? else { return Ok(None) };
    let its = addresses(socket, &record)?;
    let lost = ips.iter().filter(|ip| !its.contains(ip));
    Ok(Some(lost.map(|ip| format!("{ip} is not in the set {} of the nftables table {MAIN}", set_of(*ip))).collect()))
}

/// The owners of all records. Grows with their number: for GC.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn owners(socket: &mut NftSocket) -> Result<Vec<Owner>, Error> {
    Ok(socket.chains(RECORDS)?.iter().filter_map(|record| Owner::of_record(&record.name, &record.comment)).collect())
}
