//! Addresses of interfaces.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use super::wire::{Answer, ip};
use super::{Error, Request, RouteSocket};

/// The length of `struct ifaddrmsg` (`include/uapi/linux/if_addr.h`).
const HEADER: usize = 8;

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
    let doing = format!("add the address {address} to the interface with index {index}");
    Request::new(doing, libc::RTM_NEWADDR, &message).flags(NLM_F_CREATE | NLM_F_EXCL).tolerate(&[Errno::EEXIST])
}

/// Removes an address; one that is gone is no error.
pub fn remove(index: u32, address: IpNetwork) -> Request {
    let doing = format!("remove the address {address} from the interface with index {index}");
    Request::new(doing, libc::RTM_DELADDR, &message(index, address)).tolerate(&[Errno::EADDRNOTAVAIL])
}

/// The addresses of the interface with that index.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut RouteSocket, index: u32) -> Result<Vec<IpNetwork>, Error> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let doing = format!("list the addresses of the interface with index {index}");
    let answers = socket.dump(&Request::new(doing, libc::RTM_GETADDR, &message))?;
    Ok(answers.iter().filter_map(|answer| read(answer, index)).collect())
}

/// The addresses of all interfaces.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn everywhere(socket: &mut RouteSocket) -> Result<Vec<IpAddr>, Error> {
    let request = Request::new("list all addresses", libc::RTM_GETADDR, &AddressMessage::default());
    Ok(socket.dump(&request)?.iter().filter_map(address).map(|address| address.ip()).collect())
}

fn read(answer: &Answer, index: u32) -> Option<IpNetwork> {
    // IPv6 answers are filtered by the kernel since 4.20 as well, but a stray one would be taken for an obstacle.
    if answer.number(4) != index { None } else { address(answer) }
}

fn address(answer: &Answer) -> Option<IpNetwork> {
    let told = |wanted| answer.attributes(HEADER).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value));
    // IFA_LOCAL is the address where both are told (IPv4); IFA_ADDRESS may be a peer's.
    IpNetwork::new(told(libc::IFA_LOCAL).or_else(|| told(libc::IFA_ADDRESS))?, answer.byte(1)).ok()
}
