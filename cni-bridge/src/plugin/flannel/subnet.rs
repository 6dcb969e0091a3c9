//! What flanneld writes about this node: `/run/flannel/subnet.env`.
//!
//! ```text
//! FLANNEL_NETWORK=10.244.0.0/16
//! FLANNEL_SUBNET=10.244.1.1/24
//! FLANNEL_IPV6_NETWORK=fd00:10:244::/56
//! FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64
//! FLANNEL_MTU=1450
//! FLANNEL_IPMASQ=true
//! ```
//!
//! Source: `WriteSubnetFile` of flannel, and flannel-io's cni-plugin, which reads it. The subnets are written as the
//! gateway's address with the prefix length; the networks may be lists, with commas.

use std::path::Path;

use ipnetwork::IpNetwork;

use crate::spec::Error;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The cluster's networks, IPv4's before IPv6's, each once.
    pub networks: Vec<IpNetwork>,
    /// The node's subnets: IPv4's, IPv6's.
    pub subnets: Vec<IpNetwork>,
    /// The MTU for pods, in bytes.
    pub mtu: u32,
    /// Whether flanneld masquerades, so that a plugin need not.
    pub ip_masq: bool,
}

/// The keys as they are found; a later line wins.
#[derive(Default)]
struct Found {
    networks: [Vec<IpNetwork>; 2],
    subnets: [Option<IpNetwork>; 2],
    mtu: Option<u32>,
    ip_masq: Option<bool>,
}

const V4: usize = 0;
const V6: usize = 1;

impl Subnet {
    /// Reads the file.
    ///
    /// # Errors
    /// [`crate::spec::code::INVALID_CONFIG`] where it is not there, or says less than a plugin needs.
    pub fn read(path: &Path) -> Result<Subnet, Error> {
        let text = crate::small_file::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let read = text.and_then(|text| Subnet::parse(&text).map_err(|fault| format!("{}{fault}", path.display())));
        read.map_err(|fault| {
            Error::config(format!("failed to load flannel 'subnet.env' file: {fault}"))
                .with_details("flanneld writes it once it has a subnet: check the flannel pod log for this node")
        })
    }

    /// Reads the text.
    ///
    /// # Errors
    /// The fault, in words that go on after the file's name.
    pub fn parse(text: &str) -> Result<Subnet, String> {
        let mut found = Found::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let Some((key, value)) = line.split_once('=') else {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                return Err(format!(":{}: {line:?} is not KEY=VALUE", number + 1));
            };
            found.take(key, value.trim()).map_err(|fault| format!(":{}: {key}: {fault}", number + 1))?;
        }
        found.complete()
    }
}

impl Found {
    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "FLANNEL_NETWORK" => self.networks[V4] = networks(value)?,
            "FLANNEL_IPV6_NETWORK" => self.networks[V6] = networks(value)?,
            "FLANNEL_SUBNET" => self.subnets[V4] = Some(network(value)?),
            "FLANNEL_IPV6_SUBNET" => self.subnets[V6] = Some(network(value)?),
            "FLANNEL_MTU" => self.mtu = Some(value.parse().map_err(|_| format!("{value:?} is not a number"))?),
            "FLANNEL_IPMASQ" => self.ip_masq = Some(value == "true"),
            _ => {}
        }
        Ok(())
    }

    fn complete(self) -> Result<Subnet, String> {
        let networks = self.networks.concat();
        let subnets: Vec<_> = self.subnets.into_iter().flatten().collect();
        let missing = [
            (networks.is_empty(), "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"),
            (subnets.is_empty(), "FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET"),
            (self.mtu.is_none(), "FLANNEL_MTU"),
            (self.ip_masq.is_none(), "FLANNEL_IPMASQ"),
        ];
        let missing: Vec<_> = missing.iter().filter(|(is_missing, _)| *is_missing).map(|(_, keys)| *keys).collect();
        match (self.mtu, self.ip_masq) {
            (Some(mtu), Some(ip_masq)) if missing.is_empty() => Ok(Subnet { networks, subnets, mtu, ip_masq }),
            _ => Err(format!(" is missing {}", missing.join(", "))),
        }
    }
}

/// A subnet without its host bits.
fn network(text: &str) -> Result<IpNetwork, String> {
    let wrong = || format!("{text:?} is not a subnet");
    let told: IpNetwork = text.parse().map_err(|_| wrong())?;
    if !text.contains('/') {
        return Err(wrong());
    }
    IpNetwork::new(told.network(), told.prefix()).map_err(|_| wrong())
}

fn networks(text: &str) -> Result<Vec<IpNetwork>, String> {
    let mut all: Vec<IpNetwork> = Vec::new();
    for each in text.split(',') {
        let each = network(each.trim())?;
        if !all.contains(&each) {
            all.push(each);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn words(networks: &[IpNetwork]) -> Vec<String> {
        networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_flanneld_writes_is_read_and_host_bits_are_dropped() {
        let read = Subnet::parse(FILE).unwrap();
        assert_eq!(
            (words(&read.networks), words(&read.subnets)),
            (vec!["10.244.0.0/16".into()], vec!["10.244.1.0/24".into()])
        );
        assert_eq!((read.mtu, read.ip_masq), (1450, true));
    }

    #[test]
    fn networks_may_be_lists_and_of_both_families() {
        let more = "FLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16,10.1.0.0/16\nFLANNEL_IPV6_NETWORK=fd00::/56\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\n# a word\n\nFLANNEL_IPMASQ=false\nOTHER=1\r\n";
        let read = Subnet::parse(&format!("{FILE}{more}")).unwrap();
        assert_eq!(words(&read.networks), ["10.1.0.0/16", "10.2.0.0/16", "fd00::/56"]);
        assert_eq!(words(&read.subnets), ["10.244.1.0/24", "fd00:0:0:1::/64"]);
        assert!(!read.ip_masq);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let fault = |text: &str| Subnet::parse(text).unwrap_err();
        assert_eq!(
            fault(""),
            " is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
        );
        assert_eq!(fault("FLANNEL_MTU=x"), r#":1: FLANNEL_MTU: "x" is not a number"#);
        assert_eq!(fault("\nFLANNEL_SUBNET=10.0.0.1"), r#":2: FLANNEL_SUBNET: "10.0.0.1" is not a subnet"#);
        assert_eq!(fault("FLANNEL_NETWORK"), r#":1: "FLANNEL_NETWORK" is not KEY=VALUE"#);
        let refused = Subnet::read(Path::new("/none/subnet.env")).unwrap_err();
        assert!(
            refused.msg.starts_with("failed to load flannel 'subnet.env' file: cannot read /none/subnet.env: "),
            "{refused}"
        );
    }
}
