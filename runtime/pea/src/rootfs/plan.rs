//! Everything about the container's file system that the specification says, checked.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount as Given, Spec};

use super::beneath::normal;
use super::device::{self, Device};
use super::id_map::{IdMap, Mappings};
use super::option::Options;
use super::procfs;
use super::propagation::Propagation;
use super::sysctl::{self, Sysctl};
use crate::error::Error;

/// What is to be mounted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A place of the machine, with the mounts below it or without.
    Bind { source: PathBuf, recursive: bool },
    /// A file system of its own.
    FileSystem { kind: String, source: String },
    /// The container's cgroups, whatever the machine's layout is.
    Cgroup,
    /// Nothing new: what is mounted there is changed.
    Remount,
}

/// One entry of `mounts`.
#[derive(Clone, Debug)]
pub struct Mount {
    index: usize,
    /// Absolute and normal, in the container.
    pub destination: PathBuf,
    pub kind: Kind,
    pub options: Options,
    pub id_map: Option<IdMap>,
}

impl Mount {
    fn new(index: usize, given: &Given, bundle: &Path, own: &Mappings) -> Result<Self, Error> {
        let options = Options::parse(given.options().iter().flatten().map(String::as_str));
        let destination = normal(given.destination());
        let kind = kind(given, &options, bundle);
        let mut mount = Self { index, destination, kind, options, id_map: None };
        if given.destination().as_os_str().is_empty() {
            return Err(mount.wrong("destination: missing"));
        }
        if mount.is_root() && !matches!(mount.kind, Kind::Remount | Kind::Bind { .. }) {
            return Err(mount.wrong("only another directory can take the place of the container's root"));
        }
        if is_of_a_process(&mount.destination) {
            return Err(mount.over_a_process());
        }
        if matches!(&mount.kind, Kind::Bind { source, .. } if source.as_os_str().is_empty()) {
            return Err(mount.wrong("source: a bind mount needs one"));
        }
        let mappings = (given.uid_mappings().as_deref(), given.gid_mappings().as_deref());
        mount.id_map = IdMap::new(mount.options.id_map.as_ref(), mappings, own).map_err(|text| mount.wrong(&text))?;
        Ok(mount)
    }

    /// An error in the configuration of this mount.
    pub fn wrong(&self, text: &str) -> Error {
        Error::spec(format!("{}: {text}", self.place()))
    }

    /// It would hide what the kernel says of a process, or takes for it.
    pub fn over_a_process(&self) -> Error {
        self.wrong("nothing can be mounted over what procfs says about a process")
    }

    /// A step of this mount that the kernel refused.
    pub fn failure(&self, step: impl Display, error: impl Into<io::Error>) -> Error {
        Error::io(format!("{}: {step}", self.place()), error)
    }

    /// Whether it is to be the container's root.
    pub fn is_root(&self) -> bool {
        self.destination == Path::new("/")
    }

    /// Whether it is a file system of that type.
    pub fn is(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::FileSystem { kind, .. } if kind == name)
    }

    fn place(&self) -> String {
        format!("config.json: mounts[{}] {}", self.index, self.destination.display())
    }
}

fn kind(given: &Given, options: &Options, bundle: &Path) -> Kind {
    let kind = given.typ().as_deref().unwrap_or_default();
    let source = given.source().clone().unwrap_or_default();
    if options.remount {
        return Kind::Remount;
    }
    if options.bind.is_some() || kind == "bind" || kind == "rbind" {
        let recursive = kind == "rbind" || options.bind.is_some_and(|bind| bind.0);
        let source = if source.as_os_str().is_empty() { source } else { bundle.join(source) };
        return Kind::Bind { source, recursive };
    }
    match kind {
        "cgroup" => Kind::Cgroup,
        // As mount(2) has it: only the propagation of what is there already changes.
        "" | "none" if !options.propagation.is_empty() => Kind::Remount,
        "" if !source.as_os_str().is_empty() => Kind::Bind { source: bundle.join(source), recursive: false },
        _ => {
            let name = if source.as_os_str().is_empty() { kind.into() } else { source.to_string_lossy().into_owned() };
            Kind::FileSystem { kind: kind.to_owned(), source: name }
        }
    }
}

/// Whether a path is one of a process's own in procfs, which must not be other than the kernel made them.
fn is_of_a_process(path: &Path) -> bool {
    let Some(name) = path.strip_prefix("/proc").ok().and_then(|inner| inner.iter().next()?.to_str()) else {
        return false;
    };
    procfs::is_process(name)
}

/// A path of `maskedPaths` or `readonlyPaths`.
#[derive(Clone, Debug)]
pub struct Protected {
    /// As errors name it.
    pub place: String,
    pub path: PathBuf,
}

/// Everything about the container's file system.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) rootfs: PathBuf,
    pub(super) read_only: bool,
    pub(super) propagation: Option<Propagation>,
    pub(super) mounts: Vec<Mount>,
    /// Empty when the machine's own /dev, or another ready one, is bound.
    pub(super) devices: Vec<Device>,
    /// Whether /dev gets the usual links.
    pub(super) dev_links: bool,
    pub(super) sysctl: Vec<Sysctl>,
    pub(super) masked: Vec<Protected>,
    pub(super) read_only_paths: Vec<Protected>,
    /// The mapping of the container's user namespace, if it has one.
    pub(super) own: Mappings,
    pub(super) user_namespace: bool,
    /// Without a new one, the mounts are made where others see them, and the root is nobody else's to lose.
    pub(super) mount_namespace: bool,
}

impl Plan {
    /// Reads the specification. `user_namespace`: whether the container has one of its own.
    ///
    /// # Errors
    /// `InvalidSpec`, with the place in `config.json`.
    pub fn new(spec: &Spec, bundle: &Path, user_namespace: bool) -> Result<Self, Error> {
        let linux = crate::spec::linux(spec);
        let root = spec.root().as_ref().ok_or_else(|| Error::spec("config.json: root: missing"))?;
        let own = Mappings::of_container(linux);
        let given = spec.mounts().as_deref().unwrap_or_default().iter().enumerate();
        let mut mounts: Vec<_> =
            given.map(|(index, given)| Mount::new(index, given, bundle, &own)).collect::<Result<_, _>>()?;
        if Path::new("/sys/fs/selinux/enforce").exists() {
            label(&mut mounts, linux.mount_label().as_deref().unwrap_or_default());
        }
        let dev = mounts.iter().rfind(|mount| mount.destination == Path::new("/dev"));
        let bound_dev = dev.is_some_and(|mount| matches!(mount.kind, Kind::Bind { .. }));
        let rootfs = rootfs(&bundle.join(root.path()))?;
        let mount_namespace = linux.namespaces().iter().flatten().any(is_new_mount_namespace);
        if rootfs == Path::new("/") && !mount_namespace {
            return Err(Error::spec("config.json: root.path: / needs a namespace of type \"mount\""));
        }
        if rootfs == Path::new("/") && dev.is_none() {
            let text = "config.json: root.path: / is the machine's own root, and without a mount over /dev its devices \
                        would be made anew";
            return Err(Error::spec(text));
        }
        Ok(Self {
            rootfs,
            read_only: root.readonly().unwrap_or(false),
            propagation: linux.rootfs_propagation().as_deref().map_or(Ok(None), root_propagation)?,
            devices: if bound_dev { Vec::new() } else { device::plan(linux.devices().as_deref().unwrap_or_default())? },
            dev_links: !bound_dev,
            mounts,
            sysctl: sysctl::plan(linux)?,
            masked: protected("maskedPaths", linux.masked_paths().as_deref()),
            read_only_paths: protected("readonlyPaths", linux.readonly_paths().as_deref()),
            own,
            user_namespace,
            mount_namespace,
        })
    }

    /// Whether a mount namespace is made for the container.
    pub fn mount_namespace(&self) -> bool {
        self.mount_namespace
    }

    /// The root file system's canonical path on the machine.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// What a bind mount is at first: the machine's peer if mounts shall spread from the container to the machine.
    pub(super) fn base_of(&self, mount: &Mount) -> Option<Propagation> {
        let shared = |each: &Propagation| each.kind == libc::MS_SHARED;
        let shared = self.propagation.iter().any(shared) || mount.options.propagation.iter().any(shared);
        (!shared).then(|| self.base())
    }

    /// What all the container's mounts are at first: it sees what the machine mounts later, but not the other way round,
    /// unless no propagation at all is asked for.
    pub(super) fn base(&self) -> Propagation {
        let private = self.propagation.is_some_and(Propagation::is_private);
        Propagation { kind: if private { libc::MS_PRIVATE } else { libc::MS_SLAVE }, recursive: true }
    }
}

/// One that is joined is like none: whoever lives there must keep his root (pivot_root(2) takes it from all).
fn is_new_mount_namespace(namespace: &LinuxNamespace) -> bool {
    let joined = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    namespace.typ() == LinuxNamespaceType::Mount && !joined
}

fn rootfs(path: &Path) -> Result<PathBuf, Error> {
    let path = path.canonicalize().map_err(|error| Error::io(format!("root file system {}", path.display()), error))?;
    match path.is_dir() {
        true => Ok(path),
        false => Err(Error::spec(format!("root file system {} is not a directory", path.display()))),
    }
}

fn root_propagation(word: &str) -> Result<Option<Propagation>, Error> {
    if word.is_empty() {
        return Ok(None);
    }
    let propagation = Propagation::parse(word).ok_or_else(|| {
        let words: Vec<_> = super::propagation::words().collect();
        Error::spec(format!("config.json: linux.rootfsPropagation: {word:?} is none of {}", words.join(", ")))
    })?;
    Ok(Some(propagation))
}

fn protected(name: &str, paths: Option<&[String]>) -> Vec<Protected> {
    let one = |(index, path): (usize, &String)| Protected {
        place: format!("config.json: linux.{name}[{index}] {path}"),
        path: normal(Path::new(path)),
    };
    paths.unwrap_or_default().iter().enumerate().map(one).collect()
}

/// Gives the SELinux label to the file systems that know labels; procfs and sysfs have their own.
fn label(mounts: &mut [Mount], label: &str) {
    for mount in mounts.iter_mut().filter(|_| !label.is_empty()) {
        if ["tmpfs", "devpts", "ramfs", "overlay"].iter().any(|name| mount.is(name)) {
            mount.options.data.push(("context".to_owned(), Some(label.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan(change: Value) -> Result<Plan, Error> {
        let mut spec = json!({"ociVersion": "1.2.0", "root": {"path": "tmp"}, "linux": {}});
        for (key, value) in change.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        Plan::new(&serde_json::from_value(spec).expect("a specification"), Path::new("/"), false)
    }

    fn mounts(mounts: Value) -> Result<Vec<Mount>, Error> {
        plan(json!({ "mounts": mounts })).map(|plan| plan.mounts)
    }

    #[test]
    fn what_is_mounted_follows_from_type_and_options() {
        let all = mounts(json!([
            {"destination": "/a", "source": "here", "options": ["rbind"]},
            {"destination": "b/../c/", "source": "/there", "type": "bind"},
            {"destination": "/proc", "type": "proc"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
            {"destination": "/", "type": "none", "options": ["rshared"]},
        ]))
        .expect("a plan");
        assert_eq!(all[0].kind, Kind::Bind { source: "/here".into(), recursive: true });
        assert_eq!(all[1].kind, Kind::Bind { source: "/there".into(), recursive: false });
        assert_eq!(all[1].destination, Path::new("/c"));
        assert_eq!(all[2].kind, Kind::FileSystem { kind: "proc".into(), source: "proc".into() });
        assert_eq!((&all[3].kind, &all[4].kind), (&Kind::Cgroup, &Kind::Remount));
    }

    #[test]
    fn errors_name_the_mount() {
        for (mount, phrase) in [
            (json!({"destination": "/x", "type": "bind"}), "mounts[0] /x: source"),
            (json!({"destination": "/.", "type": "tmpfs"}), "mounts[0] /: only another directory"),
            (json!({"destination": "/proc/self", "source": "/x", "type": "bind"}), "mounts[0] /proc/self: nothing"),
            (json!({"destination": "/proc/12/x", "source": "/x", "type": "bind"}), "mounts[0] /proc/12/x: nothing"),
            (json!({"destination": "", "type": "tmpfs"}), "destination: missing"),
        ] {
            let error = mounts(json!([mount])).expect_err(phrase).to_string();
            assert!(error.contains(phrase), "{error}");
        }
        let error = plan(json!({"linux": {"rootfsPropagation": "rprivat"}})).expect_err("no such word").to_string();
        assert!(error.contains("rootfsPropagation: \"rprivat\""), "{error}");
    }

    #[test]
    fn file_systems_with_labels_get_the_one_given() {
        let mut all = mounts(json!([
            {"destination": "/a", "type": "tmpfs", "options": ["size=1m"]},
            {"destination": "/dev/pts", "type": "devpts"},
            {"destination": "/proc", "type": "proc"},
            {"destination": "/b", "source": "/b", "options": ["bind"]},
        ]))
        .expect("a plan");
        let options = |mount: &Mount| mount.options.data.clone();
        let before: Vec<_> = all.iter().map(options).collect();
        label(&mut all, "");
        assert_eq!(all.iter().map(options).collect::<Vec<_>>(), before);
        // The commas in it are the label's: each option is handed over by itself.
        label(&mut all, "system_u:object_r:container_file_t:s0:c1,c2");
        let context = ("context".to_owned(), Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned()));
        assert_eq!(options(&all[0]), [before[0].clone(), vec![context.clone()]].concat());
        assert_eq!(options(&all[1]), [context]);
        assert_eq!((options(&all[2]), options(&all[3])), (before[2].clone(), before[3].clone()));
    }

    #[test]
    fn a_bound_dev_is_taken_as_it_is() {
        let bound = json!([{"destination": "/dev/", "source": "/dev", "options": ["rbind"]}]);
        let plan = plan(json!({"mounts": bound})).expect("a plan");
        assert!(plan.devices.is_empty() && !plan.dev_links);
    }

    #[test]
    fn only_a_private_root_is_cut_off_from_the_machine() {
        for (word, private) in [("rslave", false), ("rshared", false), ("rprivate", true), ("unbindable", true)] {
            let plan = plan(json!({"linux": {"rootfsPropagation": word}})).expect(word);
            assert_eq!(plan.base().kind == libc::MS_PRIVATE, private, "{word}");
        }
    }
}
