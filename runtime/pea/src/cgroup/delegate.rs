//! Giving a cgroup to the container's user (config-linux.md, "Cgroup ownership").

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use super::hierarchy::Layout;
use crate::error::Error;

/// Which files of a cgroup its owner must own, for kernels that do not say (before Linux 4.15).
const DELEGATED: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// The user of the machine who shall own the container's cgroup, if anybody but its maker: with the unified hierarchy
/// alone, when the container has a cgroup namespace and a user namespace of its own, and cgroups mounted for writing.
pub fn owner(spec: &Spec, layout: &Layout) -> Option<u32> {
    let linux = spec.linux().as_ref()?;
    let has_own = |kind| {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        namespaces.iter().any(|namespace| namespace.typ() == kind && namespace.path().is_none())
    };
    let writable = spec.mounts().iter().flatten().any(|mount| {
        let read_only = mount.options().iter().flatten().any(|option| option == "ro");
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) && !read_only
    });
    if !layout.is_unified_alone()
        || !has_own(LinuxNamespaceType::Cgroup)
        || !has_own(LinuxNamespaceType::User)
        || !writable
    {
        return None;
    }
    let user = spec.process().as_ref().map_or(0, |process| process.user().uid());
    mapped(linux.uid_mappings().as_deref().unwrap_or_default(), user)
}

/// The machine's id of a user of the container.
fn mapped(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id()).filter(|offset| *offset < mapping.size())?;
        mapping.host_id().checked_add(offset)
    })
}

/// Gives the cgroup's directory to its new owner, and those of its files that the kernel names.
pub fn hand_over(dir: &Path, owner: u32) -> Result<(), Error> {
    let files = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| DELEGATED.to_owned());
    let paths = std::iter::once(dir.to_owned()).chain(files.lines().map(|file| dir.join(file)));
    for path in paths {
        match std::os::unix::fs::chown(&path, Some(owner), None) {
            // Of a controller that is not enabled, or a cgroup that could not be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("give {} to user {owner}", path.display()), error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::resources::testing;
    use super::*;

    fn spec() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 5, "gid": 5}, "cwd": "/", "args": ["sh"]},
            "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}],
            "linux": {
                "namespaces": [{"type": "user"}, {"type": "cgroup"}, {"type": "mount"}],
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 100}],
            },
        })
    }

    fn of(spec: Value) -> Option<u32> {
        owner(&serde_json::from_value(spec).expect("a spec"), &testing::v2())
    }

    #[test]
    fn the_owner_is_the_containers_user_as_the_machine_knows_it() {
        assert_eq!(of(spec()), Some(100_004));
        let mut as_root = spec();
        as_root["process"]["user"]["uid"] = json!(0);
        assert_eq!(of(as_root), Some(1000));
    }

    #[test]
    fn nobody_owns_what_cannot_be_used() {
        let mut read_only = spec();
        read_only["mounts"][0]["options"] = json!(["nosuid", "ro"]);
        assert_eq!(of(read_only), None);
        let mut joined = spec();
        joined["linux"]["namespaces"][1]["path"] = json!("/proc/1/ns/cgroup");
        assert_eq!(of(joined), None);
        let mut no_user_namespace = spec();
        no_user_namespace["linux"]["namespaces"].as_array_mut().expect("a list").remove(0);
        assert_eq!(of(no_user_namespace), None);
        assert_eq!(owner(&serde_json::from_value(spec()).expect("a spec"), &testing::v1()), None);
    }
}
