//! The forms on the wire, one for each group of versions.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Dns, Interface, Route, Success};
use crate::spec::error::{Error, code};
use crate::spec::version::Version;

/// Structures and not maps, for a fixed order of keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Modern<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<ModernIp<'a>>,
    #[serde(skip_serializing_if = "<[Route]>::is_empty")]
    routes: &'a [Route],
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct ModernIp<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ancient<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<AncientIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<AncientIp>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct AncientIp {
    ip: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl Success {
    /// The result as `version` writes it, on one line.
    ///
    /// # Errors
    /// [`code::INTERNAL`] when 0.1.0 or 0.2.0 cannot say it: no address, or two of a family.
    pub fn to_json(&self, version: Version) -> Result<String, Error> {
        let text = if version < Version::V0_3_0 {
            serde_json::to_string(&self.ancient(version)?)
        } else {
            serde_json::to_string(&self.modern(version))
        };
        text.map_err(|error| Error::new(code::INTERNAL, format!("cannot write the result: {error}")))
    }

    fn modern(&self, version: Version) -> Modern<'_> {
        Modern {
            cni_version: version.name(),
            interfaces: self.interfaces.iter().map(|interface| interface.of_version(version)).collect(),
            ips: self
                .ips
                .iter()
                .map(|ip| ModernIp {
                    version: (version < Version::V1_0_0).then_some(if ip.address.is_ipv4() { "4" } else { "6" }),
                    interface: ip.interface,
                    address: ip.address,
                    gateway: ip.gateway,
                    extra: &ip.extra,
                })
                .collect(),
            routes: &self.routes,
            dns: (version < Version::V1_0_0 || !self.dns.is_empty()).then_some(&self.dns),
            extra: &self.extra,
        }
    }

    fn ancient(&self, version: Version) -> Result<Ancient<'_>, Error> {
        let refuse = |msg: String| Error::new(code::INTERNAL, msg);
        let family = |v4: bool| {
            let mut ips = self.ips.iter().filter(|ip| ip.address.is_ipv4() == v4);
            let first = ips.next();
            if ips.next().is_some() {
                return Err(refuse(format!("CNI version {version} does not support more than 1 address per family")));
            }
            Ok(first.map(|ip| AncientIp {
                ip: ip.address,
                gateway: ip.gateway,
                routes: self.routes.iter().filter(|route| route.dst.is_ipv4() == v4).map(Route::plain).collect(),
            }))
        };
        let (ip4, ip6) = (family(true)?, family(false)?);
        if ip4.is_none() && ip6.is_none() {
            return Err(refuse("cannot convert: no valid IP addresses".into()));
        }
        Ok(Ancient { cni_version: version.name(), ip4, ip6, dns: &self.dns })
    }
}
