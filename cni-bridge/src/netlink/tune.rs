//! What can be changed of an interface that is there.

use netlink_packet_route::link::LinkAttribute;
use rtnetlink::LinkUnspec;

use super::{Mac, Request};

/// A property of an interface, with the value it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// Its MTU in bytes.
    Mtu(u32),
    /// Its hardware address.
    Mac(Mac),
    /// Whether it takes in packets for anybody.
    Promiscuous(bool),
    /// Whether it takes in all multicast packets.
    AllMulticast(bool),
    /// How many packets may wait to be sent.
    QueueLength(u32),
}

/// Gives a property to the interface of that name.
pub fn set(name: &str, property: Property) -> Request {
    let link = LinkUnspec::new_with_name(name);
    let (what, link) = match property {
        Property::Mtu(mtu) => (format!("the MTU of {name} to {mtu}"), link.mtu(mtu)),
        Property::Mac(mac) => (format!("the MAC address of {name} to {mac}"), link.address(mac.0.to_vec())),
        Property::Promiscuous(on) => (format!("promiscuous mode of {name} to {on}"), link.promiscuous(on)),
        Property::AllMulticast(on) => (format!("all-multicast mode of {name} to {on}"), link.allmulticast(on)),
        Property::QueueLength(length) => (
            format!("the transmit queue of {name} to {length} packets"),
            link.append_extra_attribute(LinkAttribute::TxQueueLen(length)),
        ),
    };
    Request::new(format!("set {what}"), libc::RTM_SETLINK, &link.build())
}
