//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMetric, RouteType};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::wire::{Answer, ip, number, u32_at};
use super::{Error, Request, RouteSocket};

/// The length of `struct rtmsg` (`include/uapi/linux/rtnetlink.h`).
const HEADER: usize = 12;

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
    let doing = format!("add the route to {}{via}", route.dst);
    Request::new(doing, libc::RTM_NEWROUTE, &message).flags(NLM_F_CREATE | NLM_F_EXCL).tolerate(&[Errno::EEXIST])
}

/// The unicast routes of the main table.
fn main_table(socket: &mut RouteSocket, family: Family) -> Result<Vec<Answer>, Error> {
    let mut query = match family {
        Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    // The socket checks strictly: what the header says is a filter.
    query.header.protocol = 0.into();
    query.header.kind = RouteType::Unicast;
    let answers = socket.dump(&Request::new("read the routes of the main table", libc::RTM_GETROUTE, &query))?;
    Ok(answers.into_iter().filter(|answer| answer.byte(4) == RouteHeader::RT_TABLE_MAIN).collect())
}

fn attribute(answer: &Answer, wanted: u16) -> Option<&[u8]> {
    answer.attributes(HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The routes of the main table as destination and gateway.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut RouteSocket, family: Family) -> Result<Vec<(IpNetwork, Option<IpAddr>)>, Error> {
    let gateway = |answer| attribute(answer, libc::RTA_GATEWAY).and_then(ip);
    let routes = main_table(socket, family)?;
    Ok(routes.iter().filter_map(|answer| Some((destination(answer, family)?, gateway(answer)))).collect())
}

fn destination(answer: &Answer, family: Family) -> Option<IpNetwork> {
    let unspecified = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(attribute(answer, libc::RTA_DST).and_then(ip).unwrap_or(unspecified), answer.byte(1)).ok()
}

/// The way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The index of the interface it is behind.
    pub interface: u32,
    /// Whether it is the node's own.
    pub is_local: bool,
}

/// The way that packets of the node to `ip` would go; none when there is none.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn towards(socket: &mut RouteSocket, ip: IpAddr) -> Result<Option<Way>, Error> {
    let mut query = match ip {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
    };
    // The socket checks strictly: a question has none of these.
    (query.header.table, query.header.protocol) = (0, 0.into());
    (query.header.scope, query.header.kind) = (0.into(), 0.into());
    let request = Request::new(format!("look up the way to {ip}"), libc::RTM_GETROUTE, &query);
    let answer = match socket.get(&request) {
        Err(error) if matches!(error.errno(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL)) => None,
        answer => answer?,
    };
    let way = |answer: &Answer| {
        let is_local = answer.byte(7) == libc::RTN_LOCAL;
        Some(Way { interface: attribute(answer, libc::RTA_OIF).and_then(number)?, is_local })
    };
    Ok(answer.as_ref().and_then(way))
}

/// The index of the interface of the default route with the lowest metric.
pub(super) fn default_interface(socket: &mut RouteSocket, family: Family) -> Result<Option<u32>, Error> {
    let metric = |answer| attribute(answer, libc::RTA_PRIORITY).and_then(number).unwrap_or(0);
    let interface = |answer| match attribute(answer, libc::RTA_OIF) {
        Some(index) => number(index),
        // The first of several: struct rtnexthop has the index after length, flags and hops.
        None => attribute(answer, libc::RTA_MULTIPATH).and_then(|hops| u32_at(hops, 4)),
    };
    let routes = main_table(socket, family)?;
    let defaults = routes.iter().filter(|answer| answer.byte(1) == 0);
    Ok(defaults.filter_map(|answer| Some((metric(answer), interface(answer)?))).min().map(|(_, index)| index))
}
