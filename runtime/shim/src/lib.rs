//! A containerd runtime v2 shim with `pea` linked in: one single-threaded process for a whole pod.

pub mod client;
pub mod error;
mod options;
pub mod sandbox;
