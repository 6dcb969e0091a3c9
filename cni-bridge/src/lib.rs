//! A CNI plugin: bridge, addresses and masquerading for pods, by netlink alone.
//!
//! | module | what | knows |
//! |---|---|---|
//! | [`spec`] | the CNI specification as types; used by runtimes too | nothing below |
//! | [`plugin`] | the verbs: plan, apply, undo | all of these |
//! | [`ipam`] | address ranges and leases, host-local's files | `spec` |
//! | [`netlink`] | typed operations on links, addresses, routes, nf_tables | nothing |
//!
//! Beside them, [`dry`] does what a call does before it touches anything, for tests.
//!
//! The binary `cni-bridge` is [`plugin::run`] with the process's environment and stdin.

pub mod dry;
pub mod ipam;
pub mod netlink;
pub mod plugin;
mod small_file;
pub mod spec;
