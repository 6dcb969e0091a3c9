//! The entries a pod has in the sets and maps, and the record of them.
//!
//! The record of an attachment is a chain that no packet comes to, named after a hash of the ids. Each of its rules is
//! but a comment: an entry in words, or how to tell whether the pod still lives. So DEL finds in one look-up
//! what to remove, without addresses, mappings, or a search through those of other pods; and since the record is
//! removed in the same transaction as the entries, two that remove the same never get in each other's way.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::settings::Protocol;
use crate::netlink::nft::rule::{interface, octets};
use crate::netlink::nft::set::concatenate;

/// The map of ports at every address of the node.
pub const PORTS: &str = "ports";
/// The map of ports at one address of the node.
pub const ADDRESSED: &str = "addressed";
/// Pods whose own connections to themselves are masqueraded.
pub const ITSELF: &str = "itself";
/// Pods with the interface they are behind: what comes from there is masqueraded.
pub const NEIGHBOURS: &str = "neighbours";
/// Pods that everything is masqueraded for.
pub const EVERYBODY: &str = "everybody";
/// Interfaces whose `route_localnet` was switched on here.
pub const LOCALNET: &str = "localnet";

/// An entry of a set or map: its name and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Of [`PORTS`].
    Port(Protocol, u16),
    /// Of [`ADDRESSED`].
    Addressed(IpAddr, Protocol, u16),
    /// Of [`ITSELF`].
    Itself(IpAddr),
    /// Of [`NEIGHBOURS`].
    Neighbours(String, IpAddr),
    /// Of [`EVERYBODY`].
    Everybody(IpAddr),
}

impl Entry {
    /// The set's or map's name.
    pub fn set(&self) -> &'static str {
        match self {
            Entry::Port(..) => PORTS,
            Entry::Addressed(..) => ADDRESSED,
            Entry::Itself(_) => ITSELF,
            Entry::Neighbours(..) => NEIGHBOURS,
            Entry::Everybody(_) => EVERYBODY,
        }
    }

    /// Its key, as the kernel has it.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Entry::Port(protocol, port) => concatenate(&[&[protocol.number()], &port.to_be_bytes()]),
            Entry::Addressed(ip, protocol, port) => {
                concatenate(&[&octets(*ip), &[protocol.number()], &port.to_be_bytes()])
            }
            Entry::Itself(pod) => concatenate(&[&octets(*pod), &octets(*pod)]),
            Entry::Neighbours(name, pod) => concatenate(&[&interface(name), &octets(*pod)]),
            Entry::Everybody(pod) => octets(*pod),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set();
        match self {
            Entry::Port(protocol, port) => write!(f, "{set} {} {port}", protocol.name()),
            Entry::Addressed(ip, protocol, port) => write!(f, "{set} {ip} {} {port}", protocol.name()),
            Entry::Itself(pod) | Entry::Everybody(pod) => write!(f, "{set} {pod}"),
            Entry::Neighbours(name, pod) => write!(f, "{set} {name} {pod}"),
        }
    }
}

impl FromStr for Entry {
    type Err = ();

    fn from_str(text: &str) -> Result<Entry, ()> {
        let read = || {
            let words: Vec<_> = text.split(' ').collect();
            Some(match words[..] {
                [PORTS, protocol, port] => Entry::Port(Protocol::named(protocol)?, port.parse().ok()?),
                [ADDRESSED, ip, protocol, port] => {
                    Entry::Addressed(ip.parse().ok()?, Protocol::named(protocol)?, port.parse().ok()?)
                }
                [ITSELF, pod] => Entry::Itself(pod.parse().ok()?),
                [NEIGHBOURS, name, pod] => Entry::Neighbours(name.into(), pod.parse().ok()?),
                [EVERYBODY, pod] => Entry::Everybody(pod.parse().ok()?),
                _ => return None,
            })
        };
        read().ok_or(())
    }
}

/// A pod's record for one IP family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Its address.
    pub pod: Option<IpAddr>,
    /// The interfaces it has on the node.
    pub interfaces: Vec<String>,
    /// Its network namespace: inode and path.
    pub netns: Option<(u64, PathBuf)>,
}

const POD: &str = "pod";
const INTERFACE: &str = "interface";
const NETNS: &str = "netns";

impl Record {
    /// Its rules' comments.
    pub fn comments(&self) -> Vec<String> {
        let mut comments: Vec<String> = self.pod.iter().map(|ip| format!("{POD} {ip}")).collect();
        comments.extend(self.interfaces.iter().map(|name| format!("{INTERFACE} {name}")));
        comments.extend(self.netns.iter().map(|(inode, path)| format!("{NETNS} {inode} {}", path.display())));
        comments.extend(self.entries.iter().map(ToString::to_string));
        comments
    }

    /// Reads it back; what is not understood (of a later version) is left out.
    pub fn read<'a>(comments: impl Iterator<Item = &'a str>) -> Record {
        let mut record = Record::default();
        for comment in comments {
            match comment.split_once(' ') {
                Some((POD, ip)) => record.pod = ip.parse().ok(),
                Some((INTERFACE, name)) => record.interfaces.push(name.into()),
                Some((NETNS, rest)) => {
                    let read = |(inode, path): (&str, &str)| Some((inode.parse().ok()?, path.into()));
                    record.netns = rest.split_once(' ').and_then(read);
                }
                _ => record.entries.extend(comment.parse::<Entry>()),
            }
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap());
        let record = Record {
            entries: vec![
                Entry::Port(Protocol::Tcp, 8080),
                Entry::Addressed(v6, Protocol::Sctp, 1),
                Entry::Itself(v4),
                Entry::Neighbours("br0".into(), v4),
                Entry::Everybody(v6),
            ],
            pod: Some(v4),
            interfaces: vec!["br0".into(), "veth0".into()],
            netns: Some((4026531840, "/run/netns/with space".into())),
        };
        let comments = record.comments();
        assert_eq!(Record::read(comments.iter().map(String::as_str)), record);
        assert_eq!(Record::read(["of a later version", ""].into_iter()), Record::default());
    }
}
