//! What can go wrong with a pod's network.

use std::io;
use std::path::PathBuf;

/// Why the network cannot be configured, attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A configuration file cannot be read.
    #[error("reading the network configuration {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A configuration file is not what CNI wants.
    #[error("network configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A plugin's program was not found.
    #[error("network {network}: plugin {plugin} is in none of {searched} (--cni-bin-dir names more directories)")]
    NoPlugin {
        /// The network's name.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// Where it was looked for.
        searched: String,
    },
    /// A plugin's program could not be run.
    #[error("network {network}: {verb} by plugin {plugin} ({}): {source}", program.display())]
    Run {
        /// The network's name.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// What it was to do.
        verb: &'static str,
        /// Its program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A plugin did not end in time and was killed.
    #[error("network {network}: {verb} by plugin {plugin} had not ended after {seconds} s and was killed")]
    Deadline {
        /// The network's name.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// What it was doing.
        verb: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// A plugin refused.
    #[error("network {network}: {verb} by plugin {plugin} failed: {reason}")]
    Plugin {
        /// The network's name.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// What it was to do.
        verb: &'static str,
        /// Its answer.
        reason: String,
    },
    /// A step of our own failed.
    #[error("{doing}: {reason}")]
    Step {
        /// What was being done.
        doing: String,
        /// Why it failed.
        reason: String,
    },
    /// Several plugins failed to detach.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<NetworkError>),
}
