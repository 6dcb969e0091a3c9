//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::{Error, Request, RouteSocket};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A route to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// Where it leads; host bits are ignored.
    pub dst: IpNetwork,
    /// Through which router; none = directly on the interface.
    pub gateway: Option<IpAddr>,
    /// MTU in bytes along it.
    pub mtu: Option<u32>,
    /// TCP maximal segment size in bytes to announce along it.
    pub advmss: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Routing table; none = main.
    pub table: Option<u32>,
    /// Scope; none = universe through a gateway, link (253) without.
    pub scope: Option<u8>,
}

/// The scope of what is reached without a router (`RT_SCOPE_LINK` in `include/uapi/linux/rtnetlink.h`).
pub const SCOPE_LINK: u8 = libc::RT_SCOPE_LINK;

/// Adds a route on the interface with that index; one that is there is no error.
pub fn add(index: u32, route: &NewRoute) -> Request {
    let prefix = route.dst.prefix();
    let mut message = match route.dst.network() {
        IpAddr::V4(dst) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(dst, prefix).output_interface(index).build()
        }
        IpAddr::V6(dst) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(dst, prefix).output_interface(index).build()
        }
    };
    message.header.scope = route.scope.unwrap_or(if route.gateway.is_some() { 0 } else { SCOPE_LINK }).into();
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.extend(route.priority.map(RouteAttribute::Priority));
    // The attribute holds every table, the header's byte only those below 256.
    message.attributes.extend(route.table.map(RouteAttribute::Table));
    let metrics: Vec<_> =
        [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)].into_iter().flatten().collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let via = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    Request {
        doing: format!("add the route to {}{via}", route.dst),
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerate: &[Errno::EEXIST],
    }
}

/// The unicast routes of the main table.
fn main_table(socket: &mut RouteSocket, family: Family) -> Result<Vec<RouteMessage>, Error> {
    let mut query = match family {
        Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    // The socket checks strictly: what the header says is a filter.
    query.header.protocol = 0.into();
    query.header.kind = RouteType::Unicast;
    let answers = socket.dump("read the routes of the main table", RouteNetlinkMessage::GetRoute(query))?;
    let in_main = |message: &RouteMessage| message.header.table == RouteHeader::RT_TABLE_MAIN;
    let routes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => Some(message),
        _ => None,
    });
    Ok(routes.filter(in_main).collect())
}

/// The routes of the main table as destination and gateway.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut RouteSocket, family: Family) -> Result<Vec<(IpNetwork, Option<IpAddr>)>, Error> {
    Ok(main_table(socket, family)?
        .iter()
        .filter_map(|message| Some((destination(message, family)?, gateway(message))))
        .collect())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn destination(message: &RouteMessage, family: Family) -> Option<IpNetwork> {
    let told = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let unspecified = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(told.unwrap_or(unspecified), message.header.destination_prefix_length).ok()
}

fn gateway(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })
}

/// The index of the interface of the default route with the lowest metric.
pub(super) fn default_interface(socket: &mut RouteSocket, family: Family) -> Result<Option<u32>, Error> {
    let metric = |message: &RouteMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
    };
    let interface = |message: &RouteMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
            _ => None,
        })
    };
    let routes = main_table(socket, family)?;
    let defaults = routes.iter().filter(|message| message.header.destination_prefix_length == 0);
    Ok(defaults
        .filter_map(|message| Some((metric(message).unwrap_or(0), interface(message)?)))
        .min()
        .map(|(_, index)| index))
}
