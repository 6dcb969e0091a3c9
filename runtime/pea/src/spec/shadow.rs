//! The specification as the engine gets it.
//!
//! The engine sets up the surroundings: namespaces, cgroup, mounts, devices, console. What the process itself becomes
//! (user, capabilities, seccomp, environment) is done by [`crate::process`], for `create` and `exec` alike, so that
//! part is taken out here. What remains is brought into the form the engine accepts.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Linux, LinuxNamespace, LinuxNamespaceType, Mount, Process, Root, Spec, User};

use crate::cgroup::devices::Rules;
use crate::error::{Error, reason};
use crate::store::Record;
use crate::sys;

/// What the engine builds from.
pub struct Shadow {
    pub spec: Spec,
    /// The namespaces to join; the specification names them through these descriptors.
    pub namespaces: Vec<File>,
    /// Those to be joined before the engine begins.
    pub first: Vec<File>,
}

/// Whoever has joined a user namespace cannot join these any more when they belong to the machine. They are joined
/// first then, by the helper, from whom the container inherits them.
const LOST_WITH_PRIVILEGE: [LinuxNamespaceType; 3] =
    [LinuxNamespaceType::Network, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts];

/// Makes the engine's specification out of the caller's.
pub fn shadow(spec: &Spec, devices: &Rules, record: &Record) -> Result<Shadow, Error> {
    let mut shadow = spec.clone();
    let (mut namespaces, mut first) = (Vec::new(), Vec::new());
    let mut root = Root::default();
    root.set_path(record.rootfs.clone());
    root.set_readonly(spec.root().as_ref().and_then(|root| root.readonly()));
    shadow.set_root(Some(root));
    shadow.set_process(spec.process().as_ref().map(process));
    shadow.set_mounts(
        spec.mounts().as_ref().map(|mounts| mounts.iter().map(|each| mount(each, &record.bundle)).collect()),
    );
    shadow.set_hooks(spec.hooks().as_ref().and_then(hooks));
    if let Some(linux) = spec.linux() {
        let mut adapted = adapt(linux, &record.cgroup, &mut namespaces, &mut first)?;
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.set_devices(Some(devices.to_spec()));
        adapted.set_resources(Some(resources));
        let has = |kind| adapted.namespaces().iter().flatten().any(|each| each.typ() == kind);
        if !has(LinuxNamespaceType::Uts) {
            // The joined one has its names already, and the engine sets them for a namespace it knows of only.
            shadow.set_hostname(None);
            shadow.set_domainname(None);
        }
        shadow.set_linux(Some(adapted));
    }
    Ok(Shadow { spec: shadow, namespaces, first })
}

fn adapt(linux: &Linux, cgroup: &Path, files: &mut Vec<File>, first: &mut Vec<File>) -> Result<Linux, Error> {
    let mut shadow = linux.clone();
    shadow.set_cgroups_path(Some(cgroup.to_owned()));
    shadow.set_seccomp(None);
    shadow.set_personality(None);
    shadow.set_memory_policy(None);
    shadow.set_rootfs_propagation(linux.rootfs_propagation().as_deref().map(propagation));
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let user = namespaces.iter().any(|each| each.typ() == LinuxNamespaceType::User);
    let mut rest = Vec::new();
    for each in namespaces {
        let path = each.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        if user && path && LOST_WITH_PRIVILEGE.contains(&each.typ()) {
            namespace(each, first)?;
        } else {
            rest.push(namespace(each, files)?);
        }
    }
    shadow.set_namespaces(Some(rest));
    Ok(shadow)
}

/// Only what concerns the surroundings. As root with every capability, for [`crate::process`] to give up; with a
/// HOME, for without one the engine would ask the C library for the user, in files of the container's own.
fn process(process: &Process) -> Process {
    let mut shadow = Process::default();
    shadow.set_terminal(process.terminal());
    shadow.set_user(User::default());
    shadow.set_args(process.args().clone());
    shadow.set_env(Some(vec!["PATH=/".to_owned(), "HOME=/".to_owned()]));
    shadow.set_cwd(PathBuf::from("/"));
    shadow.set_capabilities(None);
    shadow.set_rlimits(None);
    shadow.set_no_new_privileges(None);
    shadow.set_oom_score_adj(None);
    shadow.set_io_priority(None);
    shadow.set_scheduler(None);
    shadow
}

/// A source may be missing (runtime-spec, "Mounts"), and a relative one is relative to the bundle.
///
/// `tmpcopyup` is no option of the kernel's: the content of the image stays hidden beneath the tmpfs.
fn mount(mount: &Mount, bundle: &Path) -> Mount {
    let mut shadow = mount.clone();
    let options: Vec<String> = mount.options().iter().flatten().filter(|each| *each != "tmpcopyup").cloned().collect();
    let bind = mount.typ().as_deref() == Some("bind") || options.iter().any(|each| each == "bind" || each == "rbind");
    let source = match mount.source() {
        Some(source) if bind => bundle.join(source),
        Some(source) if !source.as_os_str().is_empty() => source.clone(),
        _ => PathBuf::from(mount.typ().as_deref().unwrap_or("none")),
    };
    shadow.set_source(Some(source));
    shadow.set_destination(Path::new("/").join(mount.destination()));
    shadow.set_options(Some(options));
    shadow
}

/// The engine makes the root's propagation recursive anyway, and knows the words for that only without their "r".
fn propagation(word: &str) -> String {
    match word {
        "rshared" | "rslave" | "rprivate" | "runbindable" => word[1..].to_owned(),
        _ => word.to_owned(),
    }
}

/// Hooks that run outside the container at its start and end, and inside it before the program, are run by us.
fn hooks(hooks: &Hooks) -> Option<Hooks> {
    let mut shadow = hooks.clone();
    shadow.set_start_container(None);
    shadow.set_poststart(None);
    shadow.set_poststop(None);
    #[allow(deprecated)] // by the specification, yet in use
    let prestart = hooks.prestart();
    let empty = [prestart, hooks.create_runtime(), hooks.create_container()]
        .into_iter()
        .all(|kind| kind.as_ref().is_none_or(Vec::is_empty));
    if empty { None } else { Some(shadow) }
}

/// A namespace to join is opened, and its kind checked, here and now: once a user namespace has been joined the path
/// may not be readable any more, and by then it might be another's.
fn namespace(namespace: &LinuxNamespace, files: &mut Vec<File>) -> Result<LinuxNamespace, Error> {
    let mut shadow = namespace.clone();
    let path = match namespace.path() {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => {
            shadow.set_path(None);
            return Ok(shadow);
        }
    };
    let what = format!("config.json: linux.namespaces: {} namespace {}", namespace.typ(), path.display());
    let file = File::open(path).map_err(|error| Error::spec(format!("{what}: {}", reason(&error))))?;
    match sys::namespace_type(&file) {
        Ok(kind) if kind == flag(namespace.typ()) => {}
        _ => return Err(Error::spec(format!("{what}: this is no {} namespace", namespace.typ()))),
    }
    shadow.set_path(Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))));
    files.push(file);
    Ok(shadow)
}

fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80, // CLONE_NEWTIME
    }
}
