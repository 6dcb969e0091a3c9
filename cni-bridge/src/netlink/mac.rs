//! Hardware addresses.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// The first byte of a random address: locally administered, unicast.
const RANDOM: u8 = 0x02;

impl Mac {
    /// A random unicast address from the locally administered space (IEEE 802: second bit of the first byte).
    pub fn random() -> Mac {
        // The standard library seeds this from getrandom(2): enough for an address, without a dependency.
        let [a, b, c, d, e, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
        Mac([RANDOM, a, b, c, d, e])
    }

    /// Whether it can be one of [`Mac::random`].
    pub fn is_random(self) -> bool {
        self.0[0] == RANDOM
    }

    /// The address of a pod's interface, made of its IPv4 address.
    ///
    /// Whoever gets a reused address gets its MAC with it, so what neighbours
    /// remember stays true: an announcement (`arp_notify`) sent while the bridge
    /// port is not forwarding yet is lost, and the reference plugin's pods are
    /// then unreachable until the entry expires.
    pub fn of_ip(ip: Ipv4Addr) -> Mac {
        let [a, b, c, d] = ip.octets();
        Mac([0x0a, 0x58, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is no hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hexadecimal digits.
    #[error("expected six pairs of hexadecimal digits, aa:bb:cc:dd:ee:ff")]
    Form,
    /// A group address, or all zeros: no interface can have it.
    #[error("a multicast or all-zero address cannot be an interface's")]
    NotUnicast,
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = parts.next().filter(|pair| pair.len() == 2).ok_or(MacError::Form)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| MacError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacError::Form);
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MacError::NotUnicast);
        }
        Ok(Mac(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_and_a_malformed_one_does_not() {
        let mac: Mac = "0a:58:0A:f4:01:02".parse().unwrap();
        assert_eq!(mac, Mac::of_ip(Ipv4Addr::new(10, 244, 1, 2)));
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:02");
        for text in ["", "0a:58", "0a:58:0a:f4:01:02:03", "0a:58:0a:f4:01:zz", "0a58:0a:f4:01:2:3"] {
            assert_eq!(text.parse::<Mac>(), Err(MacError::Form), "{text}");
        }
        assert_eq!("01:00:5e:00:00:01".parse::<Mac>(), Err(MacError::NotUnicast));
    }

    #[test]
    fn a_random_address_is_local_and_unicast() {
        assert!(Mac::random().is_random() && !Mac::of_ip(Ipv4Addr::LOCALHOST).is_random());
        assert_ne!(Mac::random(), Mac::random());
    }
}
