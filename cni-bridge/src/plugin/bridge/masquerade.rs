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
//! Made under the lock of the network's leases after the first one is taken, removed under it after the
//! last one is freed: an ADD and a DEL at the same time cannot disagree.

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::netlink::Error;
use crate::netlink::nft::{
    Base, Batch, COMMENT_MAX, Exists, Family, Hook, Is, Kind, NftSocket, Place, Rule, Table, priority,
};

const CHAIN: &str = "postrouting";
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

/// Whether what leaves `subnets` is masqueraded.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn is_ensured(network: &str, subnets: &[IpNetwork]) -> Result<bool, Error> {
    let name = table(network);
    let now = NftSocket::open()?.table_comment(Table::new(Family::Inet, &name))?.unwrap_or_default();
    Ok(covers(&now, subnets))
}

/// Removes the network's table; none there is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(network: &str) -> Result<(), Error> {
    let name = table(network);
    let table = Table::new(Family::Inet, &name);
    let mut batch = Batch::new(format!("remove the nftables table {table}"));
    batch.delete_table(table);
    NftSocket::open()?.commit_unless(batch, &[Errno::ENOENT]).map(drop)
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
        let reversed: Vec<_> = many.iter().rev().copied().collect();
        assert!(covers(&now, &reversed) && !covers(&now, &many[1..]) && covers(&now, &[]));
    }

    #[test]
    fn a_long_name_fits_and_stays_apart() {
        let (a, b) = (table(&format!("{}a", "n".repeat(250))), table(&format!("{}b", "n".repeat(250))));
        assert_eq!((a.len(), table("podnet").as_str()), (NAME_MAX, "cni-bridge/podnet"));
        assert_ne!(a, b);
    }
}
