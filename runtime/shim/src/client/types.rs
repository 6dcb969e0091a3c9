//! What requests and answers are made of.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::EnumOrUnknown;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::types::task::Status;

use crate::stdio::Stdio;

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exit {
    /// The pid it had (0 where the request does not tell).
    pub pid: u32,
    /// Its exit code, or 128 + the signal that ended it.
    pub status: u32,
    /// When.
    pub at: Option<jiff::Timestamp>,
}

impl Exit {
    pub(super) fn new(pid: u32, status: u32, at: Option<&Timestamp>) -> Self {
        Self { pid, status, at: at.and_then(instant) }
    }
}

/// A mount of the container's root file system, in fstab's words.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mount {
    /// The file system's type, or `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// The options, one each.
    pub options: Vec<String>,
}

/// What it takes to create a container.
#[derive(Clone, Debug, Default)]
pub struct CreateTask {
    /// The container's id.
    pub id: String,
    /// Its bundle: `config.json` and an (empty) `rootfs` directory.
    pub bundle: PathBuf,
    /// Mounted on `<bundle>/rootfs` in this order; none when the root file system is there already.
    pub rootfs: Vec<Mount>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// The images of a checkpoint. The container's processes come from there when it is started; until then it has no pid.
    pub checkpoint: Option<PathBuf>,
    /// The program CRIU; looked for in the shim's `PATH` when absent.
    pub criu: Option<PathBuf>,
}

/// What [`Shim::start_sandbox`] tells of the pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StartedSandbox {
    /// `/proc/<pid>/ns/*` are the pod's namespaces.
    pub pid: u32,
    /// When the pod was created.
    pub created_at: Option<jiff::Timestamp>,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TaskStatus {
    /// Not started yet.
    Created,
    /// Running.
    Running,
    /// Ended.
    Stopped,
    /// Frozen.
    Paused,
    /// Something newer than this client.
    Unknown,
}

/// The state of a container's init or of an exec'd process.
#[derive(Clone, Debug)]
pub struct TaskState {
    /// Its pid on the node; 0 before it has one.
    pub pid: u32,
    /// Where it stands.
    pub status: TaskStatus,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// One process of a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaskProcess {
    /// Its pid on the node.
    pub pid: u32,
    /// The exec it was started by, when by one directly.
    pub exec_id: Option<String>,
}

/// A moment; `None` when it cannot be one.
pub(super) fn instant(timestamp: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok()
}

/// Where a process stands, from the wire.
pub(super) fn status(wire: EnumOrUnknown<Status>) -> TaskStatus {
    match wire.enum_value() {
        Ok(Status::CREATED) => TaskStatus::Created,
        Ok(Status::RUNNING) => TaskStatus::Running,
        Ok(Status::STOPPED) => TaskStatus::Stopped,
        Ok(Status::PAUSED | Status::PAUSING) => TaskStatus::Paused,
        _ => TaskStatus::Unknown,
    }
}
