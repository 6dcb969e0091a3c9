//! Interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::wire::{Answer, attributes, number, text, u16_at};
use super::{Error, Mac, Request, RouteSocket};

/// The length of `struct ifinfomsg` (`include/uapi/linux/rtnetlink.h`).
pub(super) const HEADER: usize = 16;
/// Of a bridge's data (`include/uapi/linux/if_link.h`).
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
/// Of `IFLA_AF_SPEC`, for IPv4 (`include/uapi/linux/{if_link,ip}.h`) and IPv6.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_ARP_NOTIFY: u16 = 22;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// Of a port's, in `IFLA_INFO_SLAVE_DATA`.
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

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
    /// For a port of a bridge, how that treats it.
    pub port: PortFlags,
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
        for (kind, value) in part(IFLA_INFO_SLAVE_DATA).into_iter().flat_map(attributes) {
            match kind {
                IFLA_BRPORT_MODE => self.port.hairpin = value.first() == Some(&1),
                IFLA_BRPORT_ISOLATED => self.port.isolated = value.first() == Some(&1),
                _ => {}
            }
        }
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
        // Every kernel says whether it filters; one that cannot has no default VLAN.
        self.filters_vlans = self.filters_vlans.filter(|_| self.default_vlan.is_some());
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

/// Creates both ends of a veth pair in one message: the node's end a port of the bridge with index `bridge`, the
/// pod's end in `netns`, both down.
///
/// The pod's end cannot be created up: the kernel opens it before its peer exists, refuses with ENOTCONN, and
/// takes 15 ms to undo the rest. The node's end could, but not [`without_link_local`].
pub fn create_veth(node: &End, pod: &End, netns: BorrowedFd<'_>, bridge: u32, mtu: Option<u32>) -> Request {
    let peer = shape(LinkMessageBuilder::default(), pod, mtu).setns_by_fd(netns.as_raw_fd());
    let doing = format!("create the veth pair {} and {}", node.name, pod.name);
    let message = pair(node, peer, mtu).controller(bridge).build();
    Request::new(doing, libc::RTM_NEWLINK, &message).flags(NLM_F_CREATE | NLM_F_EXCL)
}

/// Creates both ends of a veth pair in the current namespace, down; one that is there is no error.
pub fn create_local_veth(one: &End, other: &End, mtu: u32) -> Request {
    let mtu = Some(mtu);
    let message = pair(one, shape(LinkMessageBuilder::default(), other, mtu), mtu).build();
    let doing = format!("create the veth pair {} and {}", one.name, other.name);
    Request::new(doing, libc::RTM_NEWLINK, &message).flags(NLM_F_CREATE | NLM_F_EXCL).tolerate(&[Errno::EEXIST])
}

type Builder = LinkMessageBuilder<LinkUnspec>;

/// A link with an end's name and address.
fn shape(link: Builder, end: &End, mtu: Option<u32>) -> Builder {
    let link = link.name(end.name.clone()).address(end.mac.0.to_vec());
    match mtu {
        Some(mtu) => link.mtu(mtu),
        None => link,
    }
}

/// A veth pair of this end and its peer.
fn pair(end: &End, peer: Builder, mtu: Option<u32>) -> Builder {
    shape(Builder::new_with_info_kind(InfoKind::Veth), end, mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
}

/// Makes an interface a port of the bridge with index `bridge`, up.
pub fn set_port(name: &str, bridge: u32) -> Request {
    let message = LinkUnspec::new_with_name(name).controller(bridge).up().build();
    Request::new(format!("make {name} a port of the bridge with index {bridge}"), libc::RTM_SETLINK, &message)
}

/// Sets an interface's hardware address.
pub fn set_mac(name: &str, mac: Mac) -> Request {
    let message = LinkUnspec::new_with_name(name).address(mac.0.to_vec()).build();
    Request::new(format!("set the MAC address of {name} to {mac}"), libc::RTM_SETLINK, &message)
}

/// Sets an interface's alias: free text of at most 255 bytes, shown by `ip link`.
pub fn set_alias(name: &str, alias: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).alias(alias).build();
    Request::new(format!("set the alias of {name}"), libc::RTM_SETLINK, &message)
}

/// Sets an interface up, with an alias: free text of at most 255 bytes, shown by `ip link`.
pub fn set_up_as(name: &str, alias: Option<&str>) -> Request {
    let mut message = LinkUnspec::new_with_name(name).up();
    if let Some(alias) = alias {
        message = message.alias(alias);
    }
    Request::new(format!("set {name} up"), libc::RTM_SETLINK, &message.build())
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

/// One attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A setting of one address family: `IFLA_AF_SPEC`, which the message library can only read.
fn of_family(name: &str, family: i32, setting: &[u8]) -> LinkMessage {
    let family = attribute(u16::try_from(family).unwrap_or_default() | NESTED, setting);
    let spec = LinkAttribute::Other(DefaultNla::new(libc::IFLA_AF_SPEC | NESTED, family));
    LinkUnspec::new_with_name(name).append_extra_attribute(spec).build()
}

/// Has the interface announce its IPv4 addresses when it is set up or its hardware address changes (the sysctl
/// `arp_notify`, `net/ipv4/devinet.c`).
///
/// By netlink and not in `/proc/sys`: there a look-up passes the entries of all network namespaces of the node.
pub fn announce(name: &str) -> Request {
    let conf = attribute(IFLA_INET_CONF | NESTED, &attribute(IPV4_DEVCONF_ARP_NOTIFY, &1u32.to_ne_bytes()));
    let message = of_family(name, libc::AF_INET, &conf);
    Request::new(format!("have {name} announce its addresses"), libc::RTM_SETLINK, &message)
}

/// Gives an interface that is down no link-local IPv6 address once it is up; a kernel without IPv6 gives none anyway.
///
/// A bridge's port has no use for one, and each is a route more that the kernel looks through for every new interface.
pub fn without_link_local(name: &str) -> Request {
    let message = of_family(name, libc::AF_INET6, &attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]));
    Request::new(format!("keep {name} without a link-local address"), libc::RTM_SETLINK, &message).tolerate(&[
        Errno::EAFNOSUPPORT,
        Errno::EOPNOTSUPP,
        Errno::EINVAL,
    ])
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
