//! `ipam` of the configuration: host-local's keys.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::range::{Range, RangeError, RangeSet};
use super::store::{DEFAULT_DATA_DIR, Store};
use crate::spec::env::address;
use crate::spec::json::Node;
use crate::spec::result::read_routes;
use crate::spec::{self, CniArgs, Error, Route, Version, code};

/// What `ipam` asks for.
#[derive(Debug, Clone)]
pub struct Config {
    /// An address from each: `runtimeConfig.ipRanges`, then the single range of the old form, then `ranges`.
    pub sets: Vec<RangeSet>,
    /// `routes`
    pub routes: Vec<Route>,
    /// `resolvConf`
    pub resolv_conf: Option<PathBuf>,
    /// Addresses asked for: by `CNI_ARGS`, `args.cni.ips`, `runtimeConfig.ips`.
    pub requested: Vec<IpAddr>,
}

/// Where the leases are. Needs no valid ranges: what was leased must be freed whatever has become of them.
///
/// # Errors
/// [`spec::code::DECODE`] when `dataDir` is no string.
pub fn store(config: &spec::Config) -> Result<Store, Error> {
    let data_dir = config.root().get("ipam").get("dataDir").text()?.unwrap_or(DEFAULT_DATA_DIR);
    Ok(Store::new(data_dir.as_ref(), &config.name))
}

impl Config {
    /// Reads `ipam`, whatever its type says: by whom we are called is known already.
    ///
    /// # Errors
    /// With the path of what is wrong.
    pub fn read(config: &spec::Config, args: &CniArgs) -> Result<Config, Error> {
        if !config.root().get("ipam").exists() {
            return Err(Error::config("IPAM config missing 'ipam' key"));
        }
        let ipam = config.root().get("ipam");
        let mut sets = read_sets(&config.root().get("runtimeConfig").get("ipRanges"))?;
        if ipam.get("subnet").exists() {
            sets.push(RangeSet::new(vec![read_range(&ipam)?]).map_err(|error| invalid(&ipam, &error))?);
        }
        sets.extend(read_sets(&ipam.get("ranges"))?);
        if sets.is_empty() {
            return Err(Error::config("ipam: no IP ranges specified"));
        }
        RangeSet::check_disjoint(&sets).map_err(|error| invalid(&ipam, &error))?;
        let of_family = |v4: bool| sets.iter().filter(|set| set.is_ipv4() == v4).count();
        if config.version < Version::V0_3_0 && of_family(true).max(of_family(false)) > 1 {
            let version = config.version;
            return Err(Error::config(format!(
                "CNI version {version} does not support more than 1 address per family"
            )));
        }
        let from_args = args.ip.as_deref().map(|text| {
            let refused = || Error::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS: invalid IP address {text}"));
            address(text).ok_or_else(refused)
        });
        let mut requested: Vec<IpAddr> = from_args.transpose()?.into_iter().chain(config.runtime()?.ips).collect();
        // The same wish may come from several sources.
        requested.sort_unstable();
        requested.dedup();
        Ok(Config {
            sets,
            routes: read_routes(&ipam.get("routes"))?,
            resolv_conf: ipam.get("resolvConf").text()?.map(PathBuf::from),
            requested,
        })
    }
}

fn invalid(node: &Node<'_>, error: &RangeError) -> Error {
    Error::config(format!("{}: {error}", node.path()))
}

fn read_sets(node: &Node<'_>) -> Result<Vec<RangeSet>, Error> {
    let read = |set: &Node<'_>| {
        let ranges = set.items()?.iter().map(read_range).collect::<Result<_, _>>()?;
        RangeSet::new(ranges).map_err(|error| invalid(set, &error))
    };
    node.items()?.iter().map(read).collect()
}

fn read_range(node: &Node<'_>) -> Result<Range, Error> {
    let subnet: Option<IpNetwork> = node.get("subnet").parsed("a subnet")?;
    let subnet = subnet.ok_or_else(|| Error::config(format!("{}.subnet is missing", node.path())))?;
    if let IpAddr::V6(v6) = subnet.ip()
        && v6.to_ipv4_mapped().is_some()
    {
        // host-local's files would have names of IPv4, ours of IPv6.
        let msg = format!("{}.subnet: {subnet} is an IPv4 network in IPv6's form: write it in its own", node.path());
        return Err(Error::config(msg));
    }
    let ip = |key: &str| Ok::<_, Error>(node.get(key).parsed::<IpAddr>("an address")?.map(|ip| ip.to_canonical()));
    Range::new(subnet, ip("rangeStart")?, ip("rangeEnd")?, ip("gateway")?).map_err(|error| invalid(node, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Error> {
        Config::read(&spec::Config::parse(text.as_bytes()).unwrap(), &CniArgs::default())
    }

    fn ipam(ipam: &str) -> Result<Config, Error> {
        read(&format!(r#"{{"name": "n", "cniVersion": "1.0.0", "ipam": {ipam}}}"#))
    }

    #[test]
    fn ranges_of_the_runtime_come_first_then_the_old_form() {
        let config = read(
            r#"{"name": "n", "cniVersion": "1.0.0", "runtimeConfig": {"ipRanges": [[{"Subnet": "10.3.0.0/24"}]]},
                "ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.9"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.1.0.254"}]}}"#,
        );
        let config = config.unwrap();
        let sets: Vec<_> = config.sets.iter().map(ToString::to_string).collect();
        assert_eq!(
            sets,
            ["10.3.0.1-10.3.0.254", "10.1.0.1-10.1.0.254", "fd00::1-fd00::ffff:ffff:ffff:ffff", "10.2.0.9-10.2.0.254"]
        );
        assert_eq!(config.routes.len(), 2);
    }

    #[test]
    fn an_address_asked_for_by_several_sources_is_asked_for_once() {
        let config = read(
            r#"{"name": "n", "args": {"cni": {"ips": ["10.1.0.9", "fd00::9"]}}, "runtimeConfig": {"ips": ["10.1.0.9/24"]},
                "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}"#,
        );
        let asked: Vec<_> = config.unwrap().requested.iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["10.1.0.9", "fd00::9"]);
    }

    #[test]
    fn an_ipam_without_a_subnet_is_refused_by_name() {
        assert_eq!(read(r#"{"name": "n"}"#).unwrap_err().msg, "IPAM config missing 'ipam' key");
        let refused = ipam(r#"{"ranges": [[{"rangeStart": "10.0.0.1"}]]}"#).unwrap_err();
        assert_eq!((refused.code, refused.msg.as_str()), (code::INVALID_CONFIG, "ipam.ranges[0][0].subnet is missing"));
    }

    // Behaviours 34, 90.
    #[test]
    fn invalid_ranges_are_named() {
        let message = |text: &str| ipam(text).unwrap_err().msg;
        assert_eq!(message(r#"{"type": "host-local"}"#), "ipam: no IP ranges specified");
        let host_bits = message(r#"{"type": "host-local", "ranges": [[{"subnet": "10.0.0.1/24"}]]}"#);
        assert!(host_bits.starts_with("ipam.ranges[0][0]: Network has host bits set"), "{host_bits}");
        let two = read(
            r#"{"name": "n", "cniVersion": "0.2.0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]]}}"#,
        );
        assert_eq!(two.unwrap_err().msg, "CNI version 0.2.0 does not support more than 1 address per family");
    }
}
