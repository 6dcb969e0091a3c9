//! Leases whose attachments may be gone: of an earlier boot, or of a network namespace that is no more.
//!
//! A lease that a live pod uses must never be taken from it; to keep one too long only costs an address. So a lease is
//! first *suspected*, by what is known of it, and is *dead* only when besides no namespace of the node has its
//! address ([`Living`]).
//!
//! | lease | suspected when |
//! |---|---|
//! | ours, of this boot | the namespace is not where it was |
//! | ours, of an earlier boot | always |
//! | of another plugin | it is older than anything this boot has made ([`boot::began`]) |
//!
//! It is ours while the index has it and it was not written again since.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use super::boot;
use super::index::{Entry, Namespace};
use super::store::{Locked, Result};
use crate::spec::Attachment;

/// A lease whose attachment may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is.
    pub holder: Attachment,
    /// The namespace it was made for, when that is of this boot: device and inode.
    namespace: Option<(u64, u64)>,
}

/// What lives on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Living {
    /// The network namespaces: device and inode of each.
    pub namespaces: BTreeSet<(u64, u64)>,
    /// The addresses of all interfaces in all of them.
    pub addresses: BTreeSet<IpAddr>,
}

impl Suspect {
    /// Whether its attachment is gone for certain.
    pub fn is_dead(&self, living: &Living) -> bool {
        let housed = self.namespace.is_some_and(|namespace| living.namespaces.contains(&namespace));
        !housed && !living.addresses.contains(&self.ip)
    }
}

/// This boot.
struct Boot {
    id: Option<&'static str>,
    began: Option<SystemTime>,
}

impl Boot {
    fn suspects(&self, ip: IpAddr, written: SystemTime, entry: Option<Entry>) -> Option<Option<(u64, u64)>> {
        // Without procfs nothing is known, and nothing suspected.
        let id = self.id?;
        let ours = entry.filter(|entry| entry.ips.contains(&ip) && written <= entry.written);
        match ours.and_then(|entry| entry.origin) {
            Some(origin) if origin.boot == id => {
                let namespace = origin.namespace.filter(|namespace| !Namespace::is_at(namespace))?;
                Some(Some((namespace.device, namespace.inode)))
            }
            Some(_) => Some(None),
            None => self.began.is_some_and(|began| written < began).then_some(None),
        }
    }
}

impl Locked {
    /// The suspected ones among these addresses.
    ///
    /// # Errors
    /// When a lease cannot be read.
    pub fn suspects(&self, ips: &[IpAddr]) -> Result<Vec<Suspect>> {
        let boot = Boot { id: boot::id(), began: boot::began() };
        let mut suspects = Vec::new();
        for ip in ips.iter().copied() {
            let Some((holder, written)) = self.holder(ip)? else { continue };
            let suspected = boot.suspects(ip, written, self.entry(&holder));
            suspects.extend(suspected.map(|namespace| Suspect { ip, holder, namespace }));
        }
        Ok(suspects)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ipam::Origin;

    const IP: &str = "10.0.0.2";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// A lease written at 100, in a boot that began at `began`.
    fn suspected(began: Option<u64>, entry: Option<Entry>) -> Option<Option<(u64, u64)>> {
        Boot { id: Some("now"), began: began.map(at) }.suspects(IP.parse().unwrap(), at(100), entry)
    }

    fn entry(boot: &str, namespace: Option<Namespace>, written: u64) -> Option<Entry> {
        let origin = Some(Origin { boot: boot.into(), namespace });
        Some(Entry { ips: vec![IP.parse().unwrap()], origin, written: at(written) })
    }

    fn gone() -> Option<Namespace> {
        Some(Namespace { device: 4, inode: 5, path: "/nonexistent".into() })
    }

    #[test]
    fn ours_of_an_earlier_boot_is_suspected_whatever_the_clock_says() {
        assert_eq!(suspected(None, entry("before", gone(), 100)), Some(None));
        assert_eq!(suspected(Some(50), entry("before", None, 101)), Some(None));
    }

    #[test]
    fn ours_of_this_boot_is_suspected_when_its_namespace_is_not_where_it_was() {
        assert_eq!(suspected(Some(50), entry("now", gone(), 100)), Some(Some((4, 5))));
        assert_eq!(suspected(Some(200), entry("now", None, 100)), None, "nothing is known of where it is");
        let here = Namespace::at("/proc/self/ns/net".as_ref());
        assert!(here.is_some());
        assert_eq!(suspected(Some(200), entry("now", here, 100)), None);
    }

    #[test]
    fn one_of_another_plugin_is_suspected_only_when_older_than_this_boot() {
        assert_eq!(suspected(Some(101), None), Some(None));
        assert_eq!(suspected(Some(100), None), None);
        assert_eq!(suspected(None, None), None, "when it began is not known");
        assert_eq!(suspected(Some(50), entry("before", gone(), 99)), None, "written again since");
        let other = entry("before", gone(), 100).map(|entry| Entry { ips: vec![], ..entry });
        assert_eq!(suspected(Some(50), other), None, "the index has another address");
    }

    #[test]
    fn a_suspect_is_dead_when_neither_its_namespace_nor_its_address_lives() {
        let holder = Attachment { container_id: "a".into(), ifname: "eth0".into() };
        let suspect = |namespace| Suspect { ip: IP.parse().unwrap(), holder: holder.clone(), namespace };
        let living = |namespaces: &[(u64, u64)], addresses: &[&str]| Living {
            namespaces: namespaces.iter().copied().collect(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        assert!(suspect(Some((4, 5))).is_dead(&living(&[(4, 6)], &["10.0.0.3"])));
        assert!(!suspect(Some((4, 5))).is_dead(&living(&[(4, 5)], &[])));
        assert!(!suspect(Some((4, 5))).is_dead(&living(&[], &[IP])));
        assert!(!suspect(None).is_dead(&living(&[], &[IP])));
        assert!(suspect(None).is_dead(&Living::default()));
    }
}
