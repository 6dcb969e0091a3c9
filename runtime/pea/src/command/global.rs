//! The options that stand before the verb.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use nix::unistd::{AccessFlags, access, geteuid};
use tracing::Level;

use crate::CgroupDriver;

/// What stands before the verb.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Where containers are kept; of this boot only, so on a tmpfs [default: /run/pea, or pea in $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Append errors and warnings to this file, besides printing them
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// The form of the log
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What is told of: errors always, and no more than this
    #[arg(long, value_enum, default_value_t)]
    log_level: LogLevel,
    /// Tell of everything, as --log-level debug
    #[arg(long)]
    debug: bool,
    /// Have systemd make the cgroup; cgroupsPath is slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who makes the cgroup
    #[arg(long, value_enum, default_value_t)]
    cgroup_manager: CgroupManager,
    /// Whether a cgroup that may not be made or changed is no failure
    #[arg(long, value_enum, default_value_t)]
    rootless: Rootless,
    /// The program that checkpoints and restores
    #[arg(long, value_name = "PROGRAM", default_value = "criu")]
    pub criu: PathBuf,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// key="value" pairs
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// How much is told.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogLevel {
    Error,
    #[default]
    Warning,
    Info,
    Debug,
}

/// Who makes the cgroup.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum CgroupManager {
    /// This runtime; cgroupsPath is a path
    #[default]
    Cgroupfs,
    /// systemd; cgroupsPath is slice:prefix:name
    Systemd,
    /// Nobody: the container stays in the cgroup of its caller
    Disabled,
}

/// Whether missing rights to cgroups are forgiven.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Rootless {
    /// If this process is not the machine's root
    #[default]
    Auto,
    True,
    False,
}

impl Global {
    /// Where the log is, found in a command line that made no sense otherwise.
    pub fn for_errors(words: &[OsString]) -> Self {
        let mut global = Self::default();
        let options = words.iter().filter_map(|word| word.to_str()).take_while(|word| word.starts_with('-'));
        for (name, value) in options.filter_map(|word| word.split_once('=')) {
            match (name, value) {
                ("--log", path) => global.log = Some(path.into()),
                ("--log-format", "json") => global.log_format = LogFormat::Json,
                _ => {}
            }
        }
        global
    }

    /// Where containers are kept.
    pub fn root(&self) -> PathBuf {
        match (&self.root, env::var_os("XDG_RUNTIME_DIR")) {
            (Some(root), _) => root.clone(),
            (None, Some(dir)) if !dir.is_empty() && is_a_users() => Path::new(&dir).join("pea"),
            (None, _) => "/run/pea".into(),
        }
    }

    /// Who makes the cgroup.
    pub fn driver(&self) -> CgroupDriver {
        match self.cgroup_manager {
            _ if self.systemd_cgroup => CgroupDriver::Systemd,
            CgroupManager::Systemd => CgroupDriver::Systemd,
            CgroupManager::Cgroupfs => CgroupDriver::Cgroupfs,
            CgroupManager::Disabled => CgroupDriver::Disabled,
        }
    }

    /// Whether a cgroup that may not be made or changed is no failure.
    pub fn rootless(&self) -> bool {
        match self.rootless {
            Rootless::Auto => !geteuid().is_root() || in_user_namespace(),
            Rootless::True => true,
            Rootless::False => false,
        }
    }

    /// The most detailed level that is told.
    pub fn level(&self) -> Level {
        match self.log_level {
            _ if self.debug => Level::DEBUG,
            LogLevel::Error => Level::ERROR,
            LogLevel::Warning => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
        }
    }
}

/// Whether the caller is a user of the machine and not its root, or is root of a user namespace that a container engine has
/// made for such a user (podman). In a container with a user namespace /run is root's own.
fn is_a_users() -> bool {
    !geteuid().is_root() || in_user_namespace() && access("/run", AccessFlags::W_OK).is_err()
}

/// Whether root here is somebody else on the machine: the first user namespace maps all ids to themselves.
fn in_user_namespace() -> bool {
    let map = crate::small_file::read_text("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}
