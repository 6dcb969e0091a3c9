//! The first process: what is run, with which environment, where and as whom.

use std::path::PathBuf;

use oci_spec::image::Config;
use oci_spec::runtime::{Process, ProcessBuilder};

use super::expand::expand;
use super::{ContainerError, PodFacts, capability, qos, user};
use crate::image::Image;
use crate::manifest::{Container, Pod};

/// Where commands are looked for when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of the specification.
pub(super) fn process(
    pod: &Pod,
    container: &Container,
    image: &Image,
    facts: &PodFacts,
) -> Result<Process, ContainerError> {
    let config = image.config.config().clone().unwrap_or_default();
    let own = own_environment(container);
    let cwd = container.working_dir.clone().or_else(|| config.working_dir().clone().filter(|dir| !dir.is_empty()));
    let mut process = ProcessBuilder::default()
        .terminal(container.tty)
        .user(user::of(container, image, config.user().as_deref())?)
        .args(arguments(container, image, &config, &own)?)
        .env(environment(pod, container, &config, own))
        .cwd(PathBuf::from(cwd.unwrap_or_else(|| "/".to_owned())))
        .capabilities(capability::of(&container.security, facts.node.capabilities)?)
        .no_new_privileges(container.security.allow_privilege_escalation == Some(false))
        .oom_score_adj(qos::oom_score_adj(pod, container, &facts.node))
        .build()?;
    // The builder's default is a limit of 1024 open files; the pod's is the node's.
    process.set_rlimits(None);
    Ok(process)
}

/// `command` replaces the entry point, and then the image's arguments are not used; `args` replaces
/// the image's arguments.
fn arguments(
    container: &Container,
    image: &Image,
    config: &Config,
    own: &[(String, String)],
) -> Result<Vec<String>, ContainerError> {
    let expanded = |list: &Vec<String>| list.iter().map(|word| expand(word, |name| find(own, name))).collect();
    let command: Option<Vec<String>> = container.command.as_ref().map(expanded);
    let args: Option<Vec<String>> = container.args.as_ref().map(expanded);
    let words = match (command, args) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [config.entrypoint().clone().unwrap_or_default(), args].concat(),
        (None, None) => {
            [config.entrypoint().clone().unwrap_or_default(), config.cmd().clone().unwrap_or_default()].concat()
        }
    };
    if words.is_empty() {
        return Err(ContainerError::NoCommand { container: container.name.clone(), image: image.reference.clone() });
    }
    Ok(words)
}

/// The manifest's variables, each expanded with those before it.
fn own_environment(container: &Container) -> Vec<(String, String)> {
    let mut own = Vec::new();
    for (name, value) in &container.env {
        let value = expand(value, |name| find(&own, name));
        set(&mut own, name, value);
    }
    own
}

/// `PATH` and what the pod says of itself, over them the image's, over those the manifest's variables:
/// in that order, each name once.
fn environment(pod: &Pod, container: &Container, config: &Config, own: Vec<(String, String)>) -> Vec<String> {
    let mut all = Vec::new();
    set(&mut all, "PATH", DEFAULT_PATH.to_owned());
    set(&mut all, "HOSTNAME", pod.hostname.clone());
    if container.tty {
        set(&mut all, "TERM", "xterm".to_owned());
    }
    for variable in config.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(&mut all, name, value.to_owned());
    }
    for (name, value) in own {
        set(&mut all, &name, value);
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn find(variables: &[(String, String)], name: &str) -> Option<String> {
    variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
}

/// Sets a variable, where it stands when it is there already.
fn set(variables: &mut Vec<(String, String)>, name: &str, value: String) {
    match variables.iter_mut().find(|(other, _)| other == name) {
        Some((_, old)) => *old = value,
        None => variables.push((name.to_owned(), value)),
    }
}
