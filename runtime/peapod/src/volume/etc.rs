//! The pod's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`: their text.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use crate::manifest::{Dns, DnsPolicy, Pod};

/// What every `/etc/hosts` begins with (hosts(5); RFC 4291 for the multicast groups).
const LOCAL: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// `/etc/hosts`: the pod's addresses and `hostAliases`, or the node's own file for a pod in its network.
pub(super) fn hosts(pod: &Pod, addresses: &[IpAddr], of_node: &str) -> String {
    let mut text = match pod.host_network {
        true => format!("{}\n", of_node.trim_end()),
        false => format!("# Written by peapod for the pod {}.\n{LOCAL}", pod.name),
    };
    if !pod.host_network {
        for address in addresses {
            let _ = writeln!(text, "{address}\t{}", pod.hostname);
        }
    }
    for alias in &pod.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
    }
    text
}

/// `/etc/resolv.conf`: the node's settings, or none, and `dnsConfig` over them.
pub(super) fn resolv_conf(dns: &Dns, of_node: &str) -> String {
    let base = if dns.policy == DnsPolicy::None { Resolver::default() } else { Resolver::read(of_node) };
    let mut servers = base.servers;
    servers.extend(dns.nameservers.iter().map(IpAddr::to_string));
    let mut searches = base.searches;
    searches.extend(dns.searches.iter().cloned());
    let given: BTreeSet<&str> = dns.options.iter().map(|option| option.name.as_str()).collect();
    let mut options = base.options;
    options.retain(|option| !given.contains(option.split(':').next().unwrap_or_default()));
    options.extend(dns.options.iter().map(|option| match &option.value {
        Some(value) => format!("{}:{value}", option.name),
        None => option.name.clone(),
    }));
    let mut text = String::new();
    for server in unique(servers) {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (word, list) in [("search", unique(searches)), ("options", options)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{word} {}", list.join(" "));
        }
    }
    text
}

/// Whether a `resolv.conf` names only servers on the loopback, where a pod finds its own and not the node's.
pub(super) fn only_loopback(text: &str) -> bool {
    let servers = Resolver::read(text).servers;
    let loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    !servers.is_empty() && servers.iter().all(loopback)
}

/// A `resolv.conf`, as resolv.conf(5) reads it.
#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn read(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let rest = words.map(str::to_owned);
            match keyword {
                "nameserver" => resolver.servers.extend(rest.take(1)),
                // The last one counts.
                "search" | "domain" => resolver.searches = rest.collect(),
                "options" => resolver.options.extend(rest),
                _ => {}
            }
        }
        resolver
    }
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    fn pod(spec: &str) -> Pod {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{containers: [{{name: c, image: i}}], {spec}}}}}"
        );
        manifest::parse("test", &text).unwrap_or_else(|error| panic!("{error}")).remove(0)
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod_ = pod("hostname: front, hostAliases: [{ip: 10.0.0.3, hostnames: [db, db.local]}]");
        let text = hosts(&pod_, &["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()], "1.2.3.4 node\n");
        assert!(text.contains("127.0.0.1\tlocalhost\n") && !text.contains("1.2.3.4"), "{text}");
        assert!(text.ends_with("10.244.1.2\tfront\nfd00::2\tfront\n10.0.0.3\tdb\tdb.local\n"), "{text}");
        let text =
            hosts(&pod("hostNetwork: true, hostAliases: [{ip: 10.0.0.3, hostnames: [db]}]"), &[], "1.2.3.4 node");
        assert_eq!(text, "1.2.3.4 node\n10.0.0.3\tdb\n");
    }

    #[test]
    fn the_resolver_is_the_nodes_with_the_pods_settings_over_it() {
        let node = "# comment\ndomain old\nnameserver 10.0.0.1\nsearch lan  home\noptions ndots:1 edns0\n";
        assert_eq!(
            resolv_conf(&pod("dnsPolicy: Default").dns, node),
            "nameserver 10.0.0.1\nsearch lan home\noptions ndots:1 edns0\n"
        );
        let config = "dnsConfig: {nameservers: [10.0.0.2, 10.0.0.1], searches: [a, lan], options: [{name: ndots, value: \"5\"}]}";
        assert_eq!(
            resolv_conf(&pod(config).dns, node),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch lan home a\noptions edns0 ndots:5\n"
        );
        assert_eq!(
            resolv_conf(&pod(&format!("dnsPolicy: None, {config}")).dns, node),
            "nameserver 10.0.0.2\nnameserver 10.0.0.1\nsearch a lan\noptions ndots:5\n"
        );
    }

    #[test]
    fn a_resolver_on_the_loopback_is_recognised() {
        assert!(only_loopback("nameserver 127.0.0.53\n"));
        assert!(!only_loopback("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"));
        assert!(!only_loopback(""));
    }
}
