//! What a container has from outside: CRIU must be told, or it would try to recreate it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::Criu;
use crate::cgroup::{Hierarchy, hierarchies};
use crate::error::Error;

/// Where the machine's cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What hides a file.
const NULL: &str = "/dev/null";

/// Mounts and namespaces of the configuration that are the machine's.
pub struct Externals {
    /// Where in the container, and what is to be mounted there.
    mounts: Vec<(PathBuf, PathBuf)>,
    /// Files and directories that are hidden.
    masked: Vec<String>,
    namespaces: Vec<(LinuxNamespaceType, PathBuf)>,
}

impl Externals {
    /// As the configuration says, for a container in that cgroup; what is not there in the end CRIU does not miss.
    pub fn of(spec: &Spec, bundle: &Path, cgroup: &Path) -> Self {
        let linux = spec.linux().as_ref();
        let binds = spec.mounts().iter().flatten().filter(|mount| is_bind(mount)).filter_map(|mount| {
            let source = mount.source().as_ref()?;
            Some((mount.destination().clone(), bundle.join(source)))
        });
        let masked = linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten();
        let devices = linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
        let namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
        Self {
            mounts: binds
                .chain(cgroups(spec, cgroup))
                .chain(devices.map(|device| (device.path().clone(), device.path().clone())))
                .collect(),
            masked: masked.cloned().collect(),
            namespaces: namespaces.filter_map(|namespace| Some((namespace.typ(), namespace.path().clone()?))).collect(),
        }
    }

    /// For a dump of the container whose init that is.
    pub fn tell_dump(&self, criu: &mut Criu, init: i32) -> Result<(), Error> {
        for (destination, _) in &self.mounts {
            criu.arg("--external", format!("mnt[{0}]:{0}", destination.display()));
        }
        for path in &self.masked {
            // Over a directory is an empty file system, which CRIU can make again by itself.
            if fs::metadata(format!("/proc/{init}/root{path}")).is_ok_and(|file| !file.is_dir()) {
                criu.arg("--external", format!("mnt[{path}]:{NULL}"));
            }
        }
        for (kind, path) in &self.namespaces {
            if let Some((name, key)) = inherited(*kind) {
                let file =
                    fs::metadata(path).map_err(|error| Error::io(format!("look at {}", path.display()), error))?;
                criu.arg("--external", format!("{name}[{}]:{key}", file.ino()));
            }
        }
        Ok(())
    }

    /// For a restore.
    pub fn tell_restore(&self, criu: &mut Criu) -> Result<(), Error> {
        criu.arg("--external", format!("mnt[{NULL}]:{NULL}"));
        for (destination, source) in &self.mounts {
            criu.arg("--external", format!("mnt[{}]:{}", destination.display(), source.display()));
        }
        for (kind, path) in &self.namespaces {
            match inherited(*kind) {
                Some((_, key)) => {
                    let file = File::open(path);
                    let file = file.map_err(|error| Error::io(format!("open namespace {}", path.display()), error))?;
                    criu.inherit_file(file, key)?;
                }
                None if *kind == LinuxNamespaceType::Cgroup => {
                    return Err(Error::spec("criu cannot restore into a cgroup namespace that is there already"));
                }
                None => criu.join(&kind.to_string(), path),
            }
        }
        Ok(())
    }
}

/// The hierarchies of cgroup v1 that a mount of type "cgroup" shows: CRIU knows of no root mount that they are parts of.
/// (That of v2 it can make again.)
fn cgroups(spec: &Spec, cgroup: &Path) -> Vec<(PathBuf, PathBuf)> {
    let hierarchies = hierarchies().unwrap_or_default();
    let below = |destination: &Path, hierarchy: &Hierarchy| {
        let name = hierarchy.root().strip_prefix(CGROUPS).ok().filter(|name| !name.as_os_str().is_empty())?;
        Some((destination.join(name), hierarchy.dir(cgroup)))
    };
    let mounts = spec.mounts().iter().flatten().filter(|mount| mount.typ().as_deref() == Some("cgroup"));
    mounts.flat_map(|mount| hierarchies.iter().filter_map(|each| below(mount.destination(), each))).collect()
}

fn is_bind(mount: &Mount) -> bool {
    let bind = |option: &String| matches!(option.as_str(), "bind" | "rbind");
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(bind)
}

/// Namespaces that are handed over by descriptor: their name to CRIU, and the name under which they are in the images.
fn inherited(kind: LinuxNamespaceType) -> Option<(&'static str, &'static str)> {
    match kind {
        LinuxNamespaceType::Network => Some(("net", "extRootNetNS")),
        LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// What the init's standard streams were. Pipes are replaced by ours when it comes back.
///
/// The file's name and form are those of the other runtimes, so that images can be moved between them.
pub struct Descriptors(Vec<String>);

const DESCRIPTORS: &str = "descriptors.json";

impl Descriptors {
    /// Of a living process.
    pub fn of(pid: i32) -> Self {
        let link = |number: i32| fs::read_link(format!("/proc/{pid}/fd/{number}"));
        Self((0..3).map(|number| link(number).unwrap_or_default().to_string_lossy().into_owned()).collect())
    }

    /// Written beside the images.
    pub fn save(&self, images: &Path) -> Result<(), Error> {
        let path = images.join(DESCRIPTORS);
        let text = serde_json::to_vec(&self.0).map_err(|error| Error::internal(error.to_string()))?;
        fs::write(&path, text).map_err(|error| Error::io(format!("write {}", path.display()), error))
    }

    /// As they were saved; images without them have none.
    pub fn load(images: &Path) -> Self {
        let text = fs::read(images.join(DESCRIPTORS)).unwrap_or_default();
        Self(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// For a restore that has our standard streams.
    pub fn tell_restore(&self, criu: &mut Criu) {
        for (number, name) in (0..).zip(&self.0).filter(|(_, name)| name.starts_with("pipe:")) {
            criu.inherit(number, name);
        }
    }
}
