//! What an ADD will do, as values: nothing here touches the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnetwork::IpNetwork;

use super::settings::Settings;
use super::{alias, host_name};
use crate::ipam::{self, Lease};
use crate::netlink::link::End;
use crate::netlink::route::{NewRoute, SCOPE_LINK};
use crate::netlink::{Link, Mac};
use crate::plugin::Call;
use crate::spec::{Attachment, Dns, Error, Interface, IpConfig, Route, Success};

/// What is known before an address is leased.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The network's name.
    pub network: String,
    /// Whose attachment it is.
    pub attachment: Attachment,
    /// The keys of the type.
    pub settings: Settings,
    /// The addresses asked for; none = a network without addresses.
    pub ipam: Option<ipam::Config>,
    /// Where the leases are.
    pub store: ipam::Store,
    /// The name of the node's end.
    pub host_name: String,
    /// The alias of the node's end.
    pub alias: Option<String>,
    /// `dns` of the network, over what the IPAM says.
    pub dns: Dns,
}

impl Plan {
    /// Plans an ADD.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(call: &Call<'_>) -> Result<Plan, Error> {
        let (config, environment, attachment) = (call.config, call.environment, call.attachment());
        let settings = Settings::read(config, &environment.args)?;
        let ipam = ipam::Config::read(config, &environment.args)?;
        let mut dns = config.dns()?;
        if let Some(path) = ipam.as_ref().and_then(|ipam| ipam.resolv_conf.as_ref()).filter(|_| dns.is_empty()) {
            dns = ipam::resolv_conf::read(path)?;
        }
        Ok(Plan {
            network: config.name.clone(),
            settings,
            ipam,
            store: ipam::config::store(config)?,
            host_name: host_name(&config.name, &attachment),
            alias: alias(&config.name, &attachment),
            attachment,
            dns,
        })
    }
}

/// What is known once addresses are leased: everything.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// The node's end of the veth pair.
    pub host: End,
    /// The pod's end.
    pub pod: End,
    /// The bridge's MAC address, should it have to be made.
    pub bridge_mac: Mac,
    /// The gateway addresses the bridge is to have.
    pub gateways: Vec<IpNetwork>,
    /// The pod's addresses.
    pub addresses: Vec<IpNetwork>,
    /// The pod's routes, as they go into the result.
    pub routes: Vec<Route>,
    /// The pod's routes, as they go to the kernel.
    pub kernel_routes: Vec<NewRoute>,
    leases: Vec<Lease>,
}

impl Wiring {
    /// Plans what to make for the addresses leased.
    pub fn new(plan: &Plan, leases: Vec<Lease>) -> Wiring {
        let settings = &plan.settings;
        let first_v4 = leases.iter().find_map(|lease| match lease.address {
            IpNetwork::V4(v4) => Some(v4.ip()),
            IpNetwork::V6(_) => None,
        });
        let mac = settings.mac.unwrap_or_else(|| first_v4.map_or_else(Mac::random, Mac::of_ip));
        let routes = routes(plan, &leases);
        let kernel_routes =
            routes.iter().map(|route| kernel_route(route, &leases)).fold(Vec::new(), |mut all, route| {
                if !all.contains(&route) {
                    all.push(route);
                }
                all
            });
        let gateway = |lease: &Lease| IpNetwork::new(lease.gateway, lease.subnet.prefix()).ok();
        Wiring {
            host: End { name: plan.host_name.clone(), mac: Mac::random() },
            pod: End { name: plan.attachment.ifname.clone(), mac },
            bridge_mac: Mac::random(),
            gateways: leases.iter().filter_map(gateway).filter(|_| settings.is_gateway).collect(),
            addresses: leases.iter().map(|lease| lease.address).collect(),
            routes,
            kernel_routes,
            leases,
        }
    }

    /// The result: the bridge, the node's end and the pod's, in this order, which chained plugins rely on.
    pub fn success(&self, plan: &Plan, bridge: &Link, sandbox: &Path) -> Success {
        let mtu = plan.settings.mtu.unwrap_or_default();
        let end = |end: &End, sandbox: String| Interface {
            name: end.name.clone(),
            mac: end.mac.to_string(),
            mtu,
            sandbox,
            ..Interface::default()
        };
        let bridge = Interface {
            name: bridge.name.clone(),
            mac: bridge.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: bridge.mtu,
            ..Interface::default()
        };
        let ip = |lease: &Lease| IpConfig::new(lease.address, Some(lease.gateway), Some(2));
        Success {
            interfaces: vec![bridge, end(&self.host, String::new()), end(&self.pod, sandbox.display().to_string())],
            ips: self.leases.iter().map(ip).collect(),
            routes: self.routes.clone(),
            dns: plan.dns.clone(),
            ..Success::default()
        }
    }
}

fn default_of(family: IpAddr) -> IpNetwork {
    let any: IpAddr = match family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A prefix length of 0 is always valid.
    IpNetwork::new(any, 0).unwrap_or(IpNetwork::from(any))
}

/// The configured routes, and for `isDefaultGateway` a default route of each family that has none with a router.
fn routes(plan: &Plan, leases: &[Lease]) -> Vec<Route> {
    let mut routes = plan.ipam.as_ref().map(|ipam| ipam.routes.clone()).unwrap_or_default();
    for lease in leases.iter().filter(|_| plan.settings.is_default_gateway) {
        let default = default_of(lease.gateway);
        if !routes.iter().any(|route| route.dst == default && route.gw.is_some()) {
            routes.push(Route::new(default, Some(lease.gateway)));
        }
    }
    routes
}

/// A route without a router leads through the gateway of its family's first address, as in the reference.
fn kernel_route(route: &Route, leases: &[Lease]) -> NewRoute {
    let scope = route.scope.and_then(|scope| u8::try_from(scope).ok());
    let own = leases.iter().find(|lease| lease.gateway.is_ipv4() == route.dst.is_ipv4()).map(|lease| lease.gateway);
    NewRoute {
        dst: route.dst,
        gateway: route.gw.or(own).filter(|_| scope.is_none_or(|scope| scope < SCOPE_LINK)),
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
        scope,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{CniArgs, Version};
    use crate::spec::{Config, Environment, Verb};

    fn plan(extra: &str) -> Plan {
        let text = format!(r#"{{"name": "net", "cniVersion": "1.0.0", "type": "bridge", {extra}}}"#);
        let environment = Environment {
            container_id: "abc".into(),
            ifname: "eth0".into(),
            args: CniArgs::default(),
            ..Environment::default()
        };
        let config = Config::parse(text.as_bytes()).unwrap();
        Plan::new(&Call { verb: Verb::Add, config: &config, environment: &environment, stdin: &[] }).unwrap()
    }

    fn lease(address: &str, subnet: &str, gateway: &str) -> Lease {
        Lease { address: address.parse().unwrap(), subnet: subnet.parse().unwrap(), gateway: gateway.parse().unwrap() }
    }

    fn dual() -> Vec<Lease> {
        vec![lease("10.0.0.7/24", "10.0.0.0/24", "10.0.0.1"), lease("fd00::7/64", "fd00::/64", "fd00::1")]
    }

    const IPAM: &str = r#""ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.0.0.9"}]}"#;

    // Behaviours 29, 35, 76.
    #[test]
    fn routes_without_a_router_lead_through_the_gateway() {
        let wiring = Wiring::new(&plan(&format!(r#""isDefaultGateway": true, {IPAM}"#)), dual());
        let routes: Vec<_> =
            wiring.kernel_routes.iter().map(|r| (r.dst.to_string(), r.gateway.unwrap().to_string())).collect();
        let expected = [("0.0.0.0/0", "10.0.0.1"), ("192.168.0.0/16", "10.0.0.9"), ("::/0", "fd00::1")];
        assert_eq!(routes, expected.map(|(dst, gateway)| (dst.to_owned(), gateway.to_owned())), "each once");
        assert_eq!(wiring.gateways, ["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse::<IpNetwork>().unwrap()]);
    }

    #[test]
    fn without_is_gateway_the_bridge_gets_no_address() {
        let wiring = Wiring::new(&plan(IPAM), dual());
        assert_eq!(wiring.gateways, []);
        assert_eq!(wiring.routes.len(), 2);
    }

    #[test]
    fn a_pods_mac_follows_from_its_address_unless_asked_for() {
        assert_eq!(Wiring::new(&plan(IPAM), dual()).pod.mac.to_string(), "0a:58:0a:00:00:07");
        let asked = plan(&format!(r#""runtimeConfig": {{"mac": "02:00:00:00:00:01"}}, {IPAM}"#));
        assert_eq!(Wiring::new(&asked, dual()).pod.mac.to_string(), "02:00:00:00:00:01");
    }

    #[test]
    fn the_result_lists_bridge_host_and_pod_in_this_order() {
        let plan = plan(&format!(r#""mtu": 1450, "dns": {{"nameservers": ["192.0.2.1"]}}, {IPAM}"#));
        let bridge = Link { name: "cni0".into(), mac: Some(Mac([2, 0, 0, 0, 0, 1])), mtu: 1450, ..Link::default() };
        let result = Wiring::new(&plan, dual()).success(&plan, &bridge, Path::new("/proc/1/ns/net"));
        let names: Vec<_> = result.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["cni0", plan.host_name.as_str(), "eth0"]);
        assert_eq!(result.interfaces[2].sandbox, "/proc/1/ns/net");
        assert_eq!(result.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(2), Some(2)]);
        assert!(result.to_json(Version::V1_1_0).unwrap().contains("192.0.2.1"));
    }
}
