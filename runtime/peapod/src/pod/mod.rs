//! A pod's life: its record, who drives it, how it is brought up, watched, restarted and taken down.
//!
//! A pod exists when its record does ([`Record`]). It is driven by whoever holds its lock ([`PodLock`]): a keeper
//! process of its own ([`keep`]), or the command that stops or removes it. What the driver knows is on disk
//! ([`Status`]), so that the next one goes on where the last one was killed.

mod backoff;
mod driver;
mod keeper;
mod key;
mod launch;
mod lock;
mod log;
mod oom;
mod plan;
mod record;
mod report;
mod sandbox;
mod spawn;
mod status;
mod teardown;
mod unit;

pub use backoff::{Backoff, Kind, restarts};
pub use keeper::keep;
pub use key::{Key, Places, cgroup, task_id};
pub use lock::{PodLock, Role};
pub use log::LogReader;
pub use plan::check;
pub use record::{Desired, Record, Registry, list};
pub use report::{Report, Reports};
pub use spawn::{ensure_keeper, start};
pub use status::{ContainerStatus, Ended, Phase, Sandbox, State, Status};
pub use teardown::{remove, stop};
