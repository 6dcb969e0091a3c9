//! `macspoofchk`: what comes from a pod has the pod's MAC address as its source, or is dropped.
//!
//! ```text
//! table bridge cni-bridge/podnet {
//!     set ports {
//!         type ifname
//!         elements = { "veth0123456789a" comment "0a:58:0a:00:00:07 abc eth0" }
//!     }
//!     set senders {
//!         type ifname . ether_addr
//!         elements = { "veth0123456789a" . 0a:58:0a:00:00:07 comment "0a:58:0a:00:00:07 abc eth0" }
//!     }
//!     chain prerouting {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname @ports iifname . ether saddr != @senders drop
//!     }
//! }
//! ```
//!
//! The reference has a rule and two chains a pod, and every frame of every pod goes through all the rules. Two sets
//! are two look-ups however many pods there are, and an attachment's elements are found by the name of its port, which
//! DEL knows; the port's comment has the MAC address that the other one is found by. (A map from ports to chains would
//! do as well, but the kernel then checks all the chains whenever one is added.)
//!
//! Both elements are made and removed in one transaction. The table goes with the last of them: the kernel refuses to
//! remove a set that has an element, so an ADD at the same time cannot lose its own.

use nix::errno::Errno;

use super::{host_name, masquerade};
use crate::netlink::nft::{
    Base, Batch, Element, Exists, Family, Holds, Hook, Key, Kind, NftSocket, Place, Rule, Set, Table, Type,
    concatenate, interface, interface_name, priority,
};
use crate::netlink::{Error, Mac};
use crate::spec::Attachment;

const PORTS: Set<'static> = Set { name: "ports", key: &[Type::Interface], holds: Holds::Nothing };
const SENDERS: Set<'static> = Set { name: "senders", key: &[Type::Interface, Type::Mac], holds: Holds::Nothing };
/// The chain of the one rule.
const ENTRY: &str = "prerouting";

/// The name of a network's table, in the family `bridge`.
pub fn table(network: &str) -> String {
    masquerade::table(network)
}

/// The elements of a port, in the sets of ports and of senders.
fn elements(port: &str, mac: Mac, comment: &str) -> [Element; 2] {
    let element = |key| Element { comment: comment.into(), ..Element::of(key) };
    [element(interface(port)), element(concatenate(&[&interface(port), &mac.0]))]
}

/// Drops what comes from the attachment's port with another source than `mac`.
///
/// # Errors
/// When the kernel refuses; it may have no nf_tables for bridges.
pub fn add(network: &str, attachment: &Attachment, mac: Mac) -> Result<(), Error> {
    let (name, port) = (table(network), host_name(network, attachment));
    let table = Table::new(Family::Bridge, &name);
    let mut socket = NftSocket::open()?;
    // Of an ADD that nobody followed with a DEL: the port's name is the attachment's alone.
    remove_port(&mut socket, table, &port)?;
    let mut batch = Batch::new(format!("check the MAC addresses of {port} (nftables table {table})"));
    batch.add_table(table, Exists::Fine, "");
    batch.add_set(table, &PORTS);
    batch.add_set(table, &SENDERS);
    if socket.rules(table, ENTRY)?.is_empty() {
        batch.add_base_chain(table, ENTRY, Base::new(Kind::Filter, Hook::Prerouting, priority::RAW));
        // Another ADD may do this too: one rule is enough.
        batch.flush_chain(table, ENTRY);
        let rule = Rule::new(Family::Bridge).is_in(&[Key::In], PORTS.name);
        batch.add_rule(table, ENTRY, Place::Last, &rule.is_not_in(&[Key::In, Key::LinkSource], SENDERS.name).drop());
    }
    let comment = format!("{mac} {} {}", attachment.container_id, attachment.ifname);
    let [of_port, sender] = elements(&port, mac, &comment);
    batch.add_elements(table, PORTS.name, Exists::Refused, &[of_port]);
    // A sender without its port may be left where a person has removed that.
    batch.add_elements(table, SENDERS.name, Exists::Fine, &[sender]);
    socket.commit(batch)
}

/// Ends the check of an attachment; that there is none is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(network: &str, attachment: &Attachment) -> Result<(), Error> {
    let name = table(network);
    let table = Table::new(Family::Bridge, &name);
    let mut socket = NftSocket::open()?;
    remove_port(&mut socket, table, &host_name(network, attachment))?;
    remove_table_if_unused(&mut socket, table)
}

/// Whether the attachment is checked against that MAC address.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn is_there(network: &str, attachment: &Attachment, mac: Mac) -> Result<bool, Error> {
    let (name, port) = (table(network), host_name(network, attachment));
    let table = Table::new(Family::Bridge, &name);
    let mut socket = NftSocket::open()?;
    let [of_port, sender] = elements(&port, mac, "");
    Ok(socket.element(table, PORTS.name, &of_port.key)?.is_some()
        && socket.element(table, SENDERS.name, &sender.key)?.is_some()
        && !socket.rules(table, ENTRY)?.is_empty())
}

/// The ports of the network that are checked.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn ports(network: &str) -> Result<Vec<String>, Error> {
    let name = table(network);
    let ports = NftSocket::open()?.elements(Table::new(Family::Bridge, &name), PORTS.name)?;
    Ok(ports.iter().map(|port| interface_name(&port.key)).collect())
}

/// Ends the check of all attachments of the network but those.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_others(network: &str, keep: &[Attachment]) -> Result<(), Error> {
    let name = table(network);
    let table = Table::new(Family::Bridge, &name);
    let keep: Vec<_> = keep.iter().map(|attachment| host_name(network, attachment)).collect();
    let mut socket = NftSocket::open()?;
    for port in ports(network)?.iter().filter(|port| !keep.contains(port)) {
        remove_port(&mut socket, table, port)?;
    }
    remove_table_if_unused(&mut socket, table)
}

/// Removes a port's elements.
fn remove_port(socket: &mut NftSocket, table: Table<'_>, port: &str) -> Result<(), Error> {
    let Some(found) = socket.element(table, PORTS.name, &interface(port))? else { return Ok(()) };
    let mac = found.comment.split_whitespace().next().and_then(|mac| mac.parse().ok());
    let sender = mac.map(|mac| elements(port, mac, "")).map(|[_, sender]| Element::of(sender.key));
    let of_port = Element::of(found.key);
    // Together; where a person has removed the sender, the port alone.
    for senders in [sender.as_slice(), &[]] {
        let mut batch = Batch::new(format!("remove the check of {port} from the nftables table {table}"));
        batch.delete_elements(table, SENDERS.name, senders);
        batch.delete_elements(table, PORTS.name, std::slice::from_ref(&of_port));
        if socket.commit_unless(batch, &[Errno::ENOENT])? {
            break;
        }
    }
    Ok(())
}

/// One whose elements change while they are listed is in use.
fn is_empty(socket: &mut NftSocket, table: Table<'_>) -> bool {
    socket.elements(table, PORTS.name).is_ok_and(|elements| elements.is_empty())
}

fn remove_table_if_unused(socket: &mut NftSocket, table: Table<'_>) -> Result<(), Error> {
    // Asked first, for to take back a transaction that it refuses takes the kernel 20 ms (a grace period).
    if socket.table_use(table)?.is_none() || !is_empty(socket, table) {
        return Ok(());
    }
    let mut batch = Batch::new(format!("remove the nftables table {table}"));
    batch.flush_chain(table, ENTRY);
    batch.delete_set_if_empty(table, PORTS.name);
    batch.delete_table(table);
    socket.commit_unless(batch, &[Errno::ENOENT, Errno::EBUSY]).map(drop)
}
