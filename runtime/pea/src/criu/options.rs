//! What a caller may ask of a checkpoint or a restore.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What both have in common; the switches are CRIU's own (criu(8)).
#[derive(Clone, Debug)]
pub struct CriuOptions {
    /// The program.
    pub program: PathBuf,
    /// The directory of the images.
    pub images: PathBuf,
    /// The directory of logs and other by-products; that of the images when absent.
    pub work: Option<PathBuf>,
    /// Keep established TCP connections.
    pub tcp_established: bool,
    /// Allow Unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allow a terminal and a session from outside.
    pub shell_job: bool,
    /// Keep file locks.
    pub file_locks: bool,
    /// Give deleted files that are still open a name again.
    pub link_remap: bool,
    /// Drop pages from earlier images once later ones have them.
    pub auto_dedup: bool,
    /// Serve or take memory when it is first used.
    pub lazy_pages: bool,
    /// How cgroups are dumped and restored; "soft" when absent.
    pub manage_cgroups: Option<String>,
    /// A kind of namespace of which only the existence is kept ("network").
    pub empty_namespace: Option<String>,
}

impl CriuOptions {
    /// With images in that directory, and nothing else asked for.
    pub fn new(images: impl Into<PathBuf>) -> Self {
        Self {
            program: "criu".into(),
            images: images.into(),
            work: None,
            tcp_established: false,
            ext_unix_sk: false,
            shell_job: false,
            file_locks: false,
            link_remap: false,
            auto_dedup: false,
            lazy_pages: false,
            manage_cgroups: None,
            empty_namespace: None,
        }
    }
}

/// How to checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// What it has in common with a restore.
    pub criu: CriuOptions,
    /// Images of an earlier pre-dump, relative to the new ones.
    pub parent: Option<PathBuf>,
    /// Let the container go on; otherwise it is deleted.
    pub leave_running: bool,
    /// Only the memory, and let the container go on.
    pub pre_dump: bool,
    /// Leave TCP connections out that are being made.
    pub tcp_skip_in_flight: bool,
    /// Where the memory is sent instead of into a file: address and port.
    pub page_server: Option<(String, u16)>,
    /// A descriptor that gets a zero byte when lazy pages can be asked for.
    pub status_fd: Option<i32>,
}

/// How to restore.
#[derive(Debug)]
pub struct RestoreOptions {
    /// What it has in common with a checkpoint.
    pub criu: CriuOptions,
    /// What takes the place of the pipe that was standard input; the caller's own when absent.
    pub stdin: Option<OwnedFd>,
    /// The same for standard output.
    pub stdout: Option<OwnedFd>,
    /// The same for standard error.
    pub stderr: Option<OwnedFd>,
    /// A listening Unix socket that receives the master of the pty that was the container's terminal (`process.terminal` must
    /// be set).
    pub console_socket: Option<PathBuf>,
    /// A configuration to use instead of the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// A file that receives the init's pid, whole or not at all.
    pub pid_file: Option<PathBuf>,
    /// TYPE:NAME, the processes' profile from now on.
    pub lsm_profile: Option<String>,
    /// The context of mounts that have one.
    pub lsm_mount_context: Option<String>,
    /// As [`CreateOptions::runtime_namespaces`](crate::CreateOptions::runtime_namespaces). CRIU runs in there, too.
    pub runtime_namespaces: Vec<OwnedFd>,
}

impl RestoreOptions {
    /// From these images, and nothing else asked for.
    pub fn new(criu: CriuOptions) -> Self {
        Self {
            criu,
            stdin: None,
            stdout: None,
            stderr: None,
            console_socket: None,
            config: None,
            pid_file: None,
            lsm_profile: None,
            lsm_mount_context: None,
            runtime_namespaces: Vec::new(),
        }
    }
}
