//! What the reference plugins left in nf_tables for an attachment: found and removed on DEL, so that a node can move over
//! from them with its pods running.
//!
//! Their iptables backend works through `iptables-nft` on any system of today, whose tables are nf_tables' `ip nat`,
//! `ip6 nat`, `ip filter`, ...; these are changed here through netlink like any other. Rules made with
//! `iptables-legacy` are not in nf_tables and stay; nothing here would start `iptables` for them.
//!
//! Each begins with one look-up by name: where the reference never ran, that is all there is.

use std::net::IpAddr;

use nix::errno::Errno;
use sha2::{Digest, Sha512};

use crate::netlink::Error;
use crate::netlink::nft::rule::octets;
use crate::netlink::nft::{Batch, Family, FoundRule, NftSocket, Table};

/// The length of the reference's chain names (`maxChainLength` of its `pkg/utils`).
const CHAIN_LENGTH: usize = 28;
/// Both families its iptables backend writes to.
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];
/// How often something is removed that others change meanwhile.
const ATTEMPTS: u32 = 10;
/// What another one that removes the same may have been faster at.
const GONE: [Errno; 2] = [Errno::ENOENT, Errno::EBUSY];

/// The first `length` characters of the SHA-512 of `text`, in hexadecimal.
pub fn hash(text: &str, length: usize) -> String {
    let mut digits: String = Sha512::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(length);
    digits
}

/// The name of a chain of an attachment: `prefix` is `CNI-` for masquerading, `CNI-DN-` for port mappings.
pub fn chain_name(prefix: &str, network: &str, container_id: &str) -> String {
    let digits = hash(&format!("{network}{container_id}"), CHAIN_LENGTH.saturating_sub(prefix.len()));
    format!("{prefix}{digits}")
}

/// Removes a chain of iptables' table `table`, IPv4's and IPv6's, and the rules in the chains `entries` that lead to it.
///
/// # Errors
/// When the kernel refuses; that there is none is no error.
pub fn remove_iptables_chain(socket: &mut NftSocket, table: &str, chain: &str, entries: &[&str]) -> Result<(), Error> {
    FAMILIES.iter().try_for_each(|family| remove_chain(socket, Table::new(*family, table), chain, entries))
}

fn remove_chain(socket: &mut NftSocket, table: Table<'_>, chain: &str, entries: &[&str]) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        let Some(found) = socket.chain(table, chain)? else { return Ok(()) };
        let mut batch = Batch::new(format!("remove the chain {chain} of the nftables table {table}"));
        for entry in entries {
            for rule in socket.rules(table, entry)? {
                if rule.leads_to.iter().any(|target| target == chain) {
                    batch.delete_rule(table, entry, rule.handle);
                }
            }
        }
        batch.delete_chain_by_handle(table, found.handle);
        if socket.commit_unless(batch, &GONE)? {
            return Ok(());
        }
    }
    Err(Error::Refused {
        doing: format!("remove the chain {chain} of the nftables table {table}"),
        errno: Errno::EBUSY,
        note: " (rules of others lead to it)".into(),
    })
}

/// Removes the rules of a chain whose comment is `wanted`.
///
/// # Errors
/// When the kernel refuses; that there is no such table, chain or rule is no error.
pub fn remove_rules(
    socket: &mut NftSocket,
    table: Table<'_>,
    chain: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        if socket.chain(table, chain)?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::new(format!("remove rules of the chain {chain} of the nftables table {table}"));
        for rule in socket.rules(table, chain)? {
            if wanted(&rule.comment) {
                batch.delete_rule(table, chain, rule.handle);
            }
        }
        if socket.commit_unless(batch, &GONE)? {
            return Ok(());
        }
    }
    Ok(())
}

/// The chain of its firewall, in iptables' table `filter`.
pub const FORWARD_CHAIN: &str = "CNI-FORWARD";

fn filter_of(ip: IpAddr) -> Table<'static> {
    Table::new(if ip.is_ipv4() { Family::Ip } else { Family::Ip6 }, "filter")
}

/// The rules of its firewall for an address.
fn forward_rules(socket: &mut NftSocket, ip: IpAddr) -> Result<Vec<u64>, Error> {
    if socket.chain(filter_of(ip), FORWARD_CHAIN)?.is_none() {
        return Ok(Vec::new());
    }
    let rules = socket.rules(filter_of(ip), FORWARD_CHAIN)?;
    let names_it = |rule: &&FoundRule| rule.leads_to.is_empty() && rule.compares.contains(&octets(ip));
    Ok(rules.iter().filter(names_it).map(|rule| rule.handle).collect())
}

/// Whether its firewall has rules for all of these addresses.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn has_forward_rules(socket: &mut NftSocket, ips: &[IpAddr]) -> Result<bool, Error> {
    for ip in ips {
        if forward_rules(socket, *ip)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(!ips.is_empty())
}

/// Removes the rules of its firewall for these addresses.
///
/// # Errors
/// When the kernel refuses; that there are none is no error.
pub fn remove_forward_rules(socket: &mut NftSocket, ips: &[IpAddr]) -> Result<(), Error> {
    for ip in ips {
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new(format!("remove the rules for {ip} of the chain {FORWARD_CHAIN}"));
            for handle in forward_rules(socket, *ip)? {
                batch.delete_rule(filter_of(*ip), FORWARD_CHAIN, handle);
            }
            if socket.commit_unless(batch, &GONE)? {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As its utils_test.go has it.
    #[test]
    fn a_chains_name_is_the_references() {
        assert_eq!(chain_name("CNI-", "test", "1234"), "CNI-2bbe0c48b91a7d1b8a6753a8");
        assert_eq!(chain_name("CNI-DN-", "test", "1234").len(), CHAIN_LENGTH);
    }
}
