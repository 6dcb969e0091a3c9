//! The files a pod's containers have in common: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` and `/dev/shm`.
//!
//! A client that makes them itself (containerd with a pause container; peapod) mounts them into its containers' bundles.
//! For a client that leaves them to the sandbox they are made in its bundle, and mounted where a container has nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::options::{Dns, PodFiles};
use crate::error::Error;
use crate::mount::unmount;
use crate::record;

/// What is in memory is no place for programs and devices.
const PLAIN: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// `/dev/shm` as container engines have it.
const SHM: [&str; 2] = ["mode=1777", "size=65536k"];

/// Where it is in a container.
const SHM_PLACE: &str = "/dev/shm";

/// What the files lie in. Containers may write to them, and must not fill the file system of the bundle with that: it is
/// `/run`, without which the node is no good. (The node's list of hosts has to fit in.)
const ETC: [&str; 2] = ["mode=755", "size=16m"];

/// The names of those that are files, there.
const TEXTS: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// What is where: the name in the sandbox's bundle, the place in a container.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "/etc/hostname"),
    ("etc/hosts", "/etc/hosts"),
    ("etc/resolv.conf", "/etc/resolv.conf"),
    ("shm", SHM_PLACE),
];

/// Makes them, for `root` to own: the user and the group on the node that are the pod's root, where those are others.
pub fn make(bundle: &Path, files: &PodFiles, root: Option<(u32, u32)>) -> Result<(), Error> {
    let failed = |what: &str| {
        let what = format!("make the pod's {what} in {}", bundle.display());
        move |source: std::io::Error| Error::io(&what, source)
    };
    let hostname = match files.hostname.as_str() {
        "" => nix::unistd::gethostname().map_err(|errno| Error::io("read the node's hostname", errno))?,
        name => name.into(),
    };
    let etc = bundle.join("etc");
    mount_memory(&etc, &ETC, None)?;
    fs::write(etc.join("hostname"), format!("{}\n", hostname.display())).map_err(failed("hostname"))?;
    let hosts = fs::read("/etc/hosts").unwrap_or_else(|_| b"127.0.0.1 localhost\n::1 localhost\n".to_vec());
    fs::write(etc.join("hosts"), hosts).map_err(failed("hosts"))?;
    let resolv = match files.dns.is_empty() {
        true => fs::read("/etc/resolv.conf").unwrap_or_default(),
        false => resolv_conf(&files.dns).into_bytes(),
    };
    fs::write(etc.join("resolv.conf"), resolv).map_err(failed("resolv.conf"))?;
    if let Some((user, group)) = root {
        // The owner is changed, and not mapped in the mount: tmpfs is not able to before Linux 6.3.
        for name in TEXTS {
            chown(etc.join(name), Some(user), Some(group)).map_err(failed(name))?;
        }
    }
    if files.private_shm {
        mount_memory(&bundle.join("shm"), &SHM, root)?;
    }
    Ok(())
}

/// Takes down what has to be. May be done again, and where nothing was made.
pub fn remove(bundle: &Path) -> Result<(), Error> {
    unmount(&bundle.join("shm")).and(unmount(&bundle.join("etc")))
}

/// Mounts a tmpfs, for `root` to own.
fn mount_memory(place: &Path, options: &[&str], root: Option<(u32, u32)>) -> Result<(), Error> {
    fs::create_dir_all(place).map_err(|source| Error::io(format!("make {}", place.display()), source))?;
    let owner = root.map(|(user, group)| [format!("uid={user}"), format!("gid={group}")]);
    let options =
        PLAIN.iter().chain(options).map(|word| (*word).to_owned()).chain(owner.into_iter().flatten()).collect();
    let mount = pea::RootMount { kind: "tmpfs".into(), source: "pod".into(), options, ..Default::default() };
    Ok(pea::mount_root(place, &[mount])?)
}

/// resolv.conf(5)
fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    let mut line = |key: &str, words: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key} {words}");
    };
    if !dns.searches.is_empty() {
        line("search", &dns.searches.join(" "));
    }
    for server in &dns.servers {
        line("nameserver", server);
    }
    if !dns.options.is_empty() {
        line("options", &dns.options.join(" "));
    }
    text
}

/// A container's configuration with the pod's files, in a file beside its own; `None` when it has all of them already.
pub fn configuration(sandbox: &Path, files: &PodFiles, task: &Path) -> Result<Option<PathBuf>, Error> {
    let path = task.join("config.json");
    let Some(text) = record::read_text(&path)? else { return Ok(None) };
    let changed = with_files(&text, sandbox, files);
    let changed = changed.map_err(|source| Error::json(format!("read {}", path.display()), source))?;
    let Some(changed) = changed else { return Ok(None) };
    let beside = task.join("config.pod.json");
    record::write_text(&beside, &changed)?;
    Ok(Some(beside))
}

/// The parts of a configuration. All but two stay the text they are: taken apart they would need ten times as much memory, of
/// a process that lives as long as the pod.
type Parts<'a> = BTreeMap<String, &'a RawValue>;

/// The configuration's text with the pod's files; `None` when it has all of them already.
pub fn with_files(text: &[u8], sandbox: &Path, files: &PodFiles) -> serde_json::Result<Option<Vec<u8>>> {
    #[derive(Default, Deserialize)]
    struct Root {
        #[serde(default)]
        readonly: bool,
    }
    let mut parts: Parts = serde_json::from_slice(text)?;
    let part = |name: &str| parts.get(name).map_or("null", |part| part.get());
    let root: Option<Root> = serde_json::from_str(part("root"))?;
    let mounts: Option<Vec<Value>> = serde_json::from_str(part("mounts"))?;
    let (root, mut mounts) = (root.unwrap_or_default(), mounts.unwrap_or_default());
    if add(&mut mounts, root.readonly, sandbox, files) == 0 {
        return Ok(None);
    }
    let mounts = to_raw_value(&mounts)?;
    parts.insert("mounts".to_owned(), &mounts);
    serde_json::to_vec(&parts).map(Some)
}

/// Adds a mount for each file that the container has nothing at; how many.
fn add(mounts: &mut Vec<Value>, read_only: bool, sandbox: &Path, files: &PodFiles) -> usize {
    // Every specification begins with a tmpfs there, which containerd replaces when it knows of the pod's.
    mounts.retain(|mount| mount["destination"] != SHM_PLACE || mount["type"] != "tmpfs");
    let before = mounts.len();
    for (name, place) in FILES {
        if mounts.iter().any(|mount| mount["destination"] == *place) {
            continue;
        }
        let is_shm = *place == SHM_PLACE;
        let source = if is_shm && !files.private_shm { PathBuf::from(place) } else { sandbox.join(name) };
        let access = if read_only && !is_shm { "ro" } else { "rw" };
        let options = ["rbind", "rprivate", access];
        mounts.push(json!({"destination": place, "type": "bind", "source": source, "options": options}));
    }
    mounts.len() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_as_the_pod_says() {
        let dns = Dns {
            servers: vec!["10.0.0.1".into()],
            searches: vec!["a".into(), "b".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(resolv_conf(&dns), "search a b\nnameserver 10.0.0.1\noptions ndots:5\n");
    }

    /// The configuration as it becomes.
    fn changed(config: &Value, files: &PodFiles) -> Option<Value> {
        let text = with_files(config.to_string().as_bytes(), Path::new("/s"), files).unwrap();
        text.map(|text| serde_json::from_slice(&text).unwrap())
    }

    fn sources(config: &Value) -> Vec<&str> {
        config["mounts"].as_array().unwrap().iter().map(|mount| mount["source"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_memory_that_every_container_begins_with_gives_way_to_the_pods() {
        let config = json!({"mounts": [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}]});
        for config in [config, json!({}), json!({"mounts": null})] {
            let config = changed(&config, &PodFiles::default()).unwrap();
            assert_eq!(sources(&config), ["/s/etc/hostname", "/s/etc/hosts", "/s/etc/resolv.conf", "/dev/shm"]);
        }
    }

    #[test]
    fn a_container_gets_what_it_does_not_have_and_keeps_the_rest() {
        let config = json!({"ociVersion": "1.0", "process": {"args": ["a \" b"]}, "root": {"readonly": true}, "mounts": [
            {"destination": "/etc/hosts", "source": "/kubelet/hosts"}, {"destination": "/dev/shm", "source": "/elsewhere"}]});
        let files = PodFiles { private_shm: true, ..PodFiles::default() };
        let mut now = changed(&config, &files).unwrap();
        assert_eq!(sources(&now)[2..], ["/s/etc/hostname", "/s/etc/resolv.conf"]);
        assert!(now["mounts"][2]["options"].as_array().unwrap().contains(&json!("ro")));
        assert_eq!(changed(&now, &files), None);
        now["mounts"].as_array_mut().unwrap().truncate(2);
        assert_eq!(now, config);
    }

    #[test]
    fn a_configuration_that_is_none_is_refused() {
        for text in ["", "[]", "{", r#"{"mounts": {}}"#] {
            assert!(with_files(text.as_bytes(), Path::new("/s"), &PodFiles::default()).is_err(), "{text}");
        }
    }
}
