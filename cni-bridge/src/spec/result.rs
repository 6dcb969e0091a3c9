//! What a successful ADD answers, in every version's form.
//!
//! | versions | addresses | interfaces |
//! |---|---|---|
//! | 0.1.0, 0.2.0 | `ip4`, `ip6`: one a family, routes inside | none |
//! | 0.3.0 to 0.4.0 | `ips[]` with `version` "4" or "6" | `interfaces[]` |
//! | 1.0.0 | `ips[]` without `version` | the same |
//! | 1.1.0 | the same | with `mtu`, `socketPath`, `pciID` |
//!
//! Routes have `mtu`, `advmss`, `priority`, `table` and `scope` since 1.1.0; where they are given they are written in
//! the form of 0.3.0 and later too, as the reference does.
//!
//! A chained plugin passes on what it was given. What it does not know of it, because the specification goes on, is
//! kept as `extra` and written again.

mod wire;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::Error;
use super::json::{Folded, Node};
use super::version::Version;

/// A successful ADD, in the current version's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Success {
    /// The interfaces made, on the node and in the container.
    pub interfaces: Vec<Interface>,
    /// The container's addresses.
    pub ips: Vec<IpConfig>,
    /// The container's routes.
    pub routes: Vec<Route>,
    /// What the container should resolve names with.
    pub dns: Dns,
    /// Members this version of the specification does not have.
    pub extra: Map<String, Value>,
}

/// An interface that an ADD made or found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name, inside `sandbox`.
    pub name: String,
    /// Its hardware address, as `aa:bb:cc:dd:ee:ff`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU in bytes; 0 = not told (1.1.0 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The network namespace it is in; empty = the node's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// A socket that leads to it (vhost-user); empty = none (1.1.0 only).
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The PCI device it is of; empty = none (1.1.0 only).
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
    /// Members this version of the specification does not have.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An address of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// The address with its subnet's prefix length.
    pub address: IpNetwork,
    /// The subnet's gateway.
    pub gateway: Option<IpAddr>,
    /// The interface it is on: an index into [`Success::interfaces`].
    pub interface: Option<usize>,
    /// Members this version of the specification does not have.
    pub extra: Map<String, Value>,
}

/// A route of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where it leads.
    pub dst: IpNetwork,
    /// Through which router; none = through the gateway of the family's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU in bytes along it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP maximal segment size in bytes to announce along it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric: the lower the better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table; none = main.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope (`rtnetlink(7)`): 0 universe, 253 link, 254 host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
    /// Members this version of the specification does not have.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Name resolution, as in `resolv.conf(5)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Addresses of name servers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains searched for short names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Members this version of the specification does not have.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Route {
    /// A route in the main table, nothing else said.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Route {
        Route { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None, extra: Map::new() }
    }

    /// What 0.1.0 and 0.2.0 can say of it.
    fn plain(&self) -> Route {
        Route::new(self.dst, self.gw)
    }
}

impl IpConfig {
    /// An address on the interface of that index, if any.
    pub fn new(address: IpNetwork, gateway: Option<IpAddr>, interface: Option<usize>) -> IpConfig {
        IpConfig { address, gateway, interface, extra: Map::new() }
    }
}

impl Interface {
    /// What `version` can say of it.
    fn of_version(&self, version: Version) -> Interface {
        let all = self.clone();
        if version >= Version::V1_1_0 {
            return all;
        }
        Interface { mtu: 0, socket_path: String::new(), pci_id: String::new(), ..all }
    }

    fn read(node: &Node<'_>, version: Version) -> Result<Interface, Error> {
        let text = |key: &str| Ok::<_, Error>(node.get(key).text()?.unwrap_or_default().to_owned());
        let old = Interface {
            name: text("name")?,
            mac: text("mac")?,
            sandbox: text("sandbox")?,
            extra: node.unknown(&["name", "mac", "sandbox"]),
            ..Interface::default()
        };
        if version < Version::V1_1_0 {
            return Ok(old);
        }
        Ok(Interface {
            mtu: node.get("mtu").number()?.unwrap_or_default(),
            socket_path: text("socketPath")?,
            pci_id: text("pciID")?,
            extra: node.unknown(&["name", "mac", "mtu", "sandbox", "socketPath", "pciID"]),
            ..old
        })
    }
}

impl Dns {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }

    /// Reads a `dns` object.
    ///
    /// # Errors
    /// [`crate::spec::code::DECODE`] when a member is of the wrong type.
    pub fn read(node: &Node<'_>) -> Result<Dns, Error> {
        Ok(Dns {
            nameservers: node.get("nameservers").texts()?,
            domain: node.get("domain").text()?.unwrap_or_default().to_owned(),
            search: node.get("search").texts()?,
            options: node.get("options").texts()?,
            extra: node.unknown(&["nameservers", "domain", "search", "options"]),
        })
    }
}

impl Success {
    /// Reads what a plugin printed, in whatever version it says; in `version` when it says none, as libcni does.
    ///
    /// # Errors
    /// [`crate::spec::code::DECODE`] when it is no result, [`crate::spec::code::INCOMPATIBLE_VERSION`] when its version is unknown.
    pub fn parse(text: &[u8], version: Version) -> Result<Success, Error> {
        Success::read(&Folded::parse(text, "it")?.root(), version)
    }

    /// Reads a result that is part of something else (`prevResult`).
    ///
    /// # Errors
    /// As [`Success::parse`].
    pub fn read(node: &Node<'_>, version: Version) -> Result<Success, Error> {
        let said = node.get("cniVersion").text()?.filter(|said| !said.is_empty());
        let version = said.map_or(Ok(version), Version::parse)?;
        let mut success = Success { dns: Dns::read(&node.get("dns"))?, ..Success::default() };
        if version < Version::V0_3_0 {
            for family in ["ip4", "ip6"] {
                success.read_ancient_family(&node.get(family))?;
            }
            return Ok(success);
        }
        for interface in node.get("interfaces").items()? {
            success.interfaces.push(Interface::read(&interface, version)?);
        }
        // `version` of an address is told by the address itself.
        let old = &["address", "gateway", "interface", "version"];
        let known = if version < Version::V1_0_0 { &old[..] } else { &old[..3] };
        for ip in node.get("ips").items()? {
            success.ips.push(IpConfig {
                address: required(&ip.get("address"))?,
                gateway: ip.get("gateway").parsed("an address")?,
                interface: ip.get("interface").number()?.and_then(|index| usize::try_from(index).ok()),
                extra: ip.unknown(known),
            });
        }
        success.routes = read_routes(&node.get("routes"))?;
        success.extra = node.unknown(&["cniVersion", "interfaces", "ips", "routes", "dns"]);
        Ok(success)
    }

    fn read_ancient_family(&mut self, node: &Node<'_>) -> Result<(), Error> {
        if node.exists() {
            let gateway = node.get("gateway").parsed("an address")?;
            self.ips.push(IpConfig::new(required(&node.get("ip"))?, gateway, None));
            self.routes.extend(read_routes(&node.get("routes"))?);
        }
        Ok(())
    }
}

/// An array of routes: of a result, or of an IPAM configuration.
///
/// # Errors
/// [`crate::spec::code::DECODE`] or [`crate::spec::code::INVALID_CONFIG`], with the path.
pub fn read_routes(node: &Node<'_>) -> Result<Vec<Route>, Error> {
    let read = |route: &Node<'_>| {
        Ok(Route {
            dst: required(&route.get("dst"))?,
            gw: route.get("gw").parsed("an address")?,
            mtu: route.get("mtu").number()?,
            advmss: route.get("advmss").number()?,
            priority: route.get("priority").number()?,
            table: route.get("table").number()?,
            scope: route.get("scope").number()?,
            extra: route.unknown(&["dst", "gw", "mtu", "advmss", "priority", "table", "scope"]),
        })
    };
    node.items()?.iter().map(read).collect()
}

/// A subnet or an address with its prefix length, which must be there.
fn required(node: &Node<'_>) -> Result<IpNetwork, Error> {
    let missing = || Error::config(format!("{} is missing", node.path()));
    let text = node.text()?.ok_or_else(missing)?;
    if !text.contains('/') {
        return Err(Error::config(format!("{}: {text:?} has no prefix length", node.path())));
    }
    node.parsed("a subnet")?.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Success {
        Success {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: 1450,
                sandbox: "/n".into(),
                socket_path: "/s".into(),
                pci_id: "0000:00:1f.6".into(),
                ..Interface::default()
            }],
            ips: vec![IpConfig::new("10.1.2.3/24".parse().unwrap(), Some("10.1.2.1".parse().unwrap()), Some(0))],
            routes: vec![Route { mtu: Some(1400), ..Route::new("0.0.0.0/0".parse().unwrap(), None) }],
            ..Success::default()
        }
    }

    // Behaviours 16 to 18: the form of each version, golden.
    #[test]
    fn each_version_has_its_form() {
        let json = |version| sample().to_json(version).unwrap();
        let old = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0"}]},"dns":{}}"#;
        assert_eq!(json(Version::V0_2_0), old);
        let middle = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/n"}],"ips":[{"version":"4","interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"}],"routes":[{"dst":"0.0.0.0/0","mtu":1400}],"dns":{}}"#;
        assert_eq!(json(Version::V0_4_0), middle);
        let new = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1450,"sandbox":"/n","socketPath":"/s","pciID":"0000:00:1f.6"}],"ips":[{"interface":0,"address":"10.1.2.3/24","gateway":"10.1.2.1"}],"routes":[{"dst":"0.0.0.0/0","mtu":1400}]}"#;
        assert_eq!(json(Version::V1_1_0), new);
        assert!(!json(Version::V1_0_0).contains("1450") && !json(Version::V1_0_0).contains("\"version\""));
    }

    #[test]
    fn the_current_form_reads_back_as_itself() {
        assert_eq!(
            Success::parse(sample().to_json(Version::V1_1_0).unwrap().as_bytes(), Version::V0_1_0).unwrap(),
            sample()
        );
        let ancient = Success::parse(sample().to_json(Version::V0_1_0).unwrap().as_bytes(), Version::CURRENT).unwrap();
        assert_eq!(ancient.ips[0].address, sample().ips[0].address);
        assert_eq!(ancient.routes, [Route::new("0.0.0.0/0".parse().unwrap(), None)]);
    }

    // Behaviour 93: a plugin that changes nothing answers what it was given, fields of later versions too.
    #[test]
    fn what_is_passed_on_loses_nothing() {
        for text in [
            r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],"ips":[{"version":"4","address":"10.0.0.2/8"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","priority":5}],"dns":{"domain":"a"}}"#,
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mtu":1400,"pciID":"0000:00:02.0"}],"ips":[{"address":"10.0.0.2/8","Next":{"a":[null]}}]}"#,
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400,"socketPath":"/s","newKey":1}],"ips":[{"address":"fd00::2/64","gateway":"fd00::1","preferred":true}],"routes":[{"dst":"::/0","table":7,"metric":"x"}],"dns":{"domain":"a","sortlist":["b"]},"later":{"Deep":1.5}}"#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            let version = Version::parse(value["cniVersion"].as_str().unwrap()).unwrap();
            let passed = Success::parse(text.as_bytes(), Version::V0_1_0).unwrap().to_json(version).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&passed).unwrap(), value);
        }
    }

    // The examples of the specification say no version in `prevResult`.
    #[test]
    fn a_result_without_a_version_is_of_its_configurations() {
        for said in ["", r#""cniVersion": "","#] {
            let text =
                format!(r#"{{{said} "interfaces": [{{"name": "eth0"}}], "ips": [{{"address": "10.0.0.2/8"}}]}}"#);
            let read = Success::parse(text.as_bytes(), Version::V1_0_0).unwrap();
            assert_eq!((read.interfaces.len(), read.ips.len()), (1, 1));
        }
        let ancient = Success::parse(br#"{"ip4": {"ip": "10.0.0.2/8"}}"#, Version::V0_2_0).unwrap();
        assert_eq!(ancient.ips.len(), 1);
    }

    // Behaviours 34, 38: the exact words.
    #[test]
    fn the_ancient_form_says_what_it_cannot_say() {
        let mut two = sample();
        two.ips.push(two.ips[0].clone());
        assert_eq!(
            two.to_json(Version::V0_2_0).unwrap_err().msg,
            "CNI version 0.2.0 does not support more than 1 address per family"
        );
        assert_eq!(
            Success::default().to_json(Version::V0_1_0).unwrap_err().msg,
            "cannot convert: no valid IP addresses"
        );
        assert!(Success::default().to_json(Version::V0_3_1).is_ok());
    }
}
