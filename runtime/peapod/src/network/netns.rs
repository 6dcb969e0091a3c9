//! What is done inside network namespaces without a plugin.

use std::path::Path;

use cni_bridge::netlink::Netns;

use super::NetworkError;

/// The largest mtu over a VXLAN on Ethernet: 1500 less 50 bytes of outer headers.
const VXLAN_MTU: u32 = 1450;
/// Ethernet's, for a node without an uplink.
const ETHERNET_MTU: u32 = 1500;

/// The mtu of the built-in network: that of the node's uplink, at most 1450 when that is a VXLAN.
pub fn mtu() -> Result<u32, NetworkError> {
    let uplink = cni_bridge::netlink::uplink()
        .map_err(|error| NetworkError::Step { doing: "finding the node's uplink".into(), reason: error.to_string() })?;
    Ok(match uplink {
        None => ETHERNET_MTU,
        Some(link) if link.is_vxlan => link.mtu.min(VXLAN_MTU),
        Some(link) => link.mtu,
    })
}

/// Brings `lo` up in the network namespace at `netns`.
///
/// The calling thread is in that namespace for the moment: only a single-threaded process may call it. When there is
/// no way back the error says so, and the caller must end.
pub fn loopback_up(netns: &Path) -> Result<(), NetworkError> {
    let inside = || Netns::open(netns)?.inside(&Netns::current()?, cni_bridge::netlink::loopback_up)?;
    inside().map_err(|error| NetworkError::Step {
        doing: format!("bringing lo up in {}", netns.display()),
        reason: error.to_string(),
    })
}
