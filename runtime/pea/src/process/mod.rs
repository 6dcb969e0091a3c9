//! What a process of a container becomes before it runs the user's program: the same for the container's first
//! process and for those executed later.

mod affinity;
pub mod capability;
mod confine;
mod console;
mod home;
mod list;
mod lookup;
mod memory;
mod null;
mod personality;
mod plan;
mod scheduler;

pub use confine::{Launch, confine};
pub use console::{connect, open as open_console, send as send_console};
pub use null::reopen_null;
pub use plan::{OOM_SCORE, Plan};
