//! Driving a shim: what `peapod` uses in place of containerd.
//!
//! [`bootstrap::start`] brings the shim of a bundle up, [`Shim`] speaks to it, and
//! [`bootstrap::delete`] clears up after one that has died.

pub mod bootstrap;
mod error;
mod shim;
mod types;

pub use bootstrap::{Bootstrap, delete};
pub use error::Error;
pub use shim::Shim;
pub use types::{CreateTask, Exit, Mount, StartedSandbox, TaskProcess, TaskState, TaskStatus};

pub use crate::stdio::Stdio;
