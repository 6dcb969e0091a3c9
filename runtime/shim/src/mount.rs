//! A container's root file system, in the words it is asked for. pea mounts it.

use std::path::Path;

use containerd_shim_protos::api;

use crate::error::Error;

/// Mounts in order; when one fails, those before it are undone.
pub fn mount_all(mounts: &[api::Mount], rootfs: &Path) -> Result<(), Error> {
    let mounts: Vec<pea::RootMount> = mounts.iter().map(wanted).collect();
    Ok(pea::mount_root(rootfs, &mounts)?)
}

fn wanted(mount: &api::Mount) -> pea::RootMount {
    let mut options = mount.options.clone();
    // For mount(8) the type alone says it.
    if matches!(mount.type_.as_str(), "bind" | "rbind") && !options.iter().any(|word| word == "bind" || word == "rbind")
    {
        options.push(mount.type_.clone());
    }
    pea::RootMount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone().into(),
        options,
    }
}

/// Unmounts all that lies on `rootfs`. Succeeds when nothing does, or when it does not exist.
pub fn unmount(rootfs: &Path) -> Result<(), Error> {
    Ok(pea::unmount_root(rootfs)?)
}
