//! Addresses of interfaces.

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use super::{Error, Request, RouteSocket};

fn message(index: u32, address: IpNetwork) -> AddressMessage {
    match address {
        IpNetwork::V4(v4) => {
            AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(v4.ip(), v4.prefix()).build()
        }
        IpNetwork::V6(v6) => {
            AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(index).address(v6.ip(), v6.prefix()).build()
        }
    }
}

/// Adds an address to the interface with that index; one that is there is no error.
///
/// An IPv6 address is usable at once unless `detect_duplicates` asks for the second or two of duplicate
/// address detection: the addresses here are leased, so nobody else can have them.
pub fn add(index: u32, address: IpNetwork, detect_duplicates: bool) -> Request {
    let mut message = message(index, address);
    if address.is_ipv6() && !detect_duplicates {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    Request {
        doing: format!("add the address {address} to the interface with index {index}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerate: &[Errno::EEXIST],
    }
}

/// Removes an address; one that is gone is no error.
pub fn remove(index: u32, address: IpNetwork) -> Request {
    Request {
        doing: format!("remove the address {address} from the interface with index {index}"),
        message: RouteNetlinkMessage::DelAddress(message(index, address)),
        flags: 0,
        tolerate: &[Errno::EADDRNOTAVAIL],
    }
}

/// The addresses of the interface with that index.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut RouteSocket, index: u32) -> Result<Vec<IpNetwork>, Error> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let doing = format!("list the addresses of the interface with index {index}");
    let answers = socket.dump(&doing, RouteNetlinkMessage::GetAddress(message))?;
    Ok(answers.into_iter().filter_map(|answer| read(answer, index)).collect())
}

fn read(answer: RouteNetlinkMessage, index: u32) -> Option<IpNetwork> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    // IPv6 answers are filtered by the kernel since 4.20 as well, but a stray one would be taken for an obstacle.
    if message.header.index != index {
        return None;
    }
    let prefix = message.header.prefix_len;
    // IFA_LOCAL is the address where both are told (IPv4); IFA_ADDRESS may be a peer's.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNetwork::new(local.or(address)?, prefix).ok()
}
