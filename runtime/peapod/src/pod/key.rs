//! What a pod is called, and where everything of it lies.

use std::fmt;
use std::path::PathBuf;

use crate::error::Result;
use crate::files::read_json;
use crate::settings::Settings;
use crate::volume::PodPaths;

/// The settings a pod was made with, in its directory.
pub const SETTINGS: &str = "settings.json";

/// A pod's name within its namespace. On disk it is `<namespace>_<name>`: neither part may hold an
/// underscore (RFC 1123), so the pair reads back in one way only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    namespace: String,
    name: String,
}

impl Key {
    /// The key of pod `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Reads back a key from its form on disk.
    pub fn parse(text: &str) -> Option<Key> {
        let (namespace, name) = text.split_once('_')?;
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('/');
        (plain(namespace) && plain(name)).then(|| Key::new(namespace, name))
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The form used for directories.
    pub fn file_name(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }
}

/// As people name it: the namespace only when it is not the default one.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "default" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The places of one pod. Computed, never made here.
///
/// Names and addresses of a pod's parts come from its key (unique now) or its uid (unique for ever):
/// what outlives the pod's directory under the state goes by the uid.
#[derive(Debug, Clone)]
pub struct Places {
    /// The settings the pod was made with.
    pub settings: Settings,
    /// The pod's name.
    pub key: Key,
    /// The pod's directory under the state.
    pub dir: PathBuf,
}

impl Places {
    /// The places of the pod `key`: for a pod that exists, those it was made with, whatever the command says now.
    /// Otherwise its layers, leases and logs would be looked for, and left, elsewhere.
    ///
    /// # Errors
    /// When the pod's settings cannot be read.
    pub fn new(settings: &Settings, key: Key) -> Result<Places> {
        let dir = settings.pods().join(key.file_name());
        let mut made: Settings = read_json(&dir.join(SETTINGS))?.unwrap_or_else(|| settings.clone());
        // Programs may have moved since, by an upgrade for one.
        if !made.shim.as_ref().is_some_and(|shim| shim.is_file()) {
            made.shim.clone_from(&settings.shim);
        }
        Ok(Places { settings: made, key, dir })
    }

    /// The record: what was asked for.
    pub fn record(&self) -> PathBuf {
        self.dir.join("pod.json")
    }

    /// What the keeper says the pod is doing.
    pub fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// Whoever drives the pod holds this file's lock.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The shim's own bundle.
    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// The bundle of one attempt at a container.
    pub fn container(&self, container: &str, attempt: u32) -> PathBuf {
        self.dir.join("containers").join(format!("{container}-{attempt}"))
    }

    /// The container runtime's state.
    pub fn pea(&self) -> PathBuf {
        self.dir.join("pea")
    }

    /// The directory of the shim's socket. Short, because a socket's path may have 107 bytes only (unix(7)); of the
    /// uid's 122 random bits the first 44 tell the pods of one node apart.
    pub fn socket(&self, uid: &str) -> PathBuf {
        self.settings.state.join("s").join(uid.get(..12).unwrap_or(uid))
    }

    /// The FIFOs of `exec`.
    pub fn io(&self) -> PathBuf {
        self.dir.join("io")
    }

    /// The network as configured and attached.
    pub fn network(&self) -> PathBuf {
        self.dir.join("network.json")
    }

    /// What the keeper and the plugins print.
    pub fn keeper_log(&self) -> PathBuf {
        self.dir.join("keeper.log")
    }

    /// Volumes and writable layers.
    pub fn data(&self, uid: &str) -> PathBuf {
        self.settings.root.join("pods").join(uid)
    }

    /// The same two directories as the volumes know them.
    pub fn volumes(&self, uid: &str) -> PodPaths {
        PodPaths::new(&self.dir, self.data(uid))
    }

    /// The logs of all containers.
    pub fn logs(&self, uid: &str) -> PathBuf {
        self.settings.log_dir.join(format!("{}_{uid}", self.key.file_name()))
    }

    /// The log of one attempt at a container, in the CRI format.
    pub fn log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.logs(uid).join(container).join(format!("{attempt}.log"))
    }
}

/// The cgroup that holds all of a pod's containers.
///
/// At the top level: a common parent would outlive the last pod, or its removal race with the next one's birth.
pub fn cgroup(uid: &str) -> String {
    format!("/peapod-{uid}")
}

/// The id of one attempt at a container, unique within its pod.
pub fn task_id(container: &str, attempt: u32) -> String {
    format!("{container}-{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_directory_name() {
        let key = Key::new("shop", "web.1");
        assert_eq!(Key::parse(&key.file_name()), Some(key));
        for bad in ["web", "_web", "shop_", ".new-1_x", "../x_y", "a_b/c"] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_namespace_other_than_the_default_is_shown() {
        assert_eq!(Key::new("default", "web").to_string(), "web");
        assert_eq!(Key::new("shop", "web").to_string(), "shop/web");
    }
}
