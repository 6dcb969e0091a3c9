//! The container's file system: its root, its mounts, its devices, and what of it is masked or read-only.
//!
//! Three steps, in three places:
//! 1. [`Plan::new`] reads the specification. Nothing is touched.
//! 2. [`Plan::open`], outside of the container, with the rights of the caller: the root file system and the sources of
//!    bind mounts become detached mount trees. What a path meant then is what is mounted, whoever changes it later, and
//!    a user namespace needs no rights on it.
//! 3. [`Root`], in the init: everything is attached beneath the root, by descriptors (see [`beneath`]).

mod beneath;
mod cgroup;
mod copy;
mod descriptors;
mod device;
mod id_map;
mod mount;
mod option;
mod plan;
mod procfs;
mod propagation;
mod protect;
mod root;
mod source;
mod supplied;
mod sysctl;
mod uncontained;

use std::path::PathBuf;

pub use beneath::{enter as enter_directory, make_directory};
pub use option::names as option_names;
pub use plan::Plan;
pub use root::Root;
pub use source::Sources;
pub use supplied::{RootMount, mount_root, unmount_root};
pub use uncontained::{detach, mount_id};

/// What the mounts depend on besides the specification.
#[derive(Clone, Debug)]
pub struct Context {
    /// Enter the root by moving its mount, for an initramfs, which pivot_root(2) cannot leave.
    pub no_pivot: bool,
    /// Whether the container has a user namespace of its own.
    pub user_namespace: bool,
    /// Whether it has a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// The container's cgroup: the same absolute path in every hierarchy.
    pub cgroup: PathBuf,
}

#[cfg(test)]
mod tests;
