//! Type `bridge`: a veth pair from the pod to a bridge of the node.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | the keys of the type |
//! | [`vlan`] | those of them about VLANs |
//! | [`plan`] | what an ADD will do, computed before anything is done |
//! | [`addresses`] | the IPAM, run here or as another plugin |
//! | [`add`](mod@add) | doing it, with an undo step for each thing made; `node` has what all pods share |
//! | [`del`](mod@del) | undoing it from the id alone |
//! | [`check`](mod@check) | comparing it with the kernel |
//! | [`gc`](mod@gc) | GC and STATUS |
//! | [`masquerade`], [`spoof`] | the nftables tables of a network |
//! | [`legacy`] | what the reference left of an attachment in nf_tables |
//!
//! What is shared by a node's pods stays when the last of them goes: the bridge, its gateway address and
//! `ip_forward`. A bridge cannot be removed atomically with the check that it has no ports, and losing
//! that race would cut off a pod.

pub mod add;
pub mod addresses;
pub mod check;
pub mod del;
pub mod gc;
pub mod legacy;
pub mod masquerade;
mod node;
pub mod plan;
pub mod settings;
pub mod spoof;
mod undo;
pub mod vlan;

use super::Type;
use super::pod::{flatten, open as open_pod};
use crate::spec::{Attachment, Version};

/// The type, under the reference's name. `cni-bridge` is it too.
pub static TYPE: Type = Type {
    name: "bridge",
    oldest: Version::V0_1_0,
    add: add::add,
    del: del::del,
    check: check::check,
    gc: gc::gc,
    status: gc::status,
};

/// The name of the node's end of an attachment's veth pair: found again from the ids alone, without the pod's
/// namespace, a result, or any state. 44 bits of hash fill the name: among a thousand pods two are
/// alike once in thirty million nodes.
pub fn host_name(network: &str, attachment: &Attachment) -> String {
    let hash = crate::plugin::hash(&[network, &attachment.container_id, &attachment.ifname]);
    format!("veth{:011x}", hash >> 20)
}

/// What every alias set here begins with.
const ALIAS: &str = "cni-bridge:";

/// The alias of the node's end: whose it is, for people and for GC. None when it would be longer than the kernel takes.
pub(in crate::plugin) fn alias(network: &str, attachment: &Attachment) -> Option<String> {
    let alias = format!("{ALIAS}{network}:{}:{}", attachment.container_id, attachment.ifname);
    (alias.len() < 256).then_some(alias)
}

/// The attachment an alias names, if it is one of the network.
pub(in crate::plugin) fn attachment_of_alias(network: &str, alias: &str) -> Option<Attachment> {
    let rest = alias.strip_prefix(ALIAS)?.strip_prefix(network)?.strip_prefix(':')?;
    let (container_id, ifname) = rest.split_once(':')?;
    Some(Attachment { container_id: container_id.into(), ifname: ifname.into() })
}

/// Whether an alias is one of ours, of any network.
fn is_ours(alias: &str) -> bool {
    alias.starts_with(ALIAS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_a_veth_of_fifteen_bytes_and_differs_by_network_id_and_interface() {
        let name = |network: &str, id: &str, ifname: &str| {
            host_name(network, &Attachment { container_id: id.into(), ifname: ifname.into() })
        };
        let base = name("net", "abc", "eth0");
        assert_eq!((base.len(), &base[..4]), (15, "veth"));
        for other in [name("ten", "abc", "eth0"), name("net", "abd", "eth0"), name("net", "abc", "eth1")] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn an_alias_names_its_attachment_to_its_own_network_only() {
        let attachment = Attachment { container_id: "abc".into(), ifname: "eth0".into() };
        let text = alias("net", &attachment).unwrap();
        assert_eq!(attachment_of_alias("net", &text), Some(attachment));
        assert_eq!(attachment_of_alias("ne", &text), None);
        assert_eq!(attachment_of_alias("net", "something else"), None);
    }
}
