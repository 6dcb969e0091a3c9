//! Interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::{Error, Mac, Request, RouteSocket};

/// An interface as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind: "bridge", "veth", "vxlan", ...; empty for hardware.
    pub kind: String,
    /// Its hardware address, when it has an Ethernet one.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it was set promiscuous by request.
    pub promiscuous: bool,
    /// Whether it was set by request to take in all multicast packets.
    pub all_multicast: bool,
    /// How many packets may wait to be sent.
    pub queue_length: u32,
    /// The index of the bridge it is a port of.
    pub controller: Option<u32>,
    /// For a veth, the index of its other end in that end's namespace.
    pub peer: Option<u32>,
    /// Its alias, free text.
    pub alias: String,
}

impl Link {
    fn read(message: LinkMessage) -> Link {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            promiscuous: flags.contains(LinkFlags::Promisc),
            all_multicast: flags.contains(LinkFlags::Allmulti),
            ..Link::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(length) => link.queue_length = length,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(kind).unwrap_or_default();
                }
                _ => {}
            }
        }
        link
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn query(builder: LinkMessageBuilder<LinkUnspec>) -> RouteNetlinkMessage {
    // Counters are most of an answer, and never looked at.
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    RouteNetlinkMessage::GetLink(builder.append_extra_attribute(mask).build())
}

fn found(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::read(message)),
        _ => None,
    }
}

/// The interface of that name, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn by_name(socket: &mut RouteSocket, name: &str) -> Result<Option<Link>, Error> {
    let answer = socket.get(&format!("look up the interface {name}"), query(LinkUnspec::new_with_name(name)))?;
    Ok(answer.and_then(found))
}

/// The interface of that index, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn by_index(socket: &mut RouteSocket, index: u32) -> Result<Option<Link>, Error> {
    let answer =
        socket.get(&format!("look up the interface with index {index}"), query(LinkUnspec::new_with_index(index)))?;
    Ok(answer.and_then(found))
}

/// All interfaces of a kind. Grows with their number.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn of_kind(socket: &mut RouteSocket, kind: InfoKind) -> Result<Vec<Link>, Error> {
    let doing = format!("list the {kind} interfaces");
    let wanted = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind.clone());
    let answers = socket.dump(&doing, query(wanted))?;
    Ok(answers.into_iter().filter_map(found).filter(|link| link.kind == kind.to_string()).collect())
}

/// Creates a bridge, down, with its hardware address given: only an address given at birth (or later, by a
/// person) stays when ports come and go; otherwise the bridge takes that of a port.
pub fn create_bridge(name: &str, mac: Mac) -> Request {
    Request {
        doing: format!("create the bridge {name}"),
        message: RouteNetlinkMessage::NewLink(LinkBridge::new(name).down().address(mac.0.to_vec()).build()),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        // Another ADD was first.
        tolerate: &[Errno::EEXIST],
    }
}

/// Sets an interface's MTU, in bytes. A bridge keeps one set so; one given at birth it forgets with its last port.
pub fn set_mtu(name: &str, mtu: u32) -> Request {
    Request {
        doing: format!("set the MTU of {name} to {mtu}"),
        message: RouteNetlinkMessage::SetLink(LinkUnspec::new_with_name(name).mtu(mtu).build()),
        flags: 0,
        tolerate: &[],
    }
}

/// One end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
}

/// Creates both ends of a veth pair in one message: the node's end up and a port of the bridge with index
/// `bridge`, the pod's end in `netns`, down.
///
/// The pod's end cannot be created up: the kernel opens it before its peer exists, refuses with ENOTCONN, and
/// takes 15 ms to undo the rest.
pub fn create_veth(node: &End, pod: &End, netns: BorrowedFd<'_>, bridge: u32, mtu: Option<u32>) -> Request {
    let mut peer = LinkUnspec::new_with_name(&pod.name).address(pod.mac.0.to_vec()).setns_by_fd(netns.as_raw_fd());
    let mut veth = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name(node.name.clone())
        .address(node.mac.0.to_vec())
        .controller(bridge)
        .up();
    if let Some(mtu) = mtu {
        peer = peer.mtu(mtu);
        veth = veth.mtu(mtu);
    }
    let veth = veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    Request {
        doing: format!("create the veth pair {} and {}", node.name, pod.name),
        message: RouteNetlinkMessage::NewLink(veth.build()),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerate: &[],
    }
}

/// Sets an interface's alias: free text of at most 255 bytes, shown by `ip link`.
pub fn set_alias(name: &str, alias: &str) -> Request {
    Request {
        doing: format!("set the alias of {name}"),
        message: RouteNetlinkMessage::SetLink(LinkUnspec::new_with_name(name).alias(alias).build()),
        flags: 0,
        tolerate: &[],
    }
}

/// How a bridge treats one of its ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Frames may leave by the port they came in: a pod reaches itself through a service address.
    pub hairpin: bool,
    /// No frames from or to other isolated ports.
    pub isolated: bool,
}

/// Sets the flags of a bridge port. Not part of [`create_veth`]: the kernel reads them only for an existing port.
pub fn set_port_flags(name: &str, flags: PortFlags) -> Request {
    let port = LinkBridgePort::new(0)
        .name(name)
        .append_info_data(InfoBridgePort::HairpinMode(flags.hairpin))
        .append_info_data(InfoBridgePort::Isolated(flags.isolated));
    Request {
        doing: format!("set the bridge port flags of {name}"),
        // RTM_SETLINK ignores the port's data; RTM_NEWLINK without NLM_F_CREATE changes it.
        message: RouteNetlinkMessage::NewLink(port.build()),
        flags: 0,
        tolerate: &[],
    }
}

/// Sets an interface up.
pub fn set_up(name: &str) -> Request {
    Request {
        doing: format!("set {name} up"),
        message: RouteNetlinkMessage::SetLink(LinkUnspec::new_with_name(name).up().build()),
        flags: 0,
        tolerate: &[],
    }
}

/// Sets an interface down.
pub fn set_down(name: &str) -> Request {
    Request {
        doing: format!("set {name} down"),
        message: RouteNetlinkMessage::SetLink(LinkUnspec::new_with_name(name).down().build()),
        flags: 0,
        tolerate: &[],
    }
}

/// Sets an interface promiscuous.
pub fn set_promiscuous(name: &str) -> Request {
    Request {
        doing: format!("set {name} promiscuous"),
        message: RouteNetlinkMessage::SetLink(LinkUnspec::new_with_name(name).promiscuous(true).build()),
        flags: 0,
        tolerate: &[],
    }
}

/// Removes an interface (and a veth's other end with it); one that is gone is no error.
pub fn delete(name: &str) -> Request {
    Request {
        doing: format!("remove the interface {name}"),
        message: RouteNetlinkMessage::DelLink(LinkUnspec::new_with_name(name).build()),
        flags: 0,
        tolerate: &[Errno::ENODEV],
    }
}
