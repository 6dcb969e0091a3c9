//! One container: `spec.containers[]` and `spec.initContainers[]`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod::address;
use super::{Problems, volume};
use crate::container::capability;
use crate::image::Reference;
use crate::manifest::{
    Capabilities, Container, Port, Propagation, Protocol, Resources, Security, Volume, names, quantity,
};

const PROTOCOLS: &[(&str, Protocol)] = &[("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// Where a container stands, and what it takes from its pod.
pub(super) struct At<'a> {
    pub(super) path: String,
    pub(super) volumes: &'a [Volume],
    pub(super) pod: &'a Security,
}

/// One container.
pub(super) fn convert(at: &At<'_>, container: &v1::Container, problems: &mut Problems) -> Container {
    let path = &at.path;
    match container.name.as_str() {
        "" => problems.add(format!("{path}.name"), "missing; every container needs a name"),
        name => problems.check(&format!("{path}.name"), names::label(name)),
    }
    let image = container.image.clone().unwrap_or_default();
    match image.as_str() {
        "" => problems.add(format!("{path}.image"), "missing; every container needs an image"),
        image => problems.check(&format!("{path}.image"), Reference::parse(image).map(drop)),
    }
    let working_dir = container.working_dir.clone().filter(|dir| !dir.is_empty());
    if let Some(dir) = working_dir.as_ref().filter(|dir| !dir.starts_with('/')) {
        problems.add(format!("{path}.workingDir"), format!("{dir:?} is not an absolute path"));
    }
    let security = security(at, container.security_context.as_ref(), problems);
    let mounts = volume::mounts(path, container, at.volumes, problems);
    let shared = |mount: &crate::manifest::VolumeMount| mount.propagation == Propagation::Bidirectional;
    if let Some(index) = mounts.iter().position(shared).filter(|_| !security.privileged) {
        let field = format!("{path}.volumeMounts[{index}].mountPropagation");
        problems.add(field, "Bidirectional needs securityContext.privileged");
    }
    Container {
        name: container.name.clone(),
        image,
        command: container.command.clone().filter(|command| !command.is_empty()),
        args: container.args.clone().filter(|args| !args.is_empty()),
        env: env(path, container.env.as_deref().unwrap_or_default(), problems),
        working_dir,
        ports: ports(path, container.ports.as_deref().unwrap_or_default(), problems),
        mounts,
        resources: resources(path, container.resources.as_ref(), problems),
        security,
        tty: container.tty.unwrap_or_default(),
        stdin: container.stdin.unwrap_or_default(),
    }
}

fn env(path: &str, env: &[v1::EnvVar], problems: &mut Problems) -> Vec<(String, String)> {
    for (index, variable) in env.iter().enumerate() {
        problems.check(&format!("{path}.env[{index}].name"), names::variable(&variable.name));
        if variable.value.as_ref().is_some_and(|value| value.contains('\0')) {
            problems.add(format!("{path}.env[{index}].value"), "may not contain a zero byte");
        }
    }
    env.iter().map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default())).collect()
}

fn ports(path: &str, ports: &[v1::ContainerPort], problems: &mut Problems) -> Vec<Port> {
    let mut read = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if let Some(name) = &port.name {
            problems.check(&format!("{path}.name"), names::port(name));
        }
        let host_ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
        // Kubernetes' default of 0 means no port of the node.
        let host_port = port.host_port.filter(|port| *port != 0);
        let container_port = problems.take(&format!("{path}.containerPort"), number(port.container_port));
        let Some(container_port) = container_port else { continue };
        read.push(Port {
            name: port.name.clone(),
            container_port,
            host_port: host_port.and_then(|port| problems.take(&format!("{path}.hostPort"), number(port))),
            protocol: problems.word(&format!("{path}.protocol"), port.protocol.as_deref(), PROTOCOLS),
            host_ip: host_ip.and_then(|ip| problems.take(&format!("{path}.hostIP"), address(ip))),
        });
    }
    read
}

fn number(port: i32) -> Result<u16, String> {
    match u16::try_from(port) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{port} is not a port; it has to be 1 to 65535")),
    }
}

fn resources(path: &str, given: Option<&v1::ResourceRequirements>, problems: &mut Problems) -> Resources {
    let Some(given) = given else { return Resources::default() };
    let mut read = |field: &str, map: &Option<BTreeMap<String, Quantity>>| {
        let path = format!("{path}.resources.{field}");
        map.as_ref().map_or((None, None), |map| amounts(&path, map, field == "limits", problems))
    };
    let (cpu_limit, memory_limit) = read("limits", &given.limits);
    let (cpu_request, memory_request) = read("requests", &given.requests);
    for (name, request, limit) in [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)] {
        if matches!((request, limit), (Some(request), Some(limit)) if request > limit) {
            problems.add(format!("{path}.resources.requests.{name}"), "is more than the limit");
        }
    }
    // No limit is what 0 means to the kernel interfaces Kubernetes drives.
    let limited = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
    Resources {
        cpu_request: cpu_request.or(cpu_limit),
        cpu_limit: limited(cpu_limit),
        memory_request: memory_request.or(memory_limit),
        memory_limit: limited(memory_limit),
    }
}

/// CPU in thousandths, memory in bytes.
fn amounts(
    path: &str,
    map: &BTreeMap<String, Quantity>,
    limits: bool,
    problems: &mut Problems,
) -> (Option<u64>, Option<u64>) {
    let (mut cpu, mut memory) = (None, None);
    for (name, Quantity(text)) in map {
        let path = if name.contains('.') { format!("{path}[{name}]") } else { format!("{path}.{name}") };
        match name.as_str() {
            "cpu" => cpu = problems.take(&path, quantity::millis(text)),
            "memory" => memory = problems.take(&path, quantity::bytes(text)),
            // Asking for disk is the scheduler's business; limiting it would be ours.
            "ephemeral-storage" if !limits => problems.check(&path, quantity::bytes(text).map(drop)),
            _ => problems.add(path, "not supported yet; cpu and memory are"),
        }
    }
    (cpu, memory)
}

fn security(at: &At<'_>, given: Option<&v1::SecurityContext>, problems: &mut Problems) -> Security {
    let Some(given) = given else { return at.pod.clone() };
    let path = format!("{}.securityContext", at.path);
    let read = Security {
        run_as_user: problems.id(&format!("{path}.runAsUser"), given.run_as_user).or(at.pod.run_as_user),
        run_as_group: problems.id(&format!("{path}.runAsGroup"), given.run_as_group).or(at.pod.run_as_group),
        run_as_non_root: given.run_as_non_root.unwrap_or(at.pod.run_as_non_root),
        supplemental_groups: at.pod.supplemental_groups.clone(),
        privileged: given.privileged.unwrap_or_default(),
        read_only_root_filesystem: given.read_only_root_filesystem.unwrap_or_default(),
        allow_privilege_escalation: given.allow_privilege_escalation,
        capabilities: given.capabilities.as_ref().map_or_else(Capabilities::default, |given| Capabilities {
            add: capabilities(&format!("{path}.capabilities.add"), given.add.as_deref(), problems),
            drop: capabilities(&format!("{path}.capabilities.drop"), given.drop.as_deref(), problems),
        }),
    };
    if read.run_as_non_root && read.run_as_user == Some(0) {
        problems.add(format!("{path}.runAsNonRoot"), "is true, but runAsUser is 0");
    }
    let mighty = read.privileged || read.capabilities.add.iter().any(|name| name == "SYS_ADMIN");
    if read.allow_privilege_escalation == Some(false) && mighty {
        let field = format!("{path}.allowPrivilegeEscalation");
        problems.add(field, "cannot be false for a container that is privileged or has SYS_ADMIN");
    }
    read
}

/// The names without `CAP_`, in upper case.
fn capabilities(path: &str, names: Option<&[String]>, problems: &mut Problems) -> Vec<String> {
    let mut read = Vec::new();
    for (index, given) in names.unwrap_or_default().iter().enumerate() {
        let name = given.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name).to_owned();
        let known = capability::names();
        if name != "ALL" && !known.iter().any(|(other, _)| *other == name) {
            let hint = crate::manifest::fields::closest(&name, known.iter().map(|(name, _)| *name));
            let hint = hint.map_or_else(String::new, |name| format!("; did you mean {name}?"));
            problems.add(format!("{path}[{index}]"), format!("{given:?} is not a capability{hint}"));
        }
        read.push(name);
    }
    read
}
