//! What the reference bridge left in nf_tables for an attachment: its masquerading and its check of MAC addresses.
//!
//! Source: `pkg/ip/ipmasq_{iptables,nftables}_linux.go` and `pkg/link/spoofcheck.go` of the reference plugins.

use crate::netlink::Error;
use crate::netlink::nft::{Batch, Family, NftSocket, Table};
use crate::plugin::reference;
use crate::spec::Attachment;

/// The rules of its nftables backend.
const MASQUERADE: (Table<'static>, &str) = (Table::new(Family::Inet, "cni_plugins_masquerade"), "masq_checks");
/// Its check of MAC addresses; `ebtables-nft` has its own chains beside.
const SPOOF_CHECK: (Table<'static>, &str) = (Table::new(Family::Bridge, "nat"), "PREROUTING");

/// The length of the numbers in its comments.
const HASH: usize = 16;

/// Removes all of it.
///
/// # Errors
/// When the kernel refuses; that there is nothing is no error.
pub fn remove(network: &str, attachment: &Attachment) -> Result<(), Error> {
    let mut socket = NftSocket::open()?;
    let chain = reference::chain_name("CNI-", network, &attachment.container_id);
    reference::remove_iptables_chain(&mut socket, "nat", &chain, &["POSTROUTING"])?;
    let comment = masquerade_comment(network, attachment);
    let (table, chain) = MASQUERADE;
    reference::remove_rules(&mut socket, table, chain, |found| found.starts_with(&comment))?;
    remove_spoof_check(&mut socket, attachment)
}

/// Whether the reference masquerades this attachment: it was made by it, and goes on as it is until its DEL.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn masquerades(network: &str, attachment: &Attachment) -> Result<bool, Error> {
    let mut socket = NftSocket::open()?;
    let own = reference::chain_name("CNI-", network, &attachment.container_id);
    for family in [Family::Ip, Family::Ip6] {
        if socket.chain(Table::new(family, "nat"), &own)?.is_some() {
            return Ok(true);
        }
    }
    let comment = masquerade_comment(network, attachment);
    let (table, chain) = MASQUERADE;
    Ok(socket.rules(table, chain)?.iter().any(|rule| rule.comment.starts_with(&comment)))
}

/// Removes the rules of its nftables backend for the attachments of a network that are not valid any more. Its iptables
/// chains do not say of which network they are.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_others(network: &str, valid: &[Attachment]) -> Result<(), Error> {
    let (table, chain) = MASQUERADE;
    let of_network = format!("{}-", reference::hash(network, HASH));
    let keep: Vec<_> = valid.iter().map(|attachment| masquerade_comment(network, attachment)).collect();
    reference::remove_rules(&mut NftSocket::open()?, table, chain, |found| {
        found.starts_with(&of_network) && !keep.iter().any(|keep| found.starts_with(keep))
    })
}

/// How the comment of a rule begins: a number of the network, one of the attachment.
fn masquerade_comment(network: &str, attachment: &Attachment) -> String {
    let own = format!("{}:{}", attachment.ifname, attachment.container_id);
    format!("{}-{}", reference::hash(network, HASH), reference::hash(&own, HASH))
}

fn remove_spoof_check(socket: &mut NftSocket, attachment: &Attachment) -> Result<(), Error> {
    let (table, entry) = SPOOF_CHECK;
    let own = format!("cni-br-iface-{}-{}", attachment.container_id, attachment.ifname);
    let chains = [own.clone(), format!("{own}-mac")];
    let mut batch = Batch::new(format!("remove the chain {own} of the nftables table {table}"));
    for chain in &chains {
        if socket.chain(table, chain)?.is_some() {
            batch.flush_chain(table, chain);
        }
    }
    if batch.is_empty() {
        return Ok(());
    }
    for rule in socket.rules(table, entry)? {
        if rule.leads_to.contains(&own) {
            batch.delete_rule(table, entry, rule.handle);
        }
    }
    for chain in &chains {
        if socket.chain(table, chain)?.is_some() {
            batch.delete_chain(table, chain);
        }
    }
    socket.commit(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    // sha512sum of "net" and of "eth0:abc".
    #[test]
    fn a_comment_begins_as_the_references_does() {
        let attachment = Attachment { container_id: "abc".into(), ifname: "eth0".into() };
        assert_eq!(masquerade_comment("net", &attachment), "a4861f4ae9f7d238-e65086f8a75535c6");
    }
}
