//! The pod itself: `metadata` and `spec`.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1;

use super::{Problems, container, volume};
use crate::manifest::{Container, Dns, DnsOption, DnsPolicy, HostAlias, Pod, Protocol, RestartPolicy, Security, names};

const RESTART_POLICIES: &[(&str, RestartPolicy)] =
    &[("Always", RestartPolicy::Always), ("OnFailure", RestartPolicy::OnFailure), ("Never", RestartPolicy::Never)];

const DNS_POLICIES: &[(&str, DnsPolicy)] = &[
    ("ClusterFirst", DnsPolicy::Default),
    ("ClusterFirstWithHostNet", DnsPolicy::Default),
    ("Default", DnsPolicy::Default),
    ("None", DnsPolicy::None),
];

/// How long SIGTERM has when the manifest does not say.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// A pod, or nothing when there is no `spec`.
pub(super) fn convert(manifest: v1::Pod, problems: &mut Problems) -> Option<Pod> {
    let meta = manifest.metadata.clone();
    let Some(spec) = manifest.spec.clone() else {
        problems.add("spec", "missing; a pod needs at least spec.containers");
        return None;
    };
    let name = meta.name.unwrap_or_default();
    match name.as_str() {
        "" => problems.add("metadata.name", "missing; every pod needs a name"),
        name => problems.check("metadata.name", names::subdomain(name)),
    }
    let namespace = meta.namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    problems.check("metadata.namespace", names::label(&namespace));
    namespaces(&spec, problems);

    let context = spec.security_context.clone().unwrap_or_default();
    let inherited = inherited(&context, problems);
    let volumes = volume::volumes(spec.volumes.as_deref().unwrap_or_default(), problems);
    let mut containers = |field: &str, list: &[v1::Container]| -> Vec<Container> {
        let at = |index| container::At { path: format!("spec.{field}[{index}]"), volumes: &volumes, pod: &inherited };
        list.iter().enumerate().map(|(index, one)| container::convert(&at(index), one, problems)).collect()
    };
    let init_containers = containers("initContainers", spec.init_containers.as_deref().unwrap_or_default());
    let containers = containers("containers", &spec.containers);
    let pod = Pod {
        hostname: hostname(spec.hostname.as_deref(), &name, problems),
        name,
        namespace,
        labels: meta.labels.unwrap_or_default(),
        annotations: meta.annotations.unwrap_or_default(),
        restart_policy: problems.word("spec.restartPolicy", spec.restart_policy.as_deref(), RESTART_POLICIES),
        termination_grace: grace(spec.termination_grace_period_seconds, problems),
        host_network: spec.host_network.unwrap_or_default(),
        host_pid: spec.host_pid.unwrap_or_default(),
        host_ipc: spec.host_ipc.unwrap_or_default(),
        share_process_namespace: spec.share_process_namespace.unwrap_or_default(),
        dns: dns(&spec, problems),
        host_aliases: host_aliases(spec.host_aliases.as_deref().unwrap_or_default(), problems),
        fs_group: problems.id("spec.securityContext.fsGroup", context.fs_group),
        volumes,
        init_containers,
        containers,
        manifest,
    };
    together(&pod, problems);
    Some(pod)
}

/// `spec.hostname`, else the pod's name as far as it fits into a host name (63 characters).
fn hostname(given: Option<&str>, name: &str, problems: &mut Problems) -> String {
    match given.filter(|name| !name.is_empty()) {
        Some(given) => {
            problems.check("spec.hostname", names::label(given));
            given.to_owned()
        }
        None => name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
    }
}

fn grace(seconds: Option<i64>, problems: &mut Problems) -> Duration {
    let Some(seconds) = seconds else { return DEFAULT_GRACE };
    let path = "spec.terminationGracePeriodSeconds";
    let seconds = u64::try_from(seconds).map_err(|_| format!("{seconds} is negative"));
    problems.take(path, seconds).map_or(DEFAULT_GRACE, Duration::from_secs)
}

fn namespaces(spec: &v1::PodSpec, problems: &mut Problems) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        problems.add("spec.shareProcessNamespace", "cannot be true together with hostPID");
    }
}

/// What the containers take from the pod's securityContext.
fn inherited(context: &v1::PodSecurityContext, problems: &mut Problems) -> Security {
    let path = "spec.securityContext";
    let groups = context.supplemental_groups.iter().flatten().copied().chain(context.fs_group);
    Security {
        run_as_user: problems.id(&format!("{path}.runAsUser"), context.run_as_user),
        run_as_group: problems.id(&format!("{path}.runAsGroup"), context.run_as_group),
        run_as_non_root: context.run_as_non_root.unwrap_or_default(),
        supplemental_groups: groups
            .filter_map(|group| problems.id(&format!("{path}.supplementalGroups"), Some(group)))
            .collect(),
        ..Security::default()
    }
}

fn dns(spec: &v1::PodSpec, problems: &mut Problems) -> Dns {
    let policy = problems.word("spec.dnsPolicy", spec.dns_policy.as_deref(), DNS_POLICIES);
    let config = spec.dns_config.clone().unwrap_or_default();
    let nameservers: Vec<IpAddr> = config
        .nameservers
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, text)| problems.take(&format!("spec.dnsConfig.nameservers[{index}]"), address(text)))
        .collect();
    if policy == DnsPolicy::None && nameservers.is_empty() {
        problems.add("spec.dnsConfig.nameservers", "missing; dnsPolicy None needs at least one");
    }
    let options = config.options.into_iter().flatten().enumerate().filter_map(|(index, option)| match option.name {
        Some(name) if is_word(&name) => Some(DnsOption { name, value: option.value }),
        _ => {
            problems.add(format!("spec.dnsConfig.options[{index}].name"), "missing");
            None
        }
    });
    let options = options.collect();
    let searches = config.searches.unwrap_or_default();
    for (index, _) in searches.iter().enumerate().filter(|(_, search)| !is_word(search)) {
        problems.add(format!("spec.dnsConfig.searches[{index}]"), "is not a domain");
    }
    Dns { policy, nameservers, searches, options }
}

/// Nothing that would begin another word or line of the file it is written to.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

fn host_aliases(aliases: &[v1::HostAlias], problems: &mut Problems) -> Vec<HostAlias> {
    let mut read = Vec::new();
    for (index, alias) in aliases.iter().enumerate() {
        let path = format!("spec.hostAliases[{index}]");
        let hostnames = alias.hostnames.clone().unwrap_or_default();
        for (index, name) in hostnames.iter().enumerate() {
            problems.check(&format!("{path}.hostnames[{index}]"), names::subdomain(name));
        }
        if let Some(ip) = problems.take(&format!("{path}.ip"), address(&alias.ip)) {
            read.push(HostAlias { ip, hostnames });
        }
    }
    read
}

/// An IP address in text.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// What can only be seen over all containers: names and ports.
fn together(pod: &Pod, problems: &mut Problems) {
    if pod.containers.is_empty() {
        problems.add("spec.containers", "empty; a pod needs at least one container");
    }
    let lists = [("initContainers", &pod.init_containers), ("containers", &pod.containers)];
    let all = lists.iter().flat_map(|(field, list)| {
        list.iter().enumerate().map(move |(index, one)| (format!("spec.{field}[{index}].name"), one.name.clone()))
    });
    problems.unique(all.filter(|(_, name)| !name.is_empty()), |name| format!("a container is named {name:?} already"));

    // Init containers have ended when the containers run, so only the latter can be in each other's way.
    let ports = || {
        pod.containers.iter().enumerate().flat_map(|(container, one)| {
            let path = move |port: usize| format!("spec.containers[{container}].ports[{port}]");
            one.ports.iter().enumerate().map(move |(index, port)| (path(index), port))
        })
    };
    problems.unique(
        ports().map(|(path, port)| (format!("{path}.containerPort"), (port.container_port, port.protocol))),
        |(port, protocol)| format!("{port}/{} is taken already: the containers share one address", protocol.as_str()),
    );
    problems.unique(ports().filter_map(|(path, port)| Some((format!("{path}.name"), port.name.clone()?))), |name| {
        format!("a port is named {name:?} already")
    });
    host_ports(pod, ports().filter_map(|(path, port)| Some((path, HostPort::of(port)?))), problems);
}

/// A port wanted on the node. Two are in each other's way unless they are on different addresses.
struct HostPort {
    port: u16,
    container_port: u16,
    protocol: Protocol,
    ip: Option<IpAddr>,
}

impl HostPort {
    fn of(port: &crate::manifest::Port) -> Option<HostPort> {
        Some(HostPort {
            port: port.host_port?,
            container_port: port.container_port,
            protocol: port.protocol,
            ip: port.host_ip.filter(|ip| !ip.is_unspecified()),
        })
    }
}

impl PartialEq for HostPort {
    fn eq(&self, other: &HostPort) -> bool {
        let apart = matches!((self.ip, other.ip), (Some(one), Some(two)) if one != two);
        (self.port, self.protocol) == (other.port, other.protocol) && !apart
    }
}

fn host_ports(pod: &Pod, ports: impl Iterator<Item = (String, HostPort)>, problems: &mut Problems) {
    let ports: Vec<_> = ports.map(|(path, port)| (format!("{path}.hostPort"), port)).collect();
    if pod.host_network {
        for (path, port) in ports.iter().filter(|(_, port)| port.port != port.container_port) {
            let reason = format!("has to equal containerPort {} when hostNetwork is true", port.container_port);
            problems.add(path.clone(), reason);
        }
    }
    problems
        .unique(ports, |port| format!("port {}/{} of the node is taken already", port.port, port.protocol.as_str()));
}
