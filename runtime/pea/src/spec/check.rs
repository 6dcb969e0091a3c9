//! What in a specification is refused before anything is made: what no kernel could serve, what contradicts itself, and
//! what the specification's text forbids.
//!
//! Properties nobody knows are no error (config.md, "Extensibility").

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Process, Spec};

use super::linux;
use crate::error::Error;

/// Refuses what could not be served, before anything is made.
///
/// # Errors
/// `InvalidSpec`, with the place in `config.json`.
pub fn check(spec: &Spec) -> Result<(), Error> {
    check_version(spec.version())?;
    let process = spec.process().as_ref().ok_or_else(|| Error::spec("config.json: process: missing"))?;
    check_process(process).map_err(|error| Error::spec(format!("config.json: {error}")))?;
    let linux = linux(spec);
    check_namespaces(linux)?;
    check_names(spec, linux)?;
    check_id_maps(linux)?;
    check_hooks(spec)
}

/// The version is one of SemVer 2.0.0 (config.md, "Specification version"), and of major version 1.
fn check_version(version: &str) -> Result<(), Error> {
    let wrong = |why: &str| Err(Error::spec(format!("config.json: ociVersion: {version:?} {why}")));
    if version.is_empty() {
        return Err(Error::spec("config.json: ociVersion: missing"));
    }
    match major(version) {
        Some(1) => Ok(()),
        Some(_) => wrong("is not supported (only 1.x)"),
        None => wrong("is no version like 1.2.0"),
    }
}

/// The major version, of a whole version only: three numbers, then perhaps a pre-release after "-", a build after "+".
fn major(version: &str) -> Option<u64> {
    let (version, build) = version.split_once('+').map_or((version, None), |(version, build)| (version, Some(build)));
    let (numbers, release) = version.split_once('-').map_or((version, None), |(numbers, rest)| (numbers, Some(rest)));
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !build.into_iter().chain(release).all(|words| words.split('.').all(is_word)) {
        return None;
    }
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let numbers = numbers.split('.').map(number).collect::<Option<Vec<_>>>()?;
    (numbers.len() == 3).then(|| numbers[0])
}

fn check_namespaces(linux: &Linux) -> Result<(), Error> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        if namespaces[..index].iter().any(|earlier| earlier.typ() == namespace.typ()) {
            let text = format!("config.json: linux.namespaces: \"{}\" is there twice", namespace.typ());
            return Err(Error::spec(text));
        }
    }
    Ok(())
}

fn has(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind)
}

/// Refuses names for a machine that is not the container's own, and one that a sysctl would change again.
fn check_names(spec: &Spec, linux: &Linux) -> Result<(), Error> {
    let uts = has(linux, LinuxNamespaceType::Uts);
    let sysctl = |key: &str| linux.sysctl().as_ref().and_then(|sysctl| sysctl.get(key));
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else { continue };
        if !uts {
            return Err(Error::spec(format!("config.json: {field}: needs a namespace of type \"uts\"")));
        }
        // In either spelling (sysctl(8)).
        for key in [format!("kernel.{field}"), format!("kernel/{field}")] {
            if let Some(other) = sysctl(&key).filter(|other| *other != name) {
                let text = format!("config.json: {field}: {name:?}, but linux.sysctl says {key}: {other:?}");
                return Err(Error::spec(text));
            }
        }
    }
    Ok(())
}

/// Refuses maps without a user namespace. Ignoring them, as other runtimes do, would give the machine's root to a
/// container that was meant to have another. With a namespace that is joined they say what its maps are.
fn check_id_maps(linux: &Linux) -> Result<(), Error> {
    if has(linux, LinuxNamespaceType::User) {
        return Ok(());
    }
    for (field, maps) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
        if maps.as_ref().is_some_and(|maps| !maps.is_empty()) {
            return Err(Error::spec(format!("config.json: linux.{field}: needs a namespace of type \"user\"")));
        }
    }
    Ok(())
}

/// A hook's path must be absolute and its timeout more than zero (config.md, "POSIX-platform Hooks").
fn check_hooks(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated)] // by the specification, yet in use
    let prestart = hooks.prestart();
    let kinds: [(&str, &Option<Vec<Hook>>); 6] = [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, hooks) in kinds {
        for (index, hook) in hooks.iter().flatten().enumerate() {
            let wrong = |text: String| Err(Error::spec(format!("config.json: hooks.{kind}[{index}].{text}")));
            if !hook.path().is_absolute() {
                return wrong(format!("path: {:?} is not absolute", hook.path().display().to_string()));
            }
            if let Some(seconds) = hook.timeout().filter(|seconds| *seconds <= 0) {
                return wrong(format!("timeout: {seconds} is not more than 0 seconds"));
            }
        }
    }
    Ok(())
}

/// Refuses a process no kernel could start.
pub fn check_process(process: &Process) -> Result<(), Error> {
    match process.args().as_deref() {
        None | Some([]) => return Err(Error::spec("process.args: must not be empty")),
        Some(_) => {}
    }
    let user = process.user();
    for id in [user.uid(), user.gid()].iter().chain(user.additional_gids().iter().flatten()) {
        // The kernel takes the largest for "unchanged", which here would be root.
        if i32::try_from(*id).is_err() {
            return Err(Error::spec(format!("process.user: {id} is not between 0 and {}", i32::MAX)));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(Error::spec(format!("process.cwd: {} is not absolute", process.cwd().display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::parse;

    fn checked(change: Value) -> Result<(), Error> {
        let mut spec = json!({"ociVersion": "1.2.0", "process": {"args": ["sh"]}, "root": {"path": "rootfs"}});
        for (key, value) in change.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        check(&parse(spec.to_string().as_bytes(), "config.json".as_ref())?)
    }

    #[test]
    fn what_the_specification_forbids_is_refused_by_name() {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        for (change, phrase) in [
            (json!({"ociVersion": ""}), "ociVersion: missing"),
            (json!({"ociVersion": "2.0.0"}), "ociVersion: \"2.0.0\" is not supported"),
            (json!({"linux": {"uidMappings": map}}), "linux.uidMappings: needs a namespace of type \"user\""),
            (json!({"linux": {"gidMappings": map}}), "linux.gidMappings: needs a namespace of type \"user\""),
            (json!({"hooks": {"poststop": [{"path": "/a"}, {"path": "bin/a"}]}}), "hooks.poststop[1].path: \"bin/a\""),
            (json!({"hooks": {"prestart": [{"path": "/a", "timeout": 0}]}}), "hooks.prestart[0].timeout: 0 is not"),
            (
                json!({"hooks": {"createRuntime": [{"path": "/a", "timeout": -3}]}}),
                "hooks.createRuntime[0].timeout: -3",
            ),
            (json!({"hostname": "pea"}), "hostname: needs a namespace"),
            (json!({"linux": {"namespaces": [{"type": "ipc"}, {"type": "ipc"}]}}), "\"ipc\" is there twice"),
        ] {
            let error = checked(change).expect_err(phrase).to_string();
            assert!(error.starts_with("config.json: ") && error.contains(phrase), "{error}");
        }
    }

    #[test]
    fn what_is_optional_or_unknown_is_no_error() {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        for change in [
            json!({}),
            json!({"linux": {"uidMappings": map, "gidMappings": map, "namespaces": [{"type": "user"}]}}),
            json!({"linux": {"uidMappings": [], "gidMappings": []}}),
            json!({"hooks": {"poststop": [{"path": "/a", "timeout": 1}], "atNoon": [{"path": "b"}]}}),
            json!({"atNoon": true, "linux": {"atNoon": true}}),
        ] {
            assert_eq!(checked(change.clone()), Ok(()), "{change}");
        }
    }

    #[test]
    fn versions_are_of_semver() {
        for version in ["1.0.0", "1.0.0-rc1", "1.0.0-rc.5-dev", "1.2.1+dev", "1.3.0-rc.1+dev.2", "1.99.0"] {
            assert_eq!(major(version), Some(1), "{version}");
        }
        for version in
            ["1", "1.", "1.0", "1.0.", "1.x.0", "1.0.0.0", "1.0.0-", "1.0.0+", "1.0.0-a..b", "v1.0.0", "1.0.0 "]
        {
            assert_eq!(major(version), None, "{version}");
        }
    }
}
