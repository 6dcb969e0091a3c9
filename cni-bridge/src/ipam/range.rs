//! Ranges of addresses: what host-local's configuration means, without touching anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Why a range or a set of ranges cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Fewer than two addresses for pods.
    #[error("Network {0} too small to allocate from: the largest prefix length is 30 for IPv4, 126 for IPv6")]
    TooSmall(IpNetwork),
    /// Bits beyond the prefix are set.
    #[error("Network has host bits set: for a subnet mask of length {} the network address is {}", .0.prefix(), .0.network())]
    HostBits(IpNetwork),
    /// `rangeStart`, `rangeEnd` or `gateway` lies elsewhere.
    #[error("{key} {ip} is not in network {subnet}")]
    Outside {
        /// Which key.
        key: &'static str,
        /// Its value.
        ip: IpAddr,
        /// The range's subnet.
        subnet: IpNetwork,
    },
    /// `rangeStart` after `rangeEnd`.
    #[error("rangeStart {0} comes after rangeEnd {1}")]
    Reversed(IpAddr, IpAddr),
    /// Two ranges share addresses.
    #[error("ranges of {0} and {1} overlap")]
    Overlap(IpNetwork, IpNetwork),
    /// A set with both families: an address of the set would be of either.
    #[error("mixed address families in one set: {0} and {1}")]
    MixedFamilies(IpNetwork, IpNetwork),
    /// A set without ranges.
    #[error("a set of ranges is empty")]
    Empty,
}

/// Consecutive addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The subnet, host bits clear.
    pub subnet: IpNetwork,
    /// The gateway: never leased.
    pub gateway: IpAddr,
    first: u128,
    last: u128,
}

/// As the messages of host-local write it.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.address(self.first), self.address(self.last))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Range {
    /// A range of `subnet`. By default from the first address to the last one, with the first address as the gateway.
    ///
    /// The subnet's own address and IPv4's broadcast are never in it, not even where `start` or `end` name them
    /// (host-local leases them then): no neighbour would ever answer a pod that has one.
    ///
    /// # Errors
    /// See [`RangeError`].
    pub fn new(
        subnet: IpNetwork,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Range, RangeError> {
        let bits = if subnet.is_ipv4() { 32 } else { 128 };
        if u32::from(subnet.prefix()) + 2 > bits {
            return Err(RangeError::TooSmall(subnet));
        }
        if subnet.ip() != subnet.network() {
            return Err(RangeError::HostBits(subnet));
        }
        for (key, ip) in [("rangeStart", start), ("rangeEnd", end), ("gateway", gateway)] {
            // The gateway may well be elsewhere: a router behind the bridge, reached by a link-local address.
            if let Some(ip) =
                ip.filter(|ip| !subnet.contains(*ip) && (key != "gateway" || ip.is_ipv4() != subnet.is_ipv4()))
            {
                return Err(RangeError::Outside { key, ip, subnet });
            }
        }
        let all_ones = number(subnet.broadcast());
        let (lowest, highest) = (number(subnet.ip()) + 1, if subnet.is_ipv4() { all_ones - 1 } else { all_ones });
        let mut range = Range {
            first: start.map_or(lowest, number).max(lowest),
            last: end.map_or(highest, number).min(highest),
            gateway: subnet.ip(),
            subnet,
        };
        if range.first > range.last {
            return Err(RangeError::Reversed(range.address(range.first), range.address(range.last)));
        }
        range.gateway = gateway.unwrap_or_else(|| range.address(number(range.subnet.ip()) + 1));
        Ok(range)
    }

    fn address(&self, number: u128) -> IpAddr {
        // Numbers are made from addresses of the subnet's family, so an IPv4 one fits.
        match self.subnet {
            IpNetwork::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNetwork::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }

    /// Whether the address is one of the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.subnet.is_ipv4() && (self.first..=self.last).contains(&number(ip))
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4() && self.first <= other.last && other.first <= self.last
    }
}

/// Ranges of one family that stand in for each other: an attachment gets one address from each set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

impl RangeSet {
    /// A set of ranges.
    ///
    /// # Errors
    /// [`RangeError::Empty`], [`RangeError::MixedFamilies`], [`RangeError::Overlap`].
    pub fn new(ranges: Vec<Range>) -> Result<RangeSet, RangeError> {
        let first = ranges.first().ok_or(RangeError::Empty)?;
        if let Some(other) = ranges.iter().find(|range| range.subnet.is_ipv4() != first.subnet.is_ipv4()) {
            return Err(RangeError::MixedFamilies(first.subnet, other.subnet));
        }
        let set = RangeSet(ranges);
        for (index, range) in set.0.iter().enumerate() {
            if let Some(other) = set.0[..index].iter().find(|other| other.overlaps(range)) {
                return Err(RangeError::Overlap(other.subnet, range.subnet));
            }
        }
        Ok(set)
    }

    /// Refuses sets that share addresses.
    ///
    /// # Errors
    /// [`RangeError::Overlap`].
    pub fn check_disjoint(sets: &[RangeSet]) -> Result<(), RangeError> {
        for (index, set) in sets.iter().enumerate() {
            for other in &sets[..index] {
                let clash = other.0.iter().find_map(|a| Some((a, set.0.iter().find(|b| a.overlaps(b))?)));
                if let Some((a, b)) = clash {
                    return Err(RangeError::Overlap(a.subnet, b.subnet));
                }
            }
        }
        Ok(())
    }

    /// Whether its addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.first().is_some_and(|range| range.subnet.is_ipv4())
    }

    /// The range an address is in.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// How many addresses it can lease.
    pub fn capacity(&self) -> u128 {
        let size =
            |range: &Range| (range.last - range.first).saturating_add(1) - u128::from(range.contains(range.gateway));
        self.0.iter().map(size).fold(0, u128::saturating_add)
    }

    /// Every address once, beginning after `last` and wrapping around, gateways left out: an address just
    /// given back is the last one to be given out again.
    pub fn candidates(&self, last: Option<IpAddr>) -> Candidates<'_> {
        let start = last.and_then(|ip| Some((self.0.iter().position(|range| range.contains(ip))?, number(ip))));
        let mut candidates = Candidates { set: self, index: 0, next: 0, left: self.total() };
        match start {
            Some((index, number)) => {
                (candidates.index, candidates.next) = (index, number);
                candidates.advance();
            }
            None => candidates.next = self.0.first().map_or(0, |range| range.first),
        }
        candidates
    }

    fn total(&self) -> u128 {
        self.0.iter().map(|range| (range.last - range.first).saturating_add(1)).fold(0, u128::saturating_add)
    }
}

/// The iterator of [`RangeSet::candidates`].
pub struct Candidates<'a> {
    set: &'a RangeSet,
    index: usize,
    next: u128,
    left: u128,
}

impl Candidates<'_> {
    fn advance(&mut self) {
        let ranges = &self.set.0;
        if self.next < ranges[self.index].last {
            self.next += 1;
        } else {
            self.index = (self.index + 1) % ranges.len();
            self.next = ranges[self.index].first;
        }
    }
}

impl<'a> Iterator for Candidates<'a> {
    type Item = (IpAddr, &'a Range);

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            self.left -= 1;
            let range = &self.set.0[self.index];
            let ip = range.address(self.next);
            self.advance();
            if ip != range.gateway {
                return Some((ip, range));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, start: Option<&str>, end: Option<&str>) -> Result<Range, RangeError> {
        let ip = |text: &str| text.parse().unwrap();
        Range::new(subnet.parse().unwrap(), start.map(ip), end.map(ip), None)
    }

    fn set(ranges: &[(&str, Option<&str>, Option<&str>)]) -> RangeSet {
        RangeSet::new(ranges.iter().map(|(subnet, start, end)| range(subnet, *start, *end).unwrap()).collect()).unwrap()
    }

    fn addresses(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        set.candidates(last.map(|ip| ip.parse().unwrap())).map(|(ip, _)| ip.to_string()).collect()
    }

    // Behaviour 88.
    #[test]
    fn gateway_and_broadcast_are_never_leased() {
        let small = set(&[("10.0.0.0/29", None, None)]);
        assert_eq!(addresses(&small, None), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(small.capacity(), 5);
        let named = set(&[("10.0.0.0/29", Some("10.0.0.0"), Some("10.0.0.7"))]);
        assert_eq!(addresses(&named, None), addresses(&small, None), "not even where they are named");
        let six = set(&[("fd00::/126", None, None)]);
        assert_eq!(addresses(&six, None), ["fd00::2", "fd00::3"]);
    }

    // Behaviour 87.
    #[test]
    fn addresses_go_round() {
        let two = set(&[("10.0.0.0/30", None, None), ("10.0.1.0/24", Some("10.0.1.8"), Some("10.0.1.9"))]);
        assert_eq!(addresses(&two, None), ["10.0.0.2", "10.0.1.8", "10.0.1.9"]);
        assert_eq!(addresses(&two, Some("10.0.0.2")), ["10.0.1.8", "10.0.1.9", "10.0.0.2"]);
        assert_eq!(addresses(&two, Some("10.0.1.9")), ["10.0.0.2", "10.0.1.8", "10.0.1.9"]);
        assert_eq!(
            addresses(&two, Some("192.168.0.1")),
            addresses(&two, None),
            "an address of an earlier configuration"
        );
    }

    // Behaviour 90.
    #[test]
    fn what_cannot_work_is_refused() {
        assert!(matches!(range("10.0.0.0/31", None, None), Err(RangeError::TooSmall(_))));
        assert!(matches!(range("fd00::/127", None, None), Err(RangeError::TooSmall(_))));
        assert!(matches!(range("10.0.0.1/24", None, None), Err(RangeError::HostBits(_))));
        assert!(matches!(range("10.0.0.0/24", Some("10.0.1.1"), None), Err(RangeError::Outside { .. })));
        assert!(matches!(range("10.0.0.0/24", None, Some("fd00::1")), Err(RangeError::Outside { .. })));
        assert!(matches!(range("10.0.0.0/24", Some("10.0.0.9"), Some("10.0.0.8")), Err(RangeError::Reversed(..))));
        let a = range("10.0.0.0/24", None, Some("10.0.0.99")).unwrap();
        let b = range("10.0.0.0/16", None, None).unwrap();
        let c = range("fd00::/64", None, None).unwrap();
        assert!(matches!(RangeSet::new(vec![a.clone(), b.clone()]), Err(RangeError::Overlap(..))));
        assert!(matches!(RangeSet::new(vec![a.clone(), c.clone()]), Err(RangeError::MixedFamilies(..))));
        assert_eq!(RangeSet::new(vec![]), Err(RangeError::Empty));
        let sets = [RangeSet::new(vec![a]).unwrap(), RangeSet::new(vec![c]).unwrap(), RangeSet::new(vec![b]).unwrap()];
        assert!(RangeSet::check_disjoint(&sets[..2]).is_ok());
        assert!(matches!(RangeSet::check_disjoint(&sets), Err(RangeError::Overlap(..))));
    }

    #[test]
    fn the_largest_ranges_do_not_overflow() {
        let all = set(&[("::/0", None, None)]);
        assert_eq!(all.candidates(None).next().unwrap().0, "::2".parse::<IpAddr>().unwrap());
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert_eq!(all.candidates(Some(last)).next().unwrap().0, "::2".parse::<IpAddr>().unwrap());
        assert!(all.capacity() > u128::MAX - 4);
    }
}
