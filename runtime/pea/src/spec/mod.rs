//! The bundle's `config.json`: reading it, checking it, and what `spec` writes.

mod amend;
mod check;
mod config;
mod default;
mod place;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use amend::{NOTIFY_SOCKET, add_env, add_notify_socket};
pub use check::{check, check_process};
pub use default::{default_spec, make_rootless};

use config::{Config, ConfigProcess};

use crate::cgroup::devices::Rules;
use crate::error::Error;
use crate::process::capability;

/// Reads the specification in a caller's file, which comes along, and warns of what in it will not be granted.
pub fn load_given(path: &Path) -> Result<(Spec, Vec<u8>), Error> {
    // It may be a pipe, whose content comes in many pieces.
    let text = fs::read(path)
        .map_err(|error| Error::spec(format!("bundle: read {}: {}", path.display(), crate::error::reason(&error))))?;
    Ok((parse_given(&text, path)?, text))
}

/// Reads a specification; `path` is for the error's text.
pub fn parse(text: &[u8], path: &Path) -> Result<Spec, Error> {
    Ok(read(text, path)?.0)
}

fn parse_given(text: &[u8], path: &Path) -> Result<Spec, Error> {
    let (spec, mut unknown) = read(text, path)?;
    unknown.extend(unavailable(&spec));
    if !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        tracing::warn!("ignoring unknown or unavailable capabilities: [{names}]");
    }
    Ok(spec)
}

/// The capabilities this process could not grant either. In a user namespace there are all.
fn unavailable(spec: &Spec) -> Vec<String> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let capabilities = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    match (capabilities, crate::sys::capability::permitted()) {
        (Some(given), Ok(held)) if namespaces.iter().all(|each| each.typ() != LinuxNamespaceType::User) => {
            capability::not_granted_by(held, given).collect()
        }
        _ => Vec::new(),
    }
}

fn read(text: &[u8], path: &Path) -> Result<(Spec, BTreeSet<String>), Error> {
    // Nearly all are as they should be, and read at once. Of the others it is found out what is to be made of them.
    match serde_json::from_slice::<Config>(text) {
        Ok(config) if !config.is_ambiguous() => Ok((config.into(), BTreeSet::new())),
        _ => amend(text, path),
    }
}

/// Reads a specification in which something may be left out, or be of a newer kernel.
fn amend(text: &[u8], path: &Path) -> Result<(Spec, BTreeSet<String>), Error> {
    let mut value: Value = decode(text, path)?;
    let unknown = value.get_mut("process").map(complete).unwrap_or_default();
    if let Some(resources) = value.pointer_mut("/linux/resources") {
        crate::cgroup::without_empty_pids(resources);
    }
    Ok((typed::<Config>(value, path)?.into(), unknown))
}

/// Reads a process description (`exec --process`).
pub fn parse_process(text: &[u8], path: &Path) -> Result<Process, Error> {
    if let Ok(process) = serde_json::from_slice::<ConfigProcess>(text) {
        return Ok(process.into());
    }
    let mut value = decode(text, path)?;
    complete(&mut value);
    Ok(typed::<ConfigProcess>(value, path)?.into())
}

fn decode(text: &[u8], path: &Path) -> Result<Value, Error> {
    serde_json::from_slice(text).map_err(|error| Error::spec(format!("{}: not JSON: {error}", path.display())))
}

fn typed<T: DeserializeOwned>(value: Value, path: &Path) -> Result<T, Error> {
    retype(&value).map_err(|why| Error::spec(format!("{}: {why}", path.display())))
}

/// Reads what was read already as a type; otherwise says which value is wrong, and why. By way of the text, for which there
/// is a reader of these types already: another one would be a tenth of the program.
pub fn retype<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| {
        let why = error.to_string();
        // Where in our text it went wrong is of no use to anybody but us.
        let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
        match place::after(text.get(..error.column()).unwrap_or(&text)) {
            place if place.is_empty() => why.to_owned(),
            place => format!("{place}: {why}"),
        }
    })
}

/// Fills in what other runtimes let callers leave out, and forgets capabilities no kernel has: a name from a newer
/// kernel is no reason to refuse the container, and not granting it is always safe. Returns the names of those.
fn complete(process: &mut Value) -> BTreeSet<String> {
    let Some(process) = process.as_object_mut() else { return BTreeSet::new() };
    process.entry("user").or_insert_with(|| json!({}));
    process.entry("cwd").or_insert_with(|| json!("/"));
    if let Some(flags) = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags")) {
        respell(flags);
    }
    let mut unknown = BTreeSet::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for names in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        let known = |name: &Value| name.as_str().is_some_and(|name| capability::number(name).is_some());
        unknown.extend(names.iter().filter(|name| !known(name)).map(|name| name.as_str().unwrap_or("?").to_owned()));
        names.retain(known);
    }
    unknown
}

/// Scheduler flags that the library of the specification's types spells its own way.
const SPELLINGS: [(&str, &str); 2] =
    [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

fn respell(flags: &mut Value) {
    for flag in flags.as_array_mut().into_iter().flatten() {
        if let Some((_, spelling)) = SPELLINGS.iter().find(|(name, _)| flag == name) {
            *flag = json!(spelling);
        }
    }
}

/// What is for Linux. All in it is optional, and so is the whole (config.md, "Platform-specific configuration"). (The
/// types' own default is not "nothing": it has namespaces, masks and rules of its own.)
pub fn linux(spec: &Spec) -> &Linux {
    static NOTHING: OnceLock<Linux> = OnceLock::new();
    let nothing = || NOTHING.get_or_init(|| serde_json::from_str("{}").unwrap_or_default());
    spec.linux().as_ref().unwrap_or_else(nothing)
}

/// Whether something in it is to be done when the container is started, or deleted.
pub fn has_follow_up(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| hooks.poststart().is_some() || hooks.poststop().is_some());
    hooks || spec.linux().as_ref().is_some_and(|linux| linux.intel_rdt().is_some())
}

/// Whether the container's program has a terminal.
pub fn has_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
}

/// The rules of `linux.resources.devices`, checked.
pub fn device_rules(spec: &Spec) -> Result<Rules, Error> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    Rules::parse(resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default())
}

/// The absolute path of the container's cgroup, the same in every hierarchy: `cgroupsPath`, or the id.
pub fn cgroups_path(spec: &Spec, id: &str) -> Result<PathBuf, Error> {
    let given = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
    let path = match given.as_os_str().is_empty() {
        true => Path::new("/").join(id),
        false => Path::new("/").join(given),
    };
    crate::cgroup::checked(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_part_for_linux_there_is_nothing_in_it() {
        let spec = parse(br#"{"ociVersion": "1.2.0"}"#, Path::new("config.json")).expect("a specification");
        assert_eq!(serde_json::to_value(linux(&spec)).expect("JSON"), json!({}));
    }
}
