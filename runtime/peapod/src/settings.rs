//! Where everything lies: the global flags and their defaults.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};

/// The directories and programs peapod works with. Every one is a flag and an environment variable.
#[derive(clap::Args, Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// What runs now: records, sockets, mounts. Gone with the boot.
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "PEAPOD_STATE",
        default_value = "/run/peapod",
        value_name = "DIR"
    )]
    pub state: PathBuf,
    /// Images, writable layers and emptyDir volumes.
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "PEAPOD_ROOT",
        default_value = "/var/lib/peapod",
        value_name = "DIR"
    )]
    pub root: PathBuf,
    /// What containers print.
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "PEAPOD_LOG_DIR",
        default_value = "/var/log/peapod",
        value_name = "DIR"
    )]
    pub log_dir: PathBuf,
    /// CNI network configurations; without one the built-in network on cni0 is used.
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "PEAPOD_CNI_CONF_DIR",
        default_value = "/etc/peapod/net.d",
        value_name = "DIR"
    )]
    pub cni_conf_dir: PathBuf,
    /// CNI plugins; may be given several times [default: beside peapod, /opt/cni/bin, /usr/lib/cni].
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "PEAPOD_CNI_BIN_DIR",
        value_delimiter = ':',
        value_name = "DIR"
    )]
    pub cni_bin_dir: Vec<PathBuf>,
    /// The shim that holds a pod [default: containerd-shim-pea-v2 beside peapod, then in PATH].
    #[arg(long, global = true, hide_env_values = true, env = "PEAPOD_SHIM", value_name = "FILE")]
    pub shim: Option<PathBuf>,
}

/// The shim's program name, by containerd's rule for `io.containerd.pea.v2`.
const SHIM: &str = "containerd-shim-pea-v2";

impl Settings {
    /// The same settings with every path absolute and every default filled in, so that a keeper
    /// started from them does not depend on the directory or the environment of this command.
    pub fn resolve(mut self) -> Result<Settings> {
        for path in [&mut self.state, &mut self.root, &mut self.log_dir, &mut self.cni_conf_dir] {
            *path = absolute(path)?;
        }
        let beside = own_directory();
        if self.cni_bin_dir.is_empty() {
            self.cni_bin_dir.extend(beside.clone());
            self.cni_bin_dir.extend([PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")]);
        }
        for path in &mut self.cni_bin_dir {
            *path = absolute(path)?;
        }
        self.shim = match self.shim.take() {
            Some(path) => Some(absolute(&path)?),
            None => beside.map(|dir| dir.join(SHIM)).filter(|path| path.is_file()).or_else(|| in_path(SHIM)),
        };
        Ok(self)
    }

    /// The shim's program; an error when there is none.
    pub fn shim(&self) -> Result<&Path> {
        let shim = self.shim.as_deref().ok_or(Error::NoShim)?;
        if shim.is_file() { Ok(shim) } else { Err(Error::MissingShim(shim.to_owned())) }
    }

    /// The directory of all pods' records.
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// The environment that gives another peapod these very settings.
    ///
    /// By environment and not by flags: the keeper's command line stays `peapod keep <key>`, to be read in `ps`.
    pub fn to_env(&self) -> Vec<(&'static str, OsString)> {
        let mut env: Vec<(&'static str, OsString)> = vec![
            ("PEAPOD_STATE", self.state.clone().into()),
            ("PEAPOD_ROOT", self.root.clone().into()),
            ("PEAPOD_LOG_DIR", self.log_dir.clone().into()),
            ("PEAPOD_CNI_CONF_DIR", self.cni_conf_dir.clone().into()),
        ];
        env.push(("PEAPOD_CNI_BIN_DIR", self.cni_bin_dirs()));
        env.extend(self.shim.clone().map(|shim| ("PEAPOD_SHIM", shim.into())));
        env
    }

    /// The plugin directories as CNI_PATH has them.
    pub fn cni_bin_dirs(&self) -> OsString {
        self.cni_bin_dir.iter().map(|dir| dir.as_os_str()).collect::<Vec<_>>().join(OsStr::new(":"))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context("making absolute", path)
}

fn own_directory() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_path_buf())
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
