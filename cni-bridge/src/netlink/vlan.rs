//! VLANs of bridge ports.
//!
//! A bridge that filters keeps, for each port, the VLANs it carries; one of them is the port's native one: frames
//! come and go without a tag. Source: `include/uapi/linux/if_bridge.h`, bridge(8).

use std::ops::RangeInclusive;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use nix::errno::Errno;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::link::HEADER;
use super::wire::{Answer, attributes, u16_at};
use super::{Error, Request, RouteSocket};

/// Of a port's `IFLA_AF_SPEC`: one VLAN, as `struct bridge_vlan_info` (flags, id).
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;

/// The ids an 802.1Q tag can name: 0 means no VLAN, 4095 is reserved.
pub const IDS: RangeInclusive<u16> = 1..=4094;

/// VLANs of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Their ids.
    pub ids: RangeInclusive<u16>,
    /// Whether the one id is the native one of the port: its frames have no tag outside.
    pub native: bool,
}

impl Membership {
    /// The native VLAN.
    pub fn native(id: u16) -> Membership {
        Membership { ids: id..=id, native: true }
    }

    /// VLANs whose frames keep their tags, as few ranges as there are gaps between the ascending `ids`.
    pub fn tagged(ids: &[u16]) -> Vec<Membership> {
        let runs = ids.chunk_by(|a, b| a + 1 == *b);
        let range = |run: &[u16]| Some(Membership { ids: *run.first()?..=*run.last()?, native: false });
        runs.filter_map(range).collect()
    }

    /// One entry, or for a range its two ends.
    fn entries(&self) -> Vec<BridgeVlanInfo> {
        let flags = match self.native {
            true => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
            false => BridgeVlanInfoFlags::empty(),
        };
        let entry = |vid: u16, more: BridgeVlanInfoFlags| BridgeVlanInfo { flags: flags | more, vid };
        let (first, last) = (*self.ids.start(), *self.ids.end());
        if first == last {
            return vec![entry(first, BridgeVlanInfoFlags::empty())];
        }
        vec![entry(first, BridgeVlanInfoFlags::RangeBegin), entry(last, BridgeVlanInfoFlags::RangeEnd)]
    }
}

fn message(index: u32, memberships: &[Membership]) -> LinkMessage {
    let entries = memberships.iter().flat_map(Membership::entries).map(AfSpecBridge::VlanInfo);
    // To the bridge the interface is a port of, not to the driver of the interface.
    let spec = [AfSpecBridge::Flags(BridgeFlag::Controller)].into_iter().chain(entries).collect();
    LinkUnspec::new_with_index(index)
        .interface_family(AddressFamily::Bridge)
        .append_extra_attribute(LinkAttribute::AfSpecBridge(spec))
        .build()
}

/// Makes the bridge port with that index carry these VLANs too.
pub fn add(index: u32, memberships: &[Membership]) -> Request {
    let doing = format!("set the VLANs of the bridge port with index {index}");
    Request::new(doing, libc::RTM_SETLINK, &message(index, memberships))
}

/// Takes a VLAN from the bridge port with that index; one it does not carry is no error.
pub fn remove(index: u32, id: u16) -> Request {
    let memberships = [Membership { ids: id..=id, native: false }];
    let doing = format!("take the VLAN {id} from the bridge port with index {index}");
    Request::new(doing, libc::RTM_DELLINK, &message(index, &memberships)).tolerate(&[Errno::ENOENT])
}

/// Makes a bridge filter by VLAN. Its ports carry the bridge's default VLAN already, so they stay connected.
pub fn filter(bridge: &str) -> Request {
    // RTM_SETLINK ignores the data of a kind; RTM_NEWLINK without NLM_F_CREATE changes it.
    let message = LinkMessageBuilder::<LinkBridge>::new(bridge).vlan_filtering(true).build();
    Request::new(format!("make the bridge {bridge} filter VLANs"), libc::RTM_NEWLINK, &message)
}

/// The VLANs of every bridge and of every port of one, by the index of the interface. Grows with their number: the
/// kernel cannot be asked for fewer.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<(u32, Vec<Membership>)>, Error> {
    let query = LinkMessageBuilder::<LinkUnspec>::default()
        .interface_family(AddressFamily::Bridge)
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan]))
        .build();
    let answers = socket.dump(&Request::new("list the VLANs of bridge ports", libc::RTM_GETLINK, &query))?;
    Ok(answers.iter().map(|answer| (answer.number(4), read(answer))).collect())
}

fn read(answer: &Answer) -> Vec<Membership> {
    let native = (BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged).bits();
    let spec = answer.attributes(HEADER).filter(|(kind, _)| *kind == libc::IFLA_AF_SPEC);
    let entries = spec.flat_map(|(_, entries)| attributes(entries)).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
    let read = |(_, entry)| {
        let (flags, id) = (u16_at(entry, 0)?, u16_at(entry, 2)?);
        Some(Membership { ids: id..=id, native: flags & native == native })
    };
    entries.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct ifinfomsg` of the family `AF_BRIDGE` (7) with this index.
    fn header(index: u8) -> Vec<u8> {
        vec![7, 0, 0, 0, index, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    // What struct bridge_vlan_info and the attributes of IFLA_AF_SPEC are, by their header: a native VLAN 100 and the
    // tagged range 200 to 210.
    #[test]
    fn vlans_of_a_port_are_written_as_the_kernel_reads_them() {
        let memberships =
            [vec![Membership::native(100)], Membership::tagged(&(200..=210).collect::<Vec<_>>())].concat();
        let nest = [32, 0, 26, 0]; // IFLA_AF_SPEC
        let flags = [6, 0, 0, 0, 1, 0, 0, 0]; // IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_MASTER
        let native = [8, 0, 2, 0, 6, 0, 100, 0]; // IFLA_BRIDGE_VLAN_INFO, PVID | UNTAGGED
        let begin = [8, 0, 2, 0, 8, 0, 200, 0]; // RANGE_BEGIN
        let end = [8, 0, 2, 0, 16, 0, 210, 0]; // RANGE_END
        let mut expected = header(9);
        expected.extend([&nest[..], &flags, &native, &begin, &end].concat());
        // The length of the nest is that of all in it and its own header.
        expected[16] = 36;
        assert_eq!(add(9, &memberships).body, expected);
    }

    #[test]
    fn a_vlan_is_taken_from_a_port_by_its_id_alone() {
        let mut expected = header(3);
        expected.extend([20, 0, 26, 0, 6, 0, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 0, 0, 1, 0]);
        assert_eq!(remove(3, 1).body, expected);
    }

    #[test]
    fn ids_in_a_row_are_one_range() {
        let ranges = |ids: &[u16]| Membership::tagged(ids).into_iter().map(|vlans| vlans.ids).collect::<Vec<_>>();
        assert_eq!(ranges(&[101, 200, 201, 202, 4094]), [101..=101, 200..=202, 4094..=4094]);
        assert!(ranges(&[]).is_empty());
    }
}
