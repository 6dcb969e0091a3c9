//! `pea`, an OCI runtime as a library: one bundle in, one container out.
//!
//! [`Runtime`] holds a state root and offers the verbs of the OCI runtime
//! specification. `create` and `exec` fork, so they want a single-threaded caller
//! and refuse any other; the work goes on in a helper child, and the caller gets a
//! [`Pending`] it can wait for or put into its event loop. The caller itself is never
//! changed: not its working directory, its signal mask, its umask, nor its
//! dumpable flag.
//!
//! It knows nothing of pods, images, Kubernetes or containerd.

pub mod cgroup;
#[doc(hidden)] // the command line: no part of the library's interface
pub mod command;
mod criu;
#[doc(hidden)] // for tests and fuzzing: no part of the library's interface
pub mod dry;
mod engine;
mod error;
mod helper;
mod hooks;
mod options;
mod pending;
mod pidfd_socket;
mod process;
pub mod protect;
mod rdt;
mod rootfs;
mod runtime;
mod seccomp;
mod small_file;
mod socket;
mod spec;
mod state;
mod stats;
mod store;
mod sys;
mod verb;

pub use cgroup::{OomEvents, OomWatch};
pub use criu::{CheckpointOptions, CriuOptions, RestoreOptions};
pub use error::{Error, ErrorKind};
pub use options::{CgroupDriver, CreateOptions, ExecOptions};
pub use pending::Pending;
pub use rootfs::{RootMount, mount_root, unmount_root};
pub use runtime::Runtime;
pub use state::{State, Status, Traits};
pub use stats::{
    BlkioStats, CgroupVersion, CpuStats, CpusetStats, HugetlbStats, IoEntry, MemoryCounter, MemoryStats, PidsStats,
    Pressure, PressureLine, RdmaStats, RdtDomain, RdtStats, Stats,
};

/// What this runtime can do, as `pea features` prints it (runtime-spec, features.md).
pub fn features() -> serde_json::Value {
    command::features::document()
}

/// The version of the OCI runtime specification this runtime was written against.
pub const OCI_VERSION: &str = "1.2.1";
