//! Entering a pod's mappings and taking them back: one transaction each.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

use super::entry::{ADDRESSED, EVERYBODY, Entry, ITSELF, LOCALNET, NEIGHBOURS, PORTS, Record};
use super::hostports::Hostports;
use super::localnet;
use super::plan::Side;
use crate::netlink::nft::rule::{interface, interface_name};
use crate::netlink::nft::{Batch, Element, Exists, FoundChain, NftSocket, Place, Rule};
use crate::netlink::{self, RouteSocket, link};
use crate::plugin::owner::Owner;
use crate::spec::{Error, code};

/// How often it is tried while others change the same.
const ATTEMPTS: u32 = 20;
/// Refusals that say something else is there than was looked up.
const CHANGED: [Errno; 3] = [Errno::EEXIST, Errno::ENOENT, Errno::EBUSY];

/// Enters the mappings of a pod.
///
/// # Errors
/// [`code::PORT_TAKEN`] when another pod, alive, has one of the ports; then nothing is changed.
pub fn enter(socket: &mut NftSocket, owner: &Owner, sides: &[Side]) -> Result<(), Error> {
    // Nearly always the tables are there and nothing is in the way: not asked first.
    let mut missing = vec![false; sides.len()];
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::new(format!("map host ports to {owner}"));
        for (side, missing) in sides.iter().zip(&missing) {
            if *missing {
                side.hostports.create(&mut batch);
            }
            add(&mut batch, owner, side);
        }
        if socket.commit_unless(batch, &CHANGED)? {
            return sides.iter().try_for_each(|side| complete(socket, side));
        }
        for (side, missing) in sides.iter().zip(&mut missing) {
            *missing = socket.table_use(side.hostports.table())?.is_none();
            make_way(socket, owner, side)?;
        }
    }
    Err(busy(format!("map host ports to {owner}")))
}

fn busy(doing: String) -> Error {
    Error::new(code::TRY_AGAIN_LATER, format!("cannot {doing}: others keep changing the rules of host ports"))
}

fn add(batch: &mut Batch, owner: &Owner, side: &Side) {
    let (table, chain) = (side.hostports.table(), owner.record());
    batch.add_chain(table, &chain, Exists::Refused, &owner.to_string());
    for comment in side.record.comments() {
        batch.add_rule(table, &chain, Place::Last, &Rule::new(side.hostports.family).comment(comment));
    }
    for (set, elements) in by_set(side.elements.iter().map(|(entry, element)| (entry, element.clone()))) {
        batch.add_elements(table, set, Exists::Refused, &elements);
    }
    if let Some(name) = side.localnet.as_deref().filter(|name| !localnet::is_of_another(name)) {
        batch.add_elements(table, LOCALNET, Exists::Fine, &[Element::of(interface(name))]);
    }
}

/// What follows the transaction: the node's loopback is opened last, when the table keeps from it what should not come.
fn complete(socket: &mut NftSocket, side: &Side) -> Result<(), Error> {
    if side.hostports.is_flushed(socket)? {
        let mut batch = Batch::new(format!("fill the nftables table {} again", side.hostports.table()));
        side.hostports.fill(&mut batch);
        socket.commit(batch)?;
    }
    side.localnet.as_deref().map_or(Ok(()), localnet::open)
}

/// Elements together with those of the same set.
fn by_set<'a>(elements: impl Iterator<Item = (&'a Entry, Element)>) -> Vec<(&'static str, Vec<Element>)> {
    let mut sets: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for (entry, element) in elements {
        match sets.iter_mut().find(|(set, _)| *set == entry.set()) {
            Some((_, some)) => some.push(element),
            None => sets.push((entry.set(), vec![element])),
        }
    }
    sets
}

/// Removes what is in the way of a pod: what an ADD left that nobody took back, and mappings of pods that are gone.
fn make_way(socket: &mut NftSocket, owner: &Owner, side: &Side) -> Result<(), Error> {
    remove(socket, std::slice::from_ref(&side.hostports), owner)?;
    let table = side.hostports.table();
    for (entry, element) in &side.elements {
        let Some(found) = socket.element(table, entry.set(), &element.key)? else { continue };
        let Some(other) = Owner::read(&found.comment) else {
            return Err(taken(entry, &found.comment, &side.hostports));
        };
        let record = record(socket, &side.hostports, &other)?.map(|(_, record)| record).unwrap_or_default();
        if is_alive(&record)? {
            return Err(taken(entry, &other.to_string(), &side.hostports));
        }
        remove(socket, std::slice::from_ref(&side.hostports), &other)?;
        // Where somebody has removed the record, nothing else leads to it.
        if socket.element(table, entry.set(), &element.key)?.is_some_and(|now| now == found) {
            let mut batch = Batch::new(format!("remove what is left of {other}"));
            batch.delete_elements(table, entry.set(), &[Element::of(element.key.clone())]);
            socket.commit_unless(batch, &CHANGED)?;
        }
    }
    Ok(())
}

fn taken(entry: &Entry, other: &str, hostports: &Hostports) -> Error {
    let table = hostports.table();
    let what = match entry {
        Entry::Port(protocol, port) => format!("host port {port}/{}", protocol.name()),
        Entry::Addressed(ip, protocol, port) => format!("host port {port}/{} at {ip}", protocol.name()),
        Entry::Itself(pod) | Entry::Neighbours(_, pod) | Entry::Everybody(pod) => format!("the pod's address {pod}"),
    };
    Error::new(
        code::PORT_TAKEN,
        format!("{what} is already mapped to another pod (network, container, interface): {other}"),
    )
    .with_details(format!("remove that pod or change the port; see nft list table {table}"))
}

/// Whether the pod of a record still lives. A pod's end of its link goes with its namespace, and takes the node's along;
/// so one whose interfaces on the node are there is alive. Where it has none there, its namespace tells.
fn is_alive(record: &Record) -> Result<bool, Error> {
    let mut node = RouteSocket::open()?;
    for name in &record.interfaces {
        if link::by_name(&mut node, name)?.is_none() {
            return Ok(false);
        }
    }
    let same = |(inode, path): &(u64, std::path::PathBuf)| std::fs::metadata(path).is_ok_and(|now| now.ino() == *inode);
    Ok(!record.interfaces.is_empty() || record.netns.as_ref().is_some_and(same))
}

/// What was removed for one address of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The pod's address.
    pub pod: IpAddr,
    /// Its entries.
    pub entries: Vec<Entry>,
}

/// Removes all entries of a pod, and the tables with those of the last one.
///
/// # Errors
/// When the kernel refuses; that there is nothing is no error.
pub fn remove(socket: &mut NftSocket, all: &[Hostports], owner: &Owner) -> Result<Vec<Removed>, Error> {
    for attempt in 0..ATTEMPTS {
        let mut removal = Removal::new(owner);
        for hostports in all {
            if let Some(found) = record(socket, hostports, owner)? {
                removal.add_pod(socket, hostports, owner, found, attempt > 0)?;
            }
        }
        let removed = std::mem::take(&mut removal.removed);
        if removal.carry_out(socket)? {
            all.iter().try_for_each(|hostports| remove_empty(socket, hostports))?;
            return Ok(removed);
        }
    }
    Err(busy(format!("remove the host ports of {owner}")))
}

/// The record of a pod in a table.
pub fn record(
    socket: &mut NftSocket,
    hostports: &Hostports,
    owner: &Owner,
) -> Result<Option<(FoundChain, Record)>, netlink::Error> {
    let name = owner.record();
    let Some(chain) = socket.chain(hostports.table(), &name)? else { return Ok(None) };
    let rules = socket.rules(hostports.table(), &name)?;
    let record = Record::read(rules.iter().map(|rule| rule.comment.as_str()));
    Ok(Some((chain, record)))
}

struct Removal {
    batch: Batch,
    removed: Vec<Removed>,
    /// Interfaces whose `route_localnet` nobody needs after the table is gone.
    localnet: Vec<String>,
}

impl Removal {
    fn new(owner: &Owner) -> Removal {
        let batch = Batch::new(format!("remove the host ports of {owner}"));
        Removal { batch, removed: Vec::new(), localnet: Vec::new() }
    }

    /// `carefully`: the table or its entries are not as they were left. Only what is there is removed.
    fn add_pod(
        &mut self,
        socket: &mut NftSocket,
        hostports: &Hostports,
        owner: &Owner,
        (chain, record): (FoundChain, Record),
        carefully: bool,
    ) -> Result<(), Error> {
        let table = hostports.table();
        let is_last = !carefully && socket.table_use(table)? == Some(hostports.objects() + 1);
        let mut entries = record.entries.clone();
        if carefully {
            let owner = owner.to_string();
            let mut kept = Vec::new();
            for entry in entries {
                let found = socket.element(table, entry.set(), &entry.key())?;
                kept.extend(found.filter(|found| found.comment == owner).map(|_| entry));
            }
            entries = kept;
        }
        self.batch.delete_chain_by_handle(table, chain.handle);
        if is_last {
            self.add_table(socket, hostports)?;
        } else if record.pod.is_none() {
            self.add_all(socket, hostports, owner)?;
        } else {
            for (set, elements) in by_set(entries.iter().map(|entry| (entry, Element::of(entry.key())))) {
                self.batch.delete_elements(table, set, &elements);
            }
        }
        self.removed.extend(record.pod.map(|pod| Removed { pod, entries: record.entries }));
        Ok(())
    }

    fn add_table(&mut self, socket: &mut NftSocket, hostports: &Hostports) -> Result<(), Error> {
        for found in socket.elements(hostports.table(), LOCALNET)? {
            let name = interface_name(&found.key);
            if !localnet::is_needed(socket, &name, Some(hostports))? {
                self.localnet.push(name);
            }
        }
        hostports.remove(&mut self.batch);
        Ok(())
    }

    /// Removes the elements that say they are the pod's, by looking at all: somebody has flushed the table, and with it
    /// what the record said.
    fn add_all(&mut self, socket: &mut NftSocket, hostports: &Hostports, owner: &Owner) -> Result<(), Error> {
        let (table, comment) = (hostports.table(), owner.to_string());
        for set in [PORTS, ADDRESSED, ITSELF, NEIGHBOURS, EVERYBODY] {
            let all = socket.elements(table, set)?.into_iter();
            let its: Vec<Element> =
                all.filter(|found| found.comment == comment).map(|found| Element::of(found.key)).collect();
            if !its.is_empty() {
                self.batch.delete_elements(table, set, &its);
            }
        }
        Ok(())
    }

    /// Says whether it was done.
    fn carry_out(self, socket: &mut NftSocket) -> Result<bool, Error> {
        // First of all, for with the table goes what keeps the pods from the node's loopback; one who is killed in
        // between leaves the record, and so the rest to the next DEL.
        self.localnet.iter().try_for_each(|name| localnet::shut(name))?;
        let outcome = socket.commit_unless(self.batch, &CHANGED);
        if !matches!(outcome, Ok(true)) {
            self.localnet.iter().try_for_each(|name| localnet::settle(socket, name))?;
        }
        Ok(outcome?)
    }
}

/// Removes a table without records: two last pods went at the same time, and each left it to the other.
fn remove_empty(socket: &mut NftSocket, hostports: &Hostports) -> Result<(), Error> {
    if socket.table_use(hostports.table())? != Some(hostports.objects()) {
        return Ok(());
    }
    let batch = Batch::new(format!("remove the nftables table {}", hostports.table()));
    let mut removal = Removal { batch, removed: Vec::new(), localnet: Vec::new() };
    removal.add_table(socket, hostports)?;
    removal.carry_out(socket).map(drop)
}
