//! A containerd runtime v2 shim with `pea` linked in: one single-threaded process for a whole pod.
//!
//! [`client`] is how `peapod` drives it; the rest is the shim itself, from the command line
//! ([`bootstrap`]) over [`launch`] and [`daemon`] to the [`server`], and [`cleanup`] for what is left.

mod aside;
pub mod bootstrap;
mod caller;
pub mod cleanup;
pub mod client;
pub mod daemon;
#[doc(hidden)] // for tests and fuzzing: no part of the library's interface
pub mod dry;
pub mod error;
mod events;
mod fields;
pub mod info;
pub mod input;
pub mod launch;
mod lock;
mod log;
mod mount;
mod options;
mod peers;
mod pod;
mod reap;
mod record;
mod rest;
pub mod sandbox;
pub mod server;
mod signals;
mod stats;
mod stdio;
mod sys;
mod task;
mod usage;
mod wire;

pub use sys::Heap;
