//! The tables: what is in them for all pods of the node.
//!
//! ```text
//! table inet cni-bridge-firewall {
//!     set pods4, pods6                    every pod's addresses, each with whose it is as its comment
//!     set bridges, within, closed         the bridges that have a policy; (b, b) for each; (b, b) for isolated ones
//!     chain CNI-ADMIN                     the administrator's
//!     chain isolation                     drops what a policy forbids
//!     chain forward   hook -1             administrator, isolation; marks what is to pass
//!     chain after     hook 20             takes the mark off
//! }
//! table inet cni-bridge-firewall-pods     a chain a pod, that nothing leads to: the record of its addresses
//! ```
//!
//! To accept a packet in one table does not keep another from dropping it. So what is to pass is marked, and a
//! rule in each chain that may drop it (see [`super::doors`]) accepts what has the mark. Per pod there is an
//! element of a set and no rule: neither a packet nor an ADD takes longer for the pods there are. (The reference
//! has two rules a pod, in a chain that every packet passes.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::settings::{Policy, Settings};
use crate::netlink::Error;
use crate::netlink::nft::rule::{interface, state, status};
use crate::netlink::nft::{
    Base, Batch, Element, Exists, Family, FoundRule, Holds, Hook, Is, Key, Kind, NftSocket, Place, Rule, Set, Table,
    Type, concatenate,
};

/// What decides.
pub const MAIN: Table<'static> = Table::new(Family::Inet, "cni-bridge-firewall");
/// What remembers.
pub const RECORDS: Table<'static> = Table::new(Family::Inet, "cni-bridge-firewall-pods");
/// The base chain.
pub const FORWARD: &str = "forward";
/// The chain of the policies.
pub const ISOLATION: &str = "isolation";
/// The base chain after all others.
pub const AFTER: &str = "after";

/// The bit of the mark. Others' are 13 (the reference's portmap), 14 and 15 (kube-proxy), 16 and up (Calico, Tailscale,
/// Weave) and the lowest twelve (Cilium).
pub const MARK: u32 = 0x1000;

/// Before iptables' chains, which are at 0, and after firewalld's, which are at 10.
const BEFORE_OTHERS: i32 = -1;
const AFTER_OTHERS: i32 = 20;

const BRIDGES: &str = "bridges";
const WITHIN: &str = "within";
const CLOSED: &str = "closed";
const IN_AND_OUT: [Key; 2] = [Key::In, Key::Out];

const VERSIONS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// The set that an address belongs in.
pub fn set_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "pods4" } else { "pods6" }
}

fn rule() -> Rule {
    Rule::new(Family::Inet)
}

/// Adds what is missing of the tables for all pods.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn prepare(socket: &mut NftSocket, batch: &mut Batch, settings: &Settings) -> Result<(), Error> {
    batch.add_table(RECORDS, Exists::Fine, "made by cni-bridge: the addresses of pods, for their removal");
    let forward = socket.rules(MAIN, FORWARD)?;
    let chains = once(led_to(&forward));
    // What somebody added stays for as long as nothing of ours lacks.
    if compare(socket, &forward)?.is_some_and(|(_, found, expected)| found < expected) {
        make(batch, socket.chain(MAIN, ISOLATION)?.is_some());
        chains.iter().rev().for_each(|chain| make_admin_chain(batch, chain));
    }
    if !chains.contains(&settings.admin_chain) {
        make_admin_chain(batch, &settings.admin_chain);
    }
    Ok(())
}

/// What follows the administrators' chains.
fn forward_rules() -> Vec<Rule> {
    let mut rules = vec![rule().jump(ISOLATION)];
    for version in VERSIONS {
        let set = set_of(version);
        let answers = state::ESTABLISHED | state::RELATED;
        rules.push(rule().source_in(version, set).set_mark_bits(MARK).accept());
        rules.push(rule().destination_in(version, set).state(answers).set_mark_bits(MARK).accept());
        // A port of the node that was published: whoever published it wants it reached.
        let published = status::DESTINATION_TRANSLATED;
        rules.push(rule().destination_in(version, set).status(published).set_mark_bits(MARK).accept());
    }
    rules
}

fn isolation_rules() -> Vec<Rule> {
    vec![
        rule().is_in(&IN_AND_OUT, CLOSED).drop(),
        rule().is_in(&[Key::In], BRIDGES).is_in(&[Key::Out], BRIDGES).is_not_in(&IN_AND_OUT, WITHIN).drop(),
    ]
}

fn after_rules() -> Vec<Rule> {
    // What comes later may look at the whole mark.
    vec![rule().mark(MARK, Is::NotEqual, 0).clear_mark_bits(MARK)]
}

/// What goes before them for each administrator's chain. What that one accepts is to pass other tables too, so it is
/// marked meanwhile.
fn admin_rules(chain: &str) -> [Rule; 3] {
    [rule().set_mark_bits(MARK), rule().jump(chain), rule().clear_mark_bits(MARK)]
}

/// The first chain that has not as many rules as it was made with. Rules that lack let through what a policy forbids, or keep from passing what should.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn altered(socket: &mut NftSocket) -> Result<Option<Altered>, Error> {
    let forward = socket.rules(MAIN, FORWARD)?;
    compare(socket, &forward)
}

/// A chain, how many rules it has, how many it should have.
type Altered = (&'static str, usize, usize);

fn compare(socket: &mut NftSocket, forward: &[FoundRule]) -> Result<Option<Altered>, Error> {
    let before = led_to(forward).iter().map(|chain| admin_rules(chain).len()).sum::<usize>();
    let expected = before + forward_rules().len();
    if forward.len() != expected {
        return Ok(Some((FORWARD, forward.len(), expected)));
    }
    for (chain, expected) in [(ISOLATION, isolation_rules().len()), (AFTER, after_rules().len())] {
        let found = socket.rules(MAIN, chain)?.len();
        if found != expected {
            return Ok(Some((chain, found, expected)));
        }
    }
    Ok(None)
}

/// Makes the tables, or, where somebody has flushed them, fills them again.
fn make(batch: &mut Batch, again: bool) {
    batch.add_table(MAIN, Exists::Fine, "made by cni-bridge, for its type firewall");
    // Two first ADDs at once would give every rule twice; this refuses the second.
    batch.add_chain(MAIN, ISOLATION, if again { Exists::Fine } else { Exists::Refused }, "");
    let interface = [Type::Interface];
    let pair = [Type::Interface, Type::Interface];
    let sets: [(&str, &[Type]); 5] =
        [("pods4", &[Type::Ipv4]), ("pods6", &[Type::Ipv6]), (BRIDGES, &interface), (WITHIN, &pair), (CLOSED, &pair)];
    for (name, key) in sets {
        batch.add_set(MAIN, &Set { name, key, holds: Holds::Nothing });
    }
    let base = |priority| Base::new(Kind::Filter, Hook::Forward, priority);
    batch.add_base_chain(MAIN, FORWARD, base(BEFORE_OTHERS));
    batch.add_base_chain(MAIN, AFTER, base(AFTER_OTHERS));
    [ISOLATION, FORWARD, AFTER].iter().for_each(|chain| batch.flush_chain(MAIN, chain));
    for (chain, rules) in [(ISOLATION, isolation_rules()), (FORWARD, forward_rules()), (AFTER, after_rules())] {
        rules.iter().for_each(|rule| batch.add_rule(MAIN, chain, Place::Last, rule));
    }
}

/// The administrator's chain, first of all.
fn make_admin_chain(batch: &mut Batch, chain: &str) {
    batch.add_chain(MAIN, chain, Exists::Fine, "for the administrator: never changed by cni-bridge");
    for rule in admin_rules(chain).iter().rev() {
        batch.add_rule(MAIN, FORWARD, Place::First, rule);
    }
}

fn elements(bridge: &str, policy: Policy) -> Vec<(&'static str, Element)> {
    let name = interface(bridge);
    let pair = concatenate(&[&name, &name]);
    let sets: &[&str] = match policy {
        Policy::Open => &[],
        Policy::SameBridge => &[BRIDGES, WITHIN],
        Policy::Isolated => &[BRIDGES, WITHIN, CLOSED],
    };
    let key = |set: &str| if set == BRIDGES { name.clone() } else { pair.clone() };
    sets.iter().map(|set| (*set, Element::of(key(set)))).collect()
}

/// Puts a bridge under a policy. It stays so until the last pod goes: others of it may have the policy too.
pub fn protect(batch: &mut Batch, bridge: &str, policy: Policy) {
    for (set, element) in elements(bridge, policy) {
        batch.add_elements(MAIN, set, Exists::Fine, &[element]);
    }
}

/// Whether a bridge is under a policy.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn is_protected(socket: &mut NftSocket, bridge: &str, policy: Policy) -> Result<bool, Error> {
    for (set, element) in elements(bridge, policy) {
        if socket.element(MAIN, set, &element.key)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The chains of administrators that packets pass, each once: two ADDs at once may both have led there.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn admin_chains(socket: &mut NftSocket) -> Result<Vec<String>, Error> {
    Ok(once(led_to(&socket.rules(MAIN, FORWARD)?)))
}

fn led_to(forward: &[FoundRule]) -> Vec<String> {
    forward.iter().flat_map(|rule| rule.leads_to.clone()).filter(|chain| chain != ISOLATION).collect()
}

fn once(all: Vec<String>) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    for chain in all {
        if !chains.contains(&chain) {
            chains.push(chain);
        }
    }
    chains
}

/// Removes everything, once no pod is left; not if an administrator has written something.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_if_unused(socket: &mut NftSocket) -> Result<(), Error> {
    if socket.table_use(RECORDS)? != Some(0) {
        return Ok(());
    }
    let admin_chains = admin_chains(socket)?;
    // Asked first, for to take back a transaction that it refuses takes the kernel 20 ms (a grace period).
    for chain in &admin_chains {
        if !socket.rules(MAIN, chain)?.is_empty() {
            return Ok(());
        }
    }
    let mut batch = Batch::new("remove the firewall's nftables tables");
    // Refused if an ADD, or an administrator, came in between.
    batch.delete_table_if_empty(RECORDS);
    super::doors::close(socket, &mut batch)?;
    // Where somebody has removed it there is nothing more to do.
    if socket.table_use(MAIN)?.is_some() {
        batch.flush_chain(MAIN, FORWARD);
        for chain in &admin_chains {
            batch.delete_chain_if_empty(MAIN, chain);
        }
        batch.delete_table(MAIN);
    }
    socket.commit_unless(batch, &[Errno::EBUSY, Errno::ENOENT]).map(drop)
}

/// The rule that lets through what has the mark, for a chain of this family.
pub fn door(family: Family) -> Rule {
    Rule::new(family).mark(MARK, Is::Equal, MARK).count().accept()
}
