//! Neighbour entries: which hardware address an address was last seen at.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use nix::errno::Errno;

use super::Request;

/// Forgets where `ip` was last seen behind the interface with that index; nothing known is no error.
pub fn forget(index: u32, ip: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    let doing = format!("forget the neighbour {ip} of the interface with index {index}");
    Request::new(doing, libc::RTM_DELNEIGH, &message).tolerate(&[Errno::ENOENT])
}
