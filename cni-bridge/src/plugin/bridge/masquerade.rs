//! Masquerading: one nftables table a network, one rule a subnet.
//!
//! ```text
//! table inet cni-bridge/podnet {
//!     comment "masquerades 10.244.1.0/24"
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 10.244.1.0/24 ip daddr != 10.244.1.0/24 ip daddr != 224.0.0.0/4 masquerade
//!     }
//! }
//! ```
//!
//! Look at it with `nft list table inet cni-bridge/podnet`. A rule a network and not one a pod, as
//! the reference has it: nothing is to do for any pod after the first, and nothing to leak when one
//! is not taken down. The table is made and removed in one transaction each, so it is whole or absent;
//! its comment says which subnets are in it, so looking at it is one short question. A table of its own
//! for each network, and not a chain in a common one, so that networks never wait for or see each other.
//!
//! With host-local it is made under the lock of the network's leases after the first one is taken, removed under it
//! after the last one is freed: an ADD and a DEL at the same time cannot disagree.
//!
//! Nobody here holds a lock over the addresses of any other IPAM. There a second table has a set of those who use the
//! first, by the names of their interfaces, and the kernel decides: both tables are removed in a transaction that it
//! refuses while the set has an element.
//!
//! ```text
//! table inet cni-bridge/podnet/users {
//!     set users {
//!         type ifname
//!         elements = { "veth0123456789a" }
//!     }
//! }
//! ```

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::netlink::Error;
use crate::netlink::nft::{
    Base, Batch, COMMENT_MAX, Element, Exists, Family, Holds, Hook, Is, Kind, NftSocket, Place, Rule, Set, Table, Type,
    interface, interface_name, priority,
};

const CHAIN: &str = "postrouting";
/// The set of those who use a network's table.
const USERS: &str = "users";
/// The words before the subnets in the table's comment.
const VERB: &str = "masquerades";
/// Kernel: `NFT_NAME_MAXLEN` is 256 with the zero at the end.
const NAME_MAX: usize = 255;

/// The name of a network's table, in the family `inet`.
pub fn table(network: &str) -> String {
    let name = format!("cni-bridge/{network}");
    if name.len() <= NAME_MAX {
        return name;
    }
    // Names of networks are ASCII.
    format!("{}-{:016x}", &name[..NAME_MAX - 17], crate::plugin::hash(&[network]))
}

/// Makes sure that what leaves `subnets` is masqueraded. Subnets already in the table stay: of an earlier
/// configuration there may still be pods.
///
/// # Errors
/// When the kernel refuses; then nothing is changed.
pub fn ensure(network: &str, subnets: &[IpNetwork]) -> Result<(), Error> {
    let name = table(network);
    let table = Table::new(Family::Inet, &name);
    let mut socket = NftSocket::open()?;
    let now = socket.table_comment(table)?.unwrap_or_default();
    if covers(&now, subnets) {
        return Ok(());
    }
    let all = each_once(parse(&now).iter().chain(subnets));
    let mut batch = Batch::new(format!("masquerade the network {network} (nftables table {table})"));
    // To replace it whether it is there or not: make it, remove it, make it anew.
    batch.add_table(table, Exists::Fine, "");
    batch.delete_table(table);
    batch.add_table(table, Exists::Refused, &comment(&all));
    batch.add_base_chain(table, CHAIN, Base::new(Kind::Nat, Hook::Postrouting, priority::SNAT));
    for subnet in &all {
        batch.add_rule(table, CHAIN, Place::Last, &rule(*subnet));
    }
    socket.commit(batch)
}

/// Whether what leaves `subnets` is masqueraded: they are in the table, and no rule of it was removed since.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn is_ensured(network: &str, subnets: &[IpNetwork]) -> Result<bool, Error> {
    let name = table(network);
    let table = Table::new(Family::Inet, &name);
    let mut socket = NftSocket::open()?;
    let now = socket.table_comment(table)?.unwrap_or_default();
    Ok(covers(&now, subnets) && socket.rules(table, CHAIN)?.len() >= count(&now))
}

/// Whether the kernel has nf_tables for this family: a table is made and removed again in one transaction, which
/// nobody else sees.
///
/// # Errors
/// Its refusal.
pub fn probe(family: Family) -> Result<(), Error> {
    // No network's table: names of networks have no slash.
    let table = Table::new(family, "cni-bridge//probe");
    let mut batch = Batch::new(format!("make nftables tables of the family {}", family.name()));
    batch.add_table(table, Exists::Fine, "");
    batch.delete_table(table);
    NftSocket::open()?.commit(batch)
}

/// Removes the network's table; none there is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(network: &str) -> Result<(), Error> {
    let name = table(network);
    let table = Table::new(Family::Inet, &name);
    let mut socket = NftSocket::open()?;
    // Asked first, for to take back a transaction that it refuses takes the kernel 20 ms (a grace period).
    if socket.table_use(table)?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::new(format!("remove the nftables table {table}"));
    batch.delete_table(table);
    socket.commit_unless(batch, &[Errno::ENOENT]).map(drop)
}

/// As [`ensure`], for as long as `user` uses it.
///
/// # Errors
/// When the kernel refuses.
pub fn hold(network: &str, user: &str, subnets: &[IpNetwork]) -> Result<(), Error> {
    let name = users_table(network);
    let table = Table::new(Family::Inet, &name);
    let mut batch = Batch::new(format!("note who uses the nftables table inet {}", self::table(network)));
    batch.add_table(table, Exists::Fine, "");
    batch.add_set(table, &Set { name: USERS, key: &[Type::Interface], holds: Holds::Nothing });
    batch.add_elements(table, USERS, Exists::Fine, &[Element::of(interface(user))]);
    NftSocket::open()?.commit(batch)?;
    // Nobody removes it any more: the set has an element.
    ensure(network, subnets)
}

/// Ends the use of these users, and with the last one the masquerading. That they do not use it is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn let_go(network: &str, users: &[String]) -> Result<(), Error> {
    let name = users_table(network);
    let table = Table::new(Family::Inet, &name);
    let mut socket = NftSocket::open()?;
    for user in users {
        if socket.element(table, USERS, &interface(user))?.is_none() {
            continue;
        }
        let mut batch = Batch::new(format!("remove {user} from the nftables table {table}"));
        batch.delete_elements(table, USERS, &[Element::of(interface(user))]);
        socket.commit_unless(batch, &[Errno::ENOENT])?;
    }
    // As in `remove`. A set whose elements change while they are listed is in use.
    let is_empty = |socket: &mut NftSocket| socket.elements(table, USERS).is_ok_and(|users| users.is_empty());
    if socket.table_use(table)?.is_none() || !is_empty(&mut socket) {
        return Ok(());
    }
    let (masquerade, mut batch) = (self::table(network), Batch::new(format!("remove the nftables table {table}")));
    let masquerade = Table::new(Family::Inet, &masquerade);
    batch.delete_set_if_empty(table, USERS);
    batch.delete_table(table);
    batch.add_table(masquerade, Exists::Fine, "");
    batch.delete_table(masquerade);
    socket.commit_unless(batch, &[Errno::ENOENT, Errno::EBUSY]).map(drop)
}

/// Who uses it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn users(network: &str) -> Result<Vec<String>, Error> {
    let name = users_table(network);
    let users = NftSocket::open()?.elements(Table::new(Family::Inet, &name), USERS)?;
    Ok(users.iter().map(|user| interface_name(&user.key)).collect())
}

/// Ends the use of all users but those.
///
/// # Errors
/// When the kernel refuses.
pub fn let_go_of_others(network: &str, keep: &[String]) -> Result<(), Error> {
    let gone: Vec<_> = users(network)?.into_iter().filter(|user| !keep.contains(user)).collect();
    let_go(network, &gone)
}

/// No network's name has a slash in it, so no other network's table is called so.
fn users_table(network: &str) -> String {
    let suffix = "/users";
    let name = table(network);
    match name.len() + suffix.len() <= NAME_MAX {
        true => name + suffix,
        false => format!("{}-{:016x}{suffix}", &name[..NAME_MAX - 17 - suffix.len()], crate::plugin::hash(&[network])),
    }
}

fn each_once<'a>(subnets: impl Iterator<Item = &'a IpNetwork>) -> Vec<IpNetwork> {
    let mut all: Vec<_> = subnets.copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The comment of a table with these subnets. Where they do not fit (about a dozen do), a number made of them: it
/// tells whether the table has exactly these.
fn comment(subnets: &[IpNetwork]) -> String {
    let words: Vec<_> = subnets.iter().map(ToString::to_string).collect();
    let list = format!("{VERB} {}", words.join(" "));
    if list.len() <= COMMENT_MAX {
        return list;
    }
    format!("{VERB} {} subnets {:016x}", words.len(), crate::plugin::hash(&[&list]))
}

/// Whether a table with this comment masquerades all these subnets.
fn covers(now: &str, subnets: &[IpNetwork]) -> bool {
    let named = parse(now);
    subnets.iter().all(|subnet| named.contains(subnet)) || now == comment(&each_once(subnets.iter()))
}

/// The subnets a comment names; none where they did not fit.
fn parse(comment: &str) -> Vec<IpNetwork> {
    let subnets = comment.strip_prefix(VERB).unwrap_or_default();
    subnets.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// How many subnets a comment is about.
fn count(comment: &str) -> usize {
    let named = parse(comment).len();
    let told = || comment.strip_prefix(VERB)?.split_whitespace().next()?.parse().ok();
    if named > 0 { named } else { told().unwrap_or_default() }
}

/// From the subnet, not to it, not to a multicast group: with the address of the interface it leaves by.
fn rule(subnet: IpNetwork) -> Rule {
    Rule::new(Family::Inet)
        .source(Is::Equal, subnet)
        .destination(Is::NotEqual, subnet)
        .no_multicast(subnet.ip())
        .masquerade()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_reads_back() {
        let subnets = ["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        assert_eq!(parse(&comment(&subnets)), subnets);
        assert_eq!(parse("somebody else's"), []);
        assert!(covers(&comment(&subnets), &subnets[1..]));
    }

    #[test]
    fn more_subnets_than_a_comment_holds_are_known_again() {
        let many: Vec<IpNetwork> = (0..30).map(|n| format!("fd00:1111:2222:{n}::/64").parse().unwrap()).collect();
        let now = comment(&each_once(many.iter()));
        assert!(now.len() <= COMMENT_MAX && parse(&now).is_empty(), "{now}");
        assert_eq!((count(&now), count(&comment(&many[..2])), count("")), (30, 2, 0));
        let reversed: Vec<_> = many.iter().rev().copied().collect();
        assert!(covers(&now, &reversed) && !covers(&now, &many[1..]) && covers(&now, &[]));
    }

    #[test]
    fn a_long_name_fits_and_stays_apart() {
        let (a, b) = (table(&format!("{}a", "n".repeat(250))), table(&format!("{}b", "n".repeat(250))));
        assert_eq!((a.len(), table("podnet").as_str()), (NAME_MAX, "cni-bridge/podnet"));
        assert_ne!(a, b);
        let (a, b) = (users_table(&format!("{}a", "n".repeat(250))), users_table(&format!("{}b", "n".repeat(250))));
        assert!(a.len() <= NAME_MAX && a != b, "{a}");
    }
}
