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
use crate::netlink::nft::{Batch, COMMENT_MAX, Expression, Is, NftSocket};

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
    let table = table(network);
    let mut socket = NftSocket::open()?;
    let now = socket.table_comment(&table)?.unwrap_or_default();
    if covers(&now, subnets) {
        return Ok(());
    }
    let all = each_once(parse(&now).iter().chain(subnets));
    let mut batch = Batch::new(format!("masquerade the network {network} (nftables table inet {table})"));
    // To replace it whether it is there or not: make it, remove it, make it anew.
    batch.add_table(&table, "");
    batch.delete_table(&table);
    batch.add_table(&table, &comment(&all));
    batch.add_postrouting(&table, CHAIN);
    for subnet in &all {
        batch.add_rule(&table, CHAIN, &rule(subnet));
    }
    socket.commit(batch)
}

/// Whether what leaves `subnets` is masqueraded.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn is_ensured(network: &str, subnets: &[IpNetwork]) -> Result<bool, Error> {
    let now = NftSocket::open()?.table_comment(&table(network))?.unwrap_or_default();
    Ok(covers(&now, subnets))
}

/// Removes the network's table; none there is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(network: &str) -> Result<(), Error> {
    let table = table(network);
    let mut batch = Batch::new(format!("remove the nftables table inet {table}"));
    batch.delete_table(&table);
    match NftSocket::open()?.commit(batch) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        outcome => outcome,
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

/// From the subnet, not to it, not to a multicast group: with the address of the interface it leaves by.
fn rule(subnet: &IpNetwork) -> Vec<Expression> {
    // Offsets of source and destination: RFC 791 section 3.1, RFC 8200 section 3.
    let (family, source, destination, multicast) = match subnet {
        IpNetwork::V4(_) => (libc::NFPROTO_IPV4, 12, 16, (vec![0xf0, 0, 0, 0], vec![0xe0, 0, 0, 0])),
        IpNetwork::V6(_) => (libc::NFPROTO_IPV6, 8, 24, (prefixed(0xff), prefixed(0xff))),
    };
    let (mask, value) = (octets(subnet.mask()), octets(subnet.network()));
    vec![
        Expression::Family(u8::try_from(family).unwrap_or_default()),
        Expression::Network { offset: source, mask: mask.clone(), is: Is::Equal, value: value.clone() },
        Expression::Network { offset: destination, mask, is: Is::NotEqual, value },
        Expression::Network { offset: destination, mask: multicast.0, is: Is::NotEqual, value: multicast.1 },
        Expression::Masquerade,
    ]
}

fn prefixed(first: u8) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[0] = first;
    bytes
}

fn octets(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
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
