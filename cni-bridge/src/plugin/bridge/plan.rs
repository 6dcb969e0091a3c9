//! What an ADD will do, as values: nothing here touches the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnetwork::IpNetwork;

use super::addresses::Source;
use super::settings::Settings;
use super::{alias, host_name};
use crate::netlink::link::End;
use crate::netlink::route::{NewRoute, SCOPE_LINK};
use crate::netlink::{Link, Mac};
use crate::plugin::Call;
use crate::spec::{Attachment, Dns, Error, Interface, IpConfig, Route, Success};

/// The pod's interface in the result: after the bridge and the node's end.
const POD: usize = 2;

/// What is known before an address is given.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The network's name.
    pub network: String,
    /// Whose attachment it is.
    pub attachment: Attachment,
    /// The keys of the type.
    pub settings: Settings,
    /// Where addresses come from.
    pub source: Source,
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
        let (config, attachment) = (call.config, call.attachment());
        Ok(Plan {
            network: config.name.clone(),
            settings: Settings::read(config, &call.environment.args)?,
            source: Source::read(config)?,
            host_name: host_name(&config.name, &attachment),
            alias: alias(&config.name, &attachment),
            attachment,
            dns: config.dns()?,
        })
    }
}

/// What is known once addresses are given: everything.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// The node's end of the veth pair.
    pub host: End,
    /// The pod's end.
    pub pod: End,
    /// Whether the pod's MAC address follows from its IPv4 address, so that no neighbour can know a wrong one.
    pub mac_is_of_ip: bool,
    /// The gateway addresses the bridge is to have, or the interface that is the gateway of a VLAN.
    pub gateways: Vec<IpNetwork>,
    /// The pod's addresses.
    pub ips: Vec<IpConfig>,
    /// The pod's routes, as they go into the result.
    pub routes: Vec<Route>,
    /// The pod's routes, as they go to the kernel.
    pub kernel_routes: Vec<NewRoute>,
    /// The pod's name resolution.
    pub dns: Dns,
}

impl Wiring {
    /// Plans what to make for the addresses given.
    pub fn new(plan: &Plan, given: Success) -> Wiring {
        let settings = &plan.settings;
        let ips: Vec<_> = given.ips.into_iter().map(|ip| placed(ip, settings.is_gateway)).collect();
        let of_ip = ips.iter().find_map(|ip| match ip.address {
            IpNetwork::V4(v4) => Some(Mac::of_ip(v4.ip())),
            IpNetwork::V6(_) => None,
        });
        let routes = routes(given.routes, &ips, settings.is_default_gateway);
        let mut kernel_routes: Vec<NewRoute> = Vec::new();
        for route in routes.iter().map(|route| kernel_route(route, &ips)) {
            if !kernel_routes.contains(&route) {
                kernel_routes.push(route);
            }
        }
        let gateway = |ip: &IpConfig| IpNetwork::new(ip.gateway?, ip.address.prefix()).ok();
        Wiring {
            host: End { name: plan.host_name.clone(), mac: Mac::random() },
            pod: End { name: plan.attachment.ifname.clone(), mac: settings.mac.or(of_ip).unwrap_or_else(Mac::random) },
            mac_is_of_ip: settings.mac.is_none() && of_ip.is_some(),
            gateways: ips.iter().filter_map(gateway).filter(|_| settings.is_gateway).collect(),
            ips,
            routes,
            kernel_routes,
            dns: if plan.dns.is_empty() { given.dns } else { plan.dns.clone() },
        }
    }

    /// The result: the bridge, the node's end and the pod's, in this order, which chained plugins rely on; then the
    /// gateway of a VLAN, if there is one.
    pub fn success(&self, plan: &Plan, bridge: &Link, gateway: Option<&Link>, sandbox: &Path) -> Success {
        let mtu = plan.settings.mtu.unwrap_or_default();
        let end = |end: &End, sandbox: String| Interface {
            name: end.name.clone(),
            mac: end.mac.to_string(),
            mtu,
            sandbox,
            ..Interface::default()
        };
        let on_node = |link: &Link| Interface {
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: link.mtu,
            ..Interface::default()
        };
        let pod = end(&self.pod, sandbox.display().to_string());
        let mut interfaces = vec![on_node(bridge), end(&self.host, String::new()), pod];
        interfaces.extend(gateway.map(on_node));
        Success {
            interfaces,
            ips: self.ips.clone(),
            routes: self.routes.clone(),
            dns: self.dns.clone(),
            ..Success::default()
        }
    }
}

/// An address on the pod's interface. Where the IPAM names no gateway, the bridge is it, with the subnet's first
/// address.
fn placed(ip: IpConfig, is_gateway: bool) -> IpConfig {
    let own = is_gateway.then(|| first_of(ip.address)).flatten();
    IpConfig { gateway: ip.gateway.or(own), interface: Some(POD), ..ip }
}

fn first_of(address: IpNetwork) -> Option<IpAddr> {
    match address.network() {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
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

/// The routes given, and for `isDefaultGateway` a default route of each family that has none with a router.
fn routes(given: Vec<Route>, ips: &[IpConfig], is_default_gateway: bool) -> Vec<Route> {
    let mut routes = given;
    for gateway in ips.iter().filter(|_| is_default_gateway).filter_map(|ip| ip.gateway) {
        let default = default_of(gateway);
        if !routes.iter().any(|route| route.dst == default && route.gw.is_some()) {
            routes.push(Route::new(default, Some(gateway)));
        }
    }
    routes
}

/// A route without a router leads through the first gateway of its family, as in the reference.
fn kernel_route(route: &Route, ips: &[IpConfig]) -> NewRoute {
    let scope = route.scope.and_then(|scope| u8::try_from(scope).ok());
    let own = ips.iter().filter_map(|ip| ip.gateway).find(|gateway| gateway.is_ipv4() == route.dst.is_ipv4());
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
    use crate::spec::{CniArgs, Config, Environment, Verb, Version};

    fn plan(extra: &str) -> Plan {
        let text = format!(r#"{{"name": "net", "cniVersion": "1.0.0", "type": "bridge", {extra}}}"#);
        let environment = Environment {
            container_id: "abc".into(),
            ifname: "eth0".into(),
            args: CniArgs::default(),
            ..Environment::default()
        };
        let config = Config::parse(text.as_bytes()).unwrap();
        Plan::new(&Call { verb: Verb::Add, config: &config, environment: &environment, stdin: text.as_bytes() })
            .unwrap()
    }

    fn given(ips: &[(&str, Option<&str>)], routes: &[(&str, Option<&str>)]) -> Success {
        let ip = |(address, gateway): &(&str, Option<&str>)| {
            IpConfig::new(address.parse().unwrap(), gateway.map(|gateway| gateway.parse().unwrap()), None)
        };
        let route = |(dst, gw): &(&str, Option<&str>)| {
            Route::new(dst.parse().unwrap(), gw.map(|gateway| gateway.parse().unwrap()))
        };
        Success { ips: ips.iter().map(ip).collect(), routes: routes.iter().map(route).collect(), ..Success::default() }
    }

    fn dual() -> Success {
        given(
            &[("10.0.0.7/24", Some("10.0.0.1")), ("fd00::7/64", Some("fd00::1"))],
            &[("0.0.0.0/0", None), ("192.168.0.0/16", Some("10.0.0.9"))],
        )
    }

    const IPAM: &str = r#""ipam": {"type": "host-local"}"#;

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

    // What an IPAM may leave out, the bridge makes up for where it is the gateway.
    #[test]
    fn a_gateway_nobody_named_is_the_first_address_of_the_subnet() {
        let bare = given(&[("10.0.0.7/24", None), ("fd00::7/64", None)], &[]);
        let wiring = Wiring::new(&plan(&format!(r#""isDefaultGateway": true, {IPAM}"#)), bare.clone());
        let told: Vec<_> = wiring.ips.iter().map(|ip| ip.gateway.unwrap().to_string()).collect();
        assert_eq!((told, wiring.routes.len()), (vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()], 2));
        let wiring = Wiring::new(&plan(IPAM), bare);
        assert_eq!((wiring.ips[0].gateway, wiring.gateways.len()), (None, 0));
    }

    #[test]
    fn a_default_route_with_a_router_stays_the_only_one_of_its_family() {
        let told = given(&[("10.0.0.7/24", Some("10.0.0.1"))], &[("0.0.0.0/0", Some("10.0.0.254"))]);
        let wiring = Wiring::new(&plan(&format!(r#""isDefaultGateway": true, {IPAM}"#)), told);
        assert_eq!(wiring.routes.len(), 1);
    }

    #[test]
    fn a_pods_mac_follows_from_its_address_unless_asked_for() {
        let wiring = Wiring::new(&plan(IPAM), dual());
        assert_eq!((wiring.pod.mac.to_string().as_str(), wiring.mac_is_of_ip), ("0a:58:0a:00:00:07", true));
        let asked = plan(&format!(r#""runtimeConfig": {{"mac": "02:00:00:00:00:01"}}, {IPAM}"#));
        let wiring = Wiring::new(&asked, dual());
        assert_eq!((wiring.pod.mac.to_string().as_str(), wiring.mac_is_of_ip), ("02:00:00:00:00:01", false));
    }

    // Behaviour 43: a VLAN's gateway comes fourth.
    #[test]
    fn the_result_lists_bridge_host_pod_and_the_gateway_of_a_vlan_in_this_order() {
        let plan = plan(&format!(r#""mtu": 1450, "dns": {{"nameservers": ["192.0.2.1"]}}, {IPAM}"#));
        let bridge = Link { name: "cni0".into(), mac: Some(Mac([2, 0, 0, 0, 0, 1])), mtu: 1450, ..Link::default() };
        let gateway = Link { name: "cni0.100".into(), ..Link::default() };
        let wiring = Wiring::new(&plan, dual());
        let result = wiring.success(&plan, &bridge, Some(&gateway), Path::new("/proc/1/ns/net"));
        let names: Vec<_> = result.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["cni0", plan.host_name.as_str(), "eth0", "cni0.100"]);
        assert_eq!(result.interfaces[2].sandbox, "/proc/1/ns/net");
        assert_eq!(result.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(2), Some(2)]);
        assert!(result.to_json(Version::V1_1_0).unwrap().contains("192.0.2.1"));
        assert_eq!(wiring.success(&plan, &bridge, None, Path::new("/x")).interfaces.len(), 3);
    }
}
