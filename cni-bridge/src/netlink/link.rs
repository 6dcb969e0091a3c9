//! Interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::wire::{Answer, attributes, number, text, u16_at};
use super::{Error, Mac, Request, RouteSocket};

/// The length of `struct ifinfomsg` (`include/uapi/linux/rtnetlink.h`).
pub(super) const HEADER: usize = 16;
/// Of a bridge's data (`include/uapi/linux/if_link.h`).
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

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
    /// For a bridge, whether it filters by VLAN; none where the kernel cannot.
    pub filters_vlans: Option<bool>,
    /// For a bridge, the VLAN that a new port carries without a tag; none where the kernel cannot, 0 where it is none.
    pub default_vlan: Option<u16>,
}

impl Link {
    fn read(answer: &Answer) -> Link {
        let flags = answer.number(8);
        let is_set = |flag: i32| flags & flag.cast_unsigned() != 0;
        let mut link = Link {
            index: answer.number(4),
            up: is_set(libc::IFF_UP),
            promiscuous: is_set(libc::IFF_PROMISC),
            all_multicast: is_set(libc::IFF_ALLMULTI),
            ..Link::default()
        };
        for (kind, value) in answer.attributes(HEADER) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = number(value).unwrap_or_default(),
                libc::IFLA_TXQLEN => link.queue_length = number(value).unwrap_or_default(),
                libc::IFLA_MASTER => link.controller = number(value),
                libc::IFLA_LINK => link.peer = number(value),
                libc::IFLA_IFALIAS => link.alias = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                libc::IFLA_LINKINFO => link.read_info(value),
                _ => {}
            }
        }
        link
    }

    fn read_info(&mut self, info: &[u8]) {
        let part = |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        self.kind = part(libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
        if self.kind != "bridge" {
            return;
        }
        for (kind, value) in part(libc::IFLA_INFO_DATA).into_iter().flat_map(attributes) {
            match kind {
                IFLA_BR_VLAN_FILTERING => self.filters_vlans = value.first().map(|flag| *flag != 0),
                IFLA_BR_VLAN_DEFAULT_PVID => self.default_vlan = u16_at(value, 0),
                _ => {}
            }
        }
    }
}

fn query(doing: String, builder: LinkMessageBuilder<LinkUnspec>) -> Request {
    // Counters are most of an answer, and never looked at.
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    Request::new(doing, libc::RTM_GETLINK, &builder.append_extra_attribute(mask).build())
}

/// The interface of that name, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn by_name(socket: &mut RouteSocket, name: &str) -> Result<Option<Link>, Error> {
    let answer = socket.get(&query(format!("look up the interface {name}"), LinkUnspec::new_with_name(name)))?;
    Ok(answer.as_ref().map(Link::read))
}

/// The interface of that index, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn by_index(socket: &mut RouteSocket, index: u32) -> Result<Option<Link>, Error> {
    let doing = format!("look up the interface with index {index}");
    let answer = socket.get(&query(doing, LinkUnspec::new_with_index(index)))?;
    Ok(answer.as_ref().map(Link::read))
}

/// All interfaces of a kind. Grows with their number.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn of_kind(socket: &mut RouteSocket, kind: InfoKind) -> Result<Vec<Link>, Error> {
    let doing = format!("list the {kind} interfaces");
    let wanted = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind.clone());
    let answers = socket.dump(&query(doing, wanted))?;
    Ok(answers.iter().map(Link::read).filter(|link| link.kind == kind.to_string()).collect())
}

/// Creates a bridge, down, with its hardware address given: only an address given at birth (or later, by a
/// person) stays when ports come and go; otherwise the bridge takes that of a port.
pub fn create_bridge(name: &str, mac: Mac) -> Request {
    let message = LinkBridge::new(name).down().address(mac.0.to_vec()).build();
    // Tolerated: another ADD was first.
    Request::new(format!("create the bridge {name}"), libc::RTM_NEWLINK, &message)
        .flags(NLM_F_CREATE | NLM_F_EXCL)
        .tolerate(&[Errno::EEXIST])
}

/// Sets an interface's MTU, in bytes. A bridge keeps one set so; one given at birth it forgets with its last port.
pub fn set_mtu(name: &str, mtu: u32) -> Request {
    let message = LinkUnspec::new_with_name(name).mtu(mtu).build();
    Request::new(format!("set the MTU of {name} to {mtu}"), libc::RTM_SETLINK, &message)
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
    let doing = format!("create the veth pair {} and {}", node.name, pod.name);
    Request::new(doing, libc::RTM_NEWLINK, &veth.build()).flags(NLM_F_CREATE | NLM_F_EXCL)
}

/// Sets an interface's alias: free text of at most 255 bytes, shown by `ip link`.
pub fn set_alias(name: &str, alias: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).alias(alias).build();
    Request::new(format!("set the alias of {name}"), libc::RTM_SETLINK, &message)
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
    // RTM_SETLINK ignores the port's data; RTM_NEWLINK without NLM_F_CREATE changes it.
    Request::new(format!("set the bridge port flags of {name}"), libc::RTM_NEWLINK, &port.build())
}

/// Sets an interface up.
pub fn set_up(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).up().build();
    Request::new(format!("set {name} up"), libc::RTM_SETLINK, &message)
}

/// Sets an interface down.
pub fn set_down(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).down().build();
    Request::new(format!("set {name} down"), libc::RTM_SETLINK, &message)
}

/// Sets an interface promiscuous.
pub fn set_promiscuous(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).promiscuous(true).build();
    Request::new(format!("set {name} promiscuous"), libc::RTM_SETLINK, &message)
}

/// Removes an interface (and a veth's other end with it); one that is gone is no error.
pub fn delete(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).build();
    Request::new(format!("remove the interface {name}"), libc::RTM_DELLINK, &message).tolerate(&[Errno::ENODEV])
}
