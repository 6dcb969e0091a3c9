//! Addresses for attachments: host-local's configuration and files, run in the plugin itself.
//!
//! | module | what |
//! |---|---|
//! | [`range`] | ranges and sets of ranges; pure |
//! | [`config`] | `ipam` of the configuration |
//! | [`store`] | leases on disk |
//! | [`index`] | and which attachment has which |
//! | [`lock`](self) | their lock, with a deadline |
//! | [`stale`] | leases whose attachments are gone |
//! | [`boot`] | which boot this is |
//! | [`resolv_conf`] | `ipam.resolvConf` |
//!
//! Here is what joins them: which address an attachment gets.

pub mod boot;
pub mod config;
pub mod index;
mod lock;
pub mod range;
pub mod resolv_conf;
pub mod stale;
pub mod store;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use config::Config;
pub use index::Origin;
pub use range::{Range, RangeSet};
pub use stale::{Living, Suspect};
pub use store::{Locked, Store, StoreError};

use crate::spec::Attachment;

/// What allocation needs of a store.
pub trait Leases {
    /// Why the store failed.
    type Error;

    /// The address last leased from that set.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn last(&self, set: usize) -> Result<Option<IpAddr>, Self::Error>;

    /// Notes the address last leased from that set.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_last(&mut self, set: usize, ip: IpAddr) -> Result<(), Self::Error>;

    /// Leases an address; false when it is leased already.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn take(&mut self, ip: IpAddr, owner: &Attachment) -> Result<bool, Self::Error>;

    /// Frees an address.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn free(&mut self, ip: IpAddr) -> Result<(), Self::Error>;
}

/// An address leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address, with its subnet's prefix length.
    pub address: IpNetwork,
    /// The subnet.
    pub subnet: IpNetwork,
    /// The subnet's gateway.
    pub gateway: IpAddr,
}

/// Why no address was leased. The words are host-local's.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError<E> {
    /// All addresses of a set are leased.
    #[error("failed to allocate for range {set}: no IP addresses available in range set: {ranges}")]
    Exhausted {
        /// The set's number.
        set: usize,
        /// Its ranges.
        ranges: RangeSet,
    },
    /// A requested address is a gateway.
    #[error("failed to allocate for range {set}: requested ip {ip} is subnet's gateway")]
    Gateway {
        /// The set's number.
        set: usize,
        /// The address.
        ip: IpAddr,
    },
    /// A requested address is leased already.
    #[error("failed to allocate for range {set}: requested IP address {ip} is not available in range set {ranges}")]
    Taken {
        /// The set's number.
        set: usize,
        /// The address.
        ip: IpAddr,
        /// The set's ranges.
        ranges: RangeSet,
    },
    /// Requested addresses are in no set, or several are in the same one.
    #[error("failed to allocate all requested IPs: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))]
    Unfulfilled(Vec<IpAddr>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] E),
}

/// Leases one address of each set, the requested ones where given.
///
/// # Errors
/// See [`AllocateError`]; then nothing is leased.
pub fn allocate<L: Leases>(
    sets: &[RangeSet],
    requested: &[IpAddr],
    owner: &Attachment,
    leases: &mut L,
) -> Result<Vec<Lease>, AllocateError<L::Error>> {
    let mut requested = requested.to_vec();
    let mut taken = Vec::new();
    let outcome = allocate_each(sets, &mut requested, owner, leases, &mut taken);
    let outcome = outcome.and_then(|()| match requested.is_empty() {
        true => Ok(()),
        false => Err(AllocateError::Unfulfilled(requested)),
    });
    if let Err(error) = outcome {
        for lease in &taken {
            // The first failure is the one to tell; a lease that stays is freed by DEL.
            let _ = leases.free(lease.address.ip());
        }
        return Err(error);
    }
    Ok(taken)
}

fn allocate_each<L: Leases>(
    sets: &[RangeSet],
    requested: &mut Vec<IpAddr>,
    owner: &Attachment,
    leases: &mut L,
    taken: &mut Vec<Lease>,
) -> Result<(), AllocateError<L::Error>> {
    for (number, set) in sets.iter().enumerate() {
        let wish = requested.iter().position(|ip| set.range_of(*ip).is_some()).map(|index| requested.remove(index));
        let (ip, range) = match wish {
            Some(ip) => (ip, take_wish(number, set, ip, owner, leases)?),
            None => take_next(number, set, owner, leases)?,
        };
        let address = IpNetwork::new(ip, range.subnet.prefix()).unwrap_or(range.subnet);
        taken.push(Lease { address, subnet: range.subnet, gateway: range.gateway });
        leases.set_last(number, ip)?;
    }
    Ok(())
}

fn take_wish<'a, L: Leases>(
    number: usize,
    set: &'a RangeSet,
    ip: IpAddr,
    owner: &Attachment,
    leases: &mut L,
) -> Result<&'a Range, AllocateError<L::Error>> {
    let Some(range) = set.range_of(ip) else { return Err(AllocateError::Unfulfilled(vec![ip])) };
    if ip == range.gateway {
        return Err(AllocateError::Gateway { set: number, ip });
    }
    if !leases.take(ip, owner)? {
        return Err(AllocateError::Taken { set: number, ip, ranges: set.clone() });
    }
    Ok(range)
}

fn take_next<'a, L: Leases>(
    number: usize,
    set: &'a RangeSet,
    owner: &Attachment,
    leases: &mut L,
) -> Result<(IpAddr, &'a Range), AllocateError<L::Error>> {
    for (ip, range) in set.candidates(leases.last(number)?) {
        if leases.take(ip, owner)? {
            return Ok((ip, range));
        }
    }
    Err(AllocateError::Exhausted { set: number, ranges: set.clone() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[derive(Default)]
    struct Fake {
        leases: BTreeMap<IpAddr, Attachment>,
        last: BTreeMap<usize, IpAddr>,
    }

    impl Leases for Fake {
        type Error = Infallible;

        fn last(&self, set: usize) -> Result<Option<IpAddr>, Infallible> {
            Ok(self.last.get(&set).copied())
        }

        fn set_last(&mut self, set: usize, ip: IpAddr) -> Result<(), Infallible> {
            self.last.insert(set, ip);
            Ok(())
        }

        fn take(&mut self, ip: IpAddr, owner: &Attachment) -> Result<bool, Infallible> {
            Ok(self.leases.insert(ip, owner.clone()).is_none())
        }

        fn free(&mut self, ip: IpAddr) -> Result<(), Infallible> {
            self.leases.remove(&ip);
            Ok(())
        }
    }

    fn sets(subnets: &[&str]) -> Vec<RangeSet> {
        let set = |subnet: &&str| {
            RangeSet::new(vec![Range::new(subnet.parse().unwrap(), None, None, None).unwrap()]).unwrap()
        };
        subnets.iter().map(set).collect()
    }

    fn ask(fake: &mut Fake, subnets: &[&str], wishes: &[&str]) -> Result<Vec<String>, String> {
        let wishes: Vec<IpAddr> = wishes.iter().map(|ip| ip.parse().unwrap()).collect();
        let owner = Attachment { container_id: "a".into(), ifname: "eth0".into() };
        allocate(&sets(subnets), &wishes, &owner, fake)
            .map(|leases| leases.iter().map(|lease| lease.address.to_string()).collect())
            .map_err(|error| error.to_string())
    }

    // Behaviours 87, 89: round robin, exhaustion, and one freed is usable again.
    #[test]
    fn addresses_go_round_until_all_are_leased() {
        let mut fake = Fake::default();
        for expected in ["10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"] {
            assert_eq!(ask(&mut fake, &["10.0.0.0/29"], &[]).unwrap(), [expected]);
        }
        let full = "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6";
        assert_eq!(ask(&mut fake, &["10.0.0.0/29"], &[]).unwrap_err(), full);
        fake.free("10.0.0.4".parse().unwrap()).unwrap();
        assert_eq!(ask(&mut fake, &["10.0.0.0/29"], &[]).unwrap(), ["10.0.0.4/29"]);
    }

    // Behaviours 82 to 86.
    #[test]
    fn requested_addresses_come_each_from_its_set_or_nothing_is_leased() {
        let mut fake = Fake::default();
        let both = ["10.0.0.0/29", "fd00::/64"];
        assert_eq!(ask(&mut fake, &both, &["fd00::7", "10.0.0.5"]).unwrap(), ["10.0.0.5/29", "fd00::7/64"]);
        let held = fake.leases.len();
        for (wishes, reason) in [
            (["10.0.0.4", "10.0.0.3"], "failed to allocate all requested IPs: 10.0.0.3"),
            (["10.0.0.4", "192.168.0.1"], "failed to allocate all requested IPs: 192.168.0.1"),
            (["10.0.0.4", "fd00::1"], "failed to allocate for range 1: requested ip fd00::1 is subnet's gateway"),
            (["10.0.0.4", "fd00::7"], "failed to allocate for range 1: requested IP address fd00::7 is not available"),
        ] {
            let error = ask(&mut fake, &both, &wishes).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
            assert_eq!(fake.leases.len(), held, "{wishes:?} left a lease");
        }
    }
}
