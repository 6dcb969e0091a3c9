//! Connections the kernel tracks: those over UDP, which live on for as long as packets come, whatever becomes of the
//! rules that sent them somewhere.
//!
//! Source of the numbers: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; of the filter's bits, which that header
//! does not have, `net/netfilter/nf_internals.h` (`CTA_FILTER_F_CTA_*`, since Linux 5.8).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use super::Error;
use super::nft::encoder::{Attributes, GENERIC_HEADER, message};
use super::socket::{prepare, receive, send};
use super::wire::{Ack, HEADER, NLMSG_DONE, attributes, end_of_dump, ip, messages};

/// `NFNL_SUBSYS_CTNETLINK`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCES: [u16; 2] = [1, 3];
const IP_DESTINATIONS: [u16; 2] = [2, 4];
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// The attributes by which one connection is deleted, and only if it is still the same.
const IDENTITY: [u16; 3] = [TUPLE_ORIGINAL, ID, ZONE];
/// How many are deleted at once: each is answered, and the answers must fit the socket.
const AT_ONCE: usize = 100;

/// A tracked connection over UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where its first packet was sent to.
    pub to: SocketAddr,
    /// Who answers: another address or port where the destination was translated.
    pub answered_by: SocketAddr,
    /// The attributes that identify it.
    identity: Vec<(u16, Vec<u8>)>,
}

fn open() -> Result<Socket, Error> {
    let open = || {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        prepare(&socket)?;
        Ok(socket)
    };
    open().map_err(|source| Error::io("open a netfilter netlink socket", source))
}

fn header(is_v4: bool) -> [u8; GENERIC_HEADER] {
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    [u8::try_from(family).unwrap_or_default(), 0, 0, 0]
}

/// The connections over UDP whose first packet was sent to one of these ports. The kernel looks through all it tracks,
/// and answers with those of the protocol (and the port, where it is one).
///
/// # Errors
/// When they cannot be listed.
pub fn udp_to(is_v4: bool, ports: &[u16]) -> Result<Vec<Flow>, Error> {
    const DOING: &str = "list the tracked connections over UDP";
    let socket = open()?;
    let only = if let [port] = ports { Some(*port) } else { None };
    let mut buffer = Vec::new();
    let sequence = message(&mut buffer, GET, NLM_F_DUMP, header(is_v4), |ask| write_filter(ask, only));
    send(&socket, &buffer, DOING)?;
    let mut flows = Vec::new();
    loop {
        let datagram = receive(&socket, DOING)?;
        for message in messages(&datagram).filter(|message| message.sequence == sequence) {
            let failure = match (message.kind, Ack::read(message)) {
                (NLMSG_DONE, _) => Some(end_of_dump(message)),
                (_, Some(ack)) => Some(ack.errno),
                _ => None,
            };
            match failure {
                Some(None) => return Ok(flows),
                Some(Some(errno)) => return Err(Error::Refused { doing: DOING.into(), errno, note: String::new() }),
                None => flows.extend(read(message.bytes.get(HEADER + GENERIC_HEADER..).unwrap_or_default())),
            }
        }
        flows.retain(|flow: &Flow| ports.contains(&flow.to.port()));
    }
}

fn write_filter(ask: &mut Attributes<'_>, port: Option<u16>) {
    ask.nest(TUPLE_ORIGINAL, |tuple| {
        tuple.nest(TUPLE_PROTOCOL, |protocol| {
            protocol.bytes(PROTOCOL_NUMBER, &[u8::try_from(libc::IPPROTO_UDP).unwrap_or_default()]);
            if let Some(port) = port {
                protocol.bytes(DESTINATION_PORT, &port.to_be_bytes());
            }
        });
    });
    let bits = BY_PROTOCOL | port.map_or(0, |_| BY_DESTINATION_PORT);
    ask.nest(FILTER, |filter| {
        // Unlike other numbers of netfilter, these are in the machine's byte order.
        filter.bytes(FILTER_ORIGINAL, &bits.to_ne_bytes());
        filter.bytes(FILTER_REPLY, &0u32.to_ne_bytes());
    });
}

fn read(connection: &[u8]) -> Option<Flow> {
    let find = |wanted| attributes(connection).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let to = end(find(TUPLE_ORIGINAL)?, IP_DESTINATIONS, DESTINATION_PORT)?;
    let answered_by = end(find(TUPLE_REPLY)?, IP_SOURCES, SOURCE_PORT)?;
    let identity = attributes(connection).filter(|(kind, _)| IDENTITY.contains(kind));
    Some(Flow { to, answered_by, identity: identity.map(|(kind, value)| (kind, value.to_vec())).collect() })
}

/// One end of a direction: the address that is one of `addresses`, and the port.
fn end(tuple: &[u8], addresses: [u16; 2], port: u16) -> Option<SocketAddr> {
    let nested = |wanted| attributes(tuple).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let address: IpAddr =
        attributes(nested(TUPLE_IP)?).find(|(kind, _)| addresses.contains(kind)).and_then(|(_, value)| ip(value))?;
    let bytes = attributes(nested(TUPLE_PROTOCOL)?).find(|(kind, _)| *kind == port).map(|(_, value)| value)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(bytes.try_into().ok()?)))
}

/// Has the kernel forget these connections: their next packets are looked at by the rules anew.
///
/// # Errors
/// The first refusal; that one is gone already is none.
pub fn forget(flows: &[Flow]) -> Result<(), Error> {
    const DOING: &str = "delete tracked connections";
    let socket = open()?;
    for some in flows.chunks(AT_ONCE) {
        let mut buffer = Vec::new();
        let mut waiting: Vec<u32> = Vec::new();
        for flow in some {
            waiting.push(message(&mut buffer, DELETE, NLM_F_ACK, header(flow.to.is_ipv4()), |delete| {
                for (kind, value) in &flow.identity {
                    // Of the three only the tuple is a nest.
                    let nested = if *kind == TUPLE_ORIGINAL { Attributes::NESTED } else { 0 };
                    delete.bytes(kind | nested, value);
                }
            }));
        }
        send(&socket, &buffer, DOING)?;
        while !waiting.is_empty() {
            let datagram = receive(&socket, DOING)?;
            for ack in messages(&datagram).filter_map(Ack::read) {
                waiting.retain(|sequence| *sequence != ack.sequence);
                if let Some(errno) = ack.errno.filter(|errno| *errno != Errno::ENOENT) {
                    return Err(Error::Refused { doing: DOING.into(), errno, note: ack.note });
                }
            }
        }
    }
    Ok(())
}
