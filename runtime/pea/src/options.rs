//! What a caller may ask for beyond the bundle.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How the control groups are named.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CgroupDriver {
    /// This runtime, by writing to the cgroup file systems; `cgroupsPath` is a path.
    #[default]
    Cgroupfs,
    /// systemd, asked over D-Bus for a transient scope: `cgroupsPath` is `slice:prefix:name`. Who is not the machine's
    /// root asks the systemd of the user.
    Systemd,
    /// Nobody: the container stays in its caller's cgroup, and nothing is limited or counted.
    Disabled,
}

/// How to create a container.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// The container's standard input; the caller's own when absent.
    pub stdin: Option<OwnedFd>,
    /// The container's standard output; the caller's own when absent.
    pub stdout: Option<OwnedFd>,
    /// The container's standard error; the caller's own when absent.
    pub stderr: Option<OwnedFd>,
    /// A listening Unix socket that receives the pty's master (`process.terminal` must be set).
    pub console_socket: Option<PathBuf>,
    /// A file that receives the init's pid, whole or not at all.
    pub pid_file: Option<PathBuf>,
    /// Move the root with MS_MOVE and chroot instead of pivot_root (a root on a ramdisk).
    pub no_pivot: bool,
    /// Keep the caller's session keyring instead of making a new one.
    pub no_new_keyring: bool,
    /// How many descriptors after 2 the container inherits (3 .. 3 + n).
    pub preserve_fds: u32,
    /// A listening Unix socket that receives a pidfd of the init before anybody may learn its number.
    pub pidfd_socket: Option<PathBuf>,
    /// A configuration to use instead of the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// Variables added to the environment of the container's process, NAME=VALUE.
    pub env: Vec<String>,
    /// Give the container a directory for a socket that it tells its readiness to (sd_notify(3)); see
    /// [`Runtime::notify_socket`](crate::Runtime::notify_socket).
    pub notify_socket: bool,
    /// Go on where this process may not make or change cgroups.
    pub rootless: bool,
    /// The runtime namespaces (runtime-spec, glossary) of kinds in which the caller has left them: network, IPC, UTS. Hooks run
    /// in there, network devices come from there, and a container has those that its configuration does not name.
    pub runtime_namespaces: Vec<OwnedFd>,
}

/// How to start one more process in a container.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// The process's standard input; the caller's own when absent.
    pub stdin: Option<OwnedFd>,
    /// The process's standard output; the caller's own when absent.
    pub stdout: Option<OwnedFd>,
    /// The process's standard error; the caller's own when absent.
    pub stderr: Option<OwnedFd>,
    /// A listening Unix socket that receives the pty's master (`process.terminal` must be set).
    pub console_socket: Option<PathBuf>,
    /// A file that receives the process's pid, whole or not at all.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after 2 the process inherits (3 .. 3 + n).
    pub preserve_fds: u32,
    /// A listening Unix socket that receives a pidfd of the process before anybody may learn its number.
    pub pidfd_socket: Option<PathBuf>,
    /// Cgroups below the container's for the process, each `PATH` or, on v1, `CONTROLLER[,CONTROLLER...]:PATH`; they
    /// must exist. Without any the process is in the container's own.
    pub cgroup: Vec<String>,
    /// Serve a paused container too: its process begins when the container is resumed, and only then the outcome is
    /// known.
    pub ignore_paused: bool,
}
