//! A CNI plugin: bridge, addresses and masquerading for pods, by netlink alone.
//!
//! | module | what | knows |
//! |---|---|---|
//! | [`spec`] | the CNI specification as types; used by runtimes too | nothing below |
//! | [`plugin`] | the verbs: plan, apply, undo | all of these |
//! | [`ipam`] | address ranges and leases, host-local's files | `spec` |
//! | [`netlink`] | typed operations on links, addresses, routes, nf_tables | nothing |
//!
//! The binary `cni-bridge` is [`plugin::run`] with the process's environment and stdin.

pub mod ipam;
pub mod netlink;
pub mod plugin;
pub mod spec;
