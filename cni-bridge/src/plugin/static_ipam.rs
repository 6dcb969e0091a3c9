//! Type `static`: the addresses the configuration names, and no others. Nothing is leased, so nothing is kept.
//!
//! | source | what becomes of the addresses |
//! |---|---|
//! | `ipam.addresses` | each with its own gateway |
//! | `CNI_ARGS` `IP`, `GATEWAY` | added; a gateway is that of the added addresses in whose subnet it is |
//! | `args.cni.ips` | instead of all before |
//! | `runtimeConfig.ips` | instead of all before |

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Call, Type, chain};
use crate::spec::json::Node;
use crate::spec::result::read_routes;
use crate::spec::{Config, Dns, Error, IpConfig, Success, Version, code};

/// The type.
pub static TYPE: Type = Type { name: "static", oldest: Version::V0_1_0, add, del, check, gc, status };

fn add(call: &Call<'_>) -> Result<Success, Error> {
    let ipam = ipam(call.config)?;
    let (ips, routes) = (addresses(call)?, read_routes(&ipam.get("routes"))?);
    Ok(Success { ips, routes, dns: Dns::read(&ipam.get("dns"))?, ..Success::default() })
}

/// There is nothing to give back.
fn del(_call: &Call<'_>) -> Result<(), Error> {
    Ok(())
}

/// What `prevResult` has of the addresses has their gateways.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let wanted = addresses(call)?;
    let told = chain::previous(call, "Required prevResult missing")?;
    let same = |a: &IpConfig, b: &IpConfig| a.address.ip() == b.address.ip();
    let differs = |wanted: &&IpConfig| {
        let gateway = |told: &IpConfig| wanted.gateway.is_none() || wanted.gateway == told.gateway;
        let mut told = told.ips.iter().filter(|told| same(wanted, told)).peekable();
        told.peek().is_some() && !told.any(gateway)
    };
    match wanted.iter().find(differs) {
        None => Ok(()),
        Some(ip) => {
            let (ip, ifname) = (ip.address.ip(), &call.environment.ifname);
            let msg = format!("static: Failed to match addr {ip} on interface {ifname}");
            Err(Error::new(code::CHECK_FAILED, msg))
        }
    }
}

/// Nothing is kept of any attachment.
fn gc(_call: &Call<'_>) -> Result<(), Error> {
    Ok(())
}

/// An ADD could be served when the configuration can.
fn status(call: &Call<'_>) -> Result<(), Error> {
    let ipam = ipam(call.config)?;
    read_routes(&ipam.get("routes"))?;
    addresses(call).map(drop)
}

fn ipam(config: &Config) -> Result<Node<'_>, Error> {
    let ipam = config.root().get("ipam");
    if ipam.exists() { Ok(ipam) } else { Err(Error::config("IPAM config missing 'ipam' key")) }
}

/// An address with its prefix length.
fn cidr(text: &str) -> Option<IpNetwork> {
    text.contains('/').then(|| text.parse().ok()).flatten()
}

fn addresses(call: &Call<'_>) -> Result<Vec<IpConfig>, Error> {
    let mut ips = configured(call.config)?;
    ips.extend(from_args(call)?);
    for source in ["args", "runtimeConfig"] {
        let source = call.config.root().get(source);
        let source = if source.path() == "args" { source.get("cni") } else { source };
        let asked = source.get("ips").texts()?;
        if !asked.is_empty() {
            ips = asked.iter().map(|text| asked_for(text)).collect::<Result<_, _>>()?;
        }
    }
    let of_family = |v4: bool| ips.iter().filter(|ip| ip.address.is_ipv4() == v4).count();
    let version = call.config.version;
    if version < Version::V0_3_0 && of_family(true).max(of_family(false)) > 1 {
        return Err(Error::config(format!("CNI version {version} does not support more than 1 address per family")));
    }
    Ok(ips)
}

fn configured(config: &Config) -> Result<Vec<IpConfig>, Error> {
    let read = |node: &Node<'_>| {
        let text = node.get("address").text()?.unwrap_or_default();
        let refused = || {
            let msg = format!("the 'address' field is expected to be in CIDR notation, got: '{text}'");
            Error::config(msg).with_details(format!("see {}.address", node.path()))
        };
        let gateway: Option<IpAddr> = node.get("gateway").parsed("an address")?;
        Ok(IpConfig::new(cidr(text).ok_or_else(refused)?, gateway, None))
    };
    ipam(config)?.get("addresses").items()?.iter().map(read).collect()
}

fn asked_for(text: &str) -> Result<IpConfig, Error> {
    let refused = || Error::config(format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{text}'"));
    Ok(IpConfig::new(cidr(text).ok_or_else(refused)?, None, None))
}

fn from_args(call: &Call<'_>) -> Result<Vec<IpConfig>, Error> {
    let args = &call.environment.args;
    let refused = |msg: String| Error::new(code::INVALID_ENVIRONMENT, msg);
    let list = |text: &Option<String>| -> Vec<String> {
        text.iter().flat_map(|text| text.split(',')).map(|item| item.trim().to_owned()).collect()
    };
    let mut ips = Vec::new();
    for text in list(&args.ip) {
        let refused = || refused(format!("the 'ip' field is expected to be in CIDR notation, got: '{text}'"));
        ips.push(IpConfig::new(cidr(&text).ok_or_else(refused)?, None, None));
    }
    for text in list(&args.gateway) {
        let gateway: IpAddr = text.parse().map_err(|_| refused(format!("invalid gateway address: {text}")))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(ips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{CniArgs, Environment, Verb};

    fn serve(verb: Verb, config: &str, args: &str) -> Result<String, Error> {
        let environment = Environment {
            container_id: "a".into(),
            ifname: "eth0".into(),
            args: CniArgs::parse(args)?,
            ..Environment::default()
        };
        let config = Config::parse(config.as_bytes())?;
        let call = Call { verb, config: &config, environment: &environment, stdin: b"" };
        TYPE.serve(&call).map(Option::unwrap_or_default)
    }

    fn add(extra: &str, args: &str) -> Result<String, Error> {
        serve(Verb::Add, &format!(r#"{{"name": "n", "cniVersion": "1.0.0", "type": "bridge", {extra}}}"#), args)
    }

    const IPAM: &str = r#""ipam": {"type": "static", "addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"},
        {"address": "3ffe:ffff:0:1ff::1/64", "gateway": "3ffe:ffff:0::1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.5.1"}],
        "dns": {"nameservers": ["8.8.8.8"], "search": ["example.com"]}}"#;

    #[test]
    fn what_is_configured_is_answered() {
        let answer = add(IPAM, "").unwrap();
        assert_eq!(
            answer,
            r#"{"cniVersion":"1.0.0","ips":[{"address":"10.10.0.1/24","gateway":"10.10.0.254"},{"address":"3ffe:ffff:0:1ff::1/64","gateway":"3ffe:ffff::1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"192.168.0.0/16","gw":"10.10.5.1"}],"dns":{"nameservers":["8.8.8.8"],"search":["example.com"]}}"#
        );
    }

    #[test]
    fn cni_args_add_addresses_and_their_gateways() {
        let answer = add(r#""ipam": {"type": "static"}"#, "IP=10.10.0.1/24, 11.11.0.1/24;GATEWAY=10.10.0.254").unwrap();
        let ips = r#"[{"address":"10.10.0.1/24","gateway":"10.10.0.254"},{"address":"11.11.0.1/24"}]"#;
        assert_eq!(answer, format!(r#"{{"cniVersion":"1.0.0","ips":{ips}}}"#));
        let refused = |args: &str| add(r#""ipam": {"type": "static"}"#, args).unwrap_err().msg;
        assert_eq!(refused("IP=10.10.0.1"), "the 'ip' field is expected to be in CIDR notation, got: '10.10.0.1'");
        assert_eq!(refused("IP=10.10.0.1/24;GATEWAY=x"), "invalid gateway address: x");
    }

    // Behaviours 48, 82, 83 for `static`.
    #[test]
    fn the_runtimes_addresses_replace_all_others() {
        let with = |extra: &str| add(&format!("{extra}, {IPAM}"), "").unwrap();
        let args = r#""args": {"cni": {"ips": ["10.10.0.2/24"]}}"#;
        assert!(with(args).contains(r#""ips":[{"address":"10.10.0.2/24"}]"#));
        let runtime = r#""runtimeConfig": {"IPs": ["10.10.0.3/24", "fd00::3/64"]}"#;
        let both = with(&format!("{args}, {runtime}"));
        assert!(both.contains(r#""ips":[{"address":"10.10.0.3/24"},{"address":"fd00::3/64"}]"#), "{both}");
        let refused = add(&format!(r#""runtimeConfig": {{"ips": ["10.10.0.3"]}}, {IPAM}"#), "").unwrap_err();
        assert_eq!(refused.msg, "an entry in the 'ips' field is NOT in CIDR notation, got: '10.10.0.3'");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let bad = r#""ipam": {"type": "static", "addresses": [{"address": "10.10.0.1"}]}"#;
        let refused = add(bad, "").unwrap_err();
        assert_eq!(refused.msg, "the 'address' field is expected to be in CIDR notation, got: '10.10.0.1'");
        assert_eq!(add(r#""a": 1"#, "").unwrap_err().msg, "IPAM config missing 'ipam' key");
        let two = r#"{"name": "n", "cniVersion": "0.2.0", "ipam": {"addresses": [{"address": "10.0.0.1/8"}, {"address": "11.0.0.1/8"}]}}"#;
        let refused = serve(Verb::Add, two, "").unwrap_err();
        assert_eq!(refused.msg, "CNI version 0.2.0 does not support more than 1 address per family");
    }

    #[test]
    fn check_compares_gateways_and_the_other_verbs_have_nothing_to_do() {
        let with = |verb, result: &str| {
            serve(verb, &format!(r#"{{"name": "n", "cniVersion": "1.1.0", {IPAM}, "prevResult": {result}}}"#), "")
        };
        let right = r#"{"cniVersion": "1.1.0", "ips": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}]}"#;
        assert!(with(Verb::Check, right).is_ok());
        let refused = with(Verb::Check, &right.replace("254", "253")).unwrap_err();
        assert_eq!(refused.msg, "static: Failed to match addr 10.10.0.1 on interface eth0");
        assert_eq!(with(Verb::Check, "null").unwrap_err().msg, "Required prevResult missing");
        for verb in [Verb::Del, Verb::Gc, Verb::Status] {
            assert_eq!(with(verb, right).unwrap(), "");
        }
    }
}
