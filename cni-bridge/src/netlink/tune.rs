//! What can be changed of an interface that is there.

use std::fmt;

use netlink_packet_route::link::{InfoBridgePort, LinkAttribute};
use rtnetlink::{LinkBridgePort, LinkUnspec};

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

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Property::Mtu(mtu) => write!(f, "MTU {mtu}"),
            Property::Mac(mac) => write!(f, "MAC address {mac}"),
            Property::Promiscuous(set) => write!(f, "promiscuous mode {}", on(set)),
            Property::AllMulticast(set) => write!(f, "all-multicast mode {}", on(set)),
            Property::QueueLength(length) => write!(f, "transmit queue length {length}"),
        }
    }
}

/// Gives a property to the interface of that name.
pub fn set(name: &str, property: Property) -> Request {
    let link = LinkUnspec::new_with_name(name);
    let link = match property {
        Property::Mtu(mtu) => link.mtu(mtu),
        Property::Mac(mac) => link.address(mac.0.to_vec()),
        Property::Promiscuous(on) => link.promiscuous(on),
        Property::AllMulticast(on) => link.allmulticast(on),
        Property::QueueLength(length) => link.append_extra_attribute(LinkAttribute::TxQueueLen(length)),
    };
    Request::new(format!("give {name} the {property}"), libc::RTM_SETLINK, &link.build())
}

/// Keeps a port of a bridge from exchanging frames with other isolated ones. Its other flags stay.
pub fn isolate_port(name: &str) -> Request {
    let port = LinkBridgePort::new(0).name(name).append_info_data(InfoBridgePort::Isolated(true));
    // RTM_SETLINK ignores the port's data; RTM_NEWLINK without NLM_F_CREATE changes it.
    Request::new(format!("isolate the bridge port {name}"), libc::RTM_NEWLINK, &port.build())
}
