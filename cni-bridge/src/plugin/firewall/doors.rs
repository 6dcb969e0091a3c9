//! Chains of others that may drop what pods send: a rule in each lets through what the firewall has marked.
//!
//! Docker sets the policy of iptables' FORWARD to drop, ufw too; firewalld ends its chain with a reject. The rule is
//! one of those that `iptables -S` can show. What a chain of another name drops it drops, as with the reference:
//! that is a decision of whoever wrote it. So is what `iptables-legacy` drops, which no rule of nf_tables can undo.

use super::table::door;
use crate::netlink::Error;
use crate::netlink::nft::{Batch, Family, NftSocket, Place, Table};
use crate::plugin::reference::FORWARD_CHAIN;

/// The rule's comment, which it is found by.
const COMMENT: &str = "cni-bridge";

/// A chain of others.
struct Door {
    table: Table<'static>,
    chain: &'static str,
}

const fn of(family: Family, table: &'static str, chain: &'static str) -> Door {
    Door { table: Table::new(family, table), chain }
}

const DOORS: [Door; 3] = [
    of(Family::Ip, "filter", "FORWARD"),
    of(Family::Ip6, "filter", "FORWARD"),
    // Its reload throws the rule away, as it does the sources of zones that the reference adds; the next ADD is then
    // the one that adds it again.
    of(Family::Inet, "firewalld", "filter_FORWARD"),
];

/// Adds the rule where it is missing: before all others, but after what the reference plugin has there, which begins
/// with the chain that an administrator wrote for it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn open(socket: &mut NftSocket, batch: &mut Batch) -> Result<(), Error> {
    for door in closed(socket)? {
        let rules = socket.rules(door.table, door.chain)?;
        let references = rules.iter().find(|rule| rule.leads_to.iter().any(|chain| chain == FORWARD_CHAIN));
        let place = references.map_or(Place::First, |rule| Place::After(rule.handle));
        batch.add_rule(door.table, door.chain, place, &self::door(door.table.family).comment(COMMENT));
    }
    Ok(())
}

/// The chains that lack the rule and could have it.
fn closed(socket: &mut NftSocket) -> Result<Vec<&'static Door>, Error> {
    let mut found = Vec::new();
    for door in &DOORS {
        let is_there = socket.chain(door.table, door.chain)?.is_some();
        let lacks_it = is_there && !socket.rules(door.table, door.chain)?.iter().any(|rule| rule.comment == COMMENT);
        // firewalld 2.1 and newer lets nobody else change its table; its zones decide then.
        if lacks_it && !socket.table_has_owner(door.table)? {
            found.push(door);
        }
    }
    Ok(found)
}

/// The first chain that lacks the rule, for CHECK.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn first_closed(socket: &mut NftSocket) -> Result<Option<String>, Error> {
    Ok(closed(socket)?.first().map(|door| format!("{} of the table {}", door.chain, door.table)))
}

/// Removes the rules.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn close(socket: &mut NftSocket, batch: &mut Batch) -> Result<(), Error> {
    for Door { table, chain } in &DOORS {
        for rule in socket.rules(*table, chain)?.iter().filter(|rule| rule.comment == COMMENT) {
            batch.delete_rule(*table, chain, rule.handle);
        }
    }
    Ok(())
}
