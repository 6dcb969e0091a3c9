//! What a container's specification says of processes executed in it later.

use std::io;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxMemoryPolicy, LinuxPersonality, LinuxSeccomp, Process};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::spec;
use crate::store::Container;

/// The container's own process, and what applies to every process of it.
#[derive(Clone, Debug)]
pub struct Template {
    pub process: Process,
    pub linux: Linux,
}

/// The parts of a `config.json` that matter here. The others, which are most of it, are passed over.
#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    process: Option<&'a RawValue>,
    linux: Option<ConfigLinux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigLinux {
    seccomp: Option<LinuxSeccomp>,
    personality: Option<LinuxPersonality>,
    memory_policy: Option<LinuxMemoryPolicy>,
}

impl Template {
    /// From the specification as it was at create.
    pub fn read(container: &Container) -> Result<Self, Error> {
        let path = container.spec_path();
        let text = crate::small_file::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::does_not_exist(container.id()),
            _ => Error::io(format!("read {}", path.display()), error),
        })?;
        Self::decode(&text, &path).or_else(|error| {
            // Of a key that is there twice the last counts, as at create.
            let plain = serde_json::from_slice::<Value>(&text).and_then(|value| serde_json::to_vec(&value));
            plain.map_or(Err(error), |text| Self::decode(&text, &path))
        })
    }

    fn decode(text: &[u8], path: &Path) -> Result<Self, Error> {
        let broken = |error: serde_json::Error| Error::spec(format!("{}: {error}", path.display()));
        let config: Config<'_> = serde_json::from_slice(text).map_err(broken)?;
        let mut linux: Linux = serde_json::from_str("{}").map_err(broken)?;
        if let Some(given) = config.linux {
            linux.set_seccomp(given.seccomp).set_personality(given.personality).set_memory_policy(given.memory_policy);
        }
        let process = config.process.map_or("{}", RawValue::get);
        let process = spec::parse_process(process.as_bytes(), path)?;
        Ok(Self { process, linux })
    }

    /// Confines `process` as the container's own is, wherever it says nothing itself. Its rights are its own affair:
    /// user, groups and capabilities not given are not had.
    pub fn complete(&self, process: &mut Process) {
        let own = &self.process;
        let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        if empty(process.apparmor_profile()) {
            process.set_apparmor_profile(own.apparmor_profile().clone());
        }
        if empty(process.selinux_label()) {
            process.set_selinux_label(own.selinux_label().clone());
        }
        if process.no_new_privileges().is_none() {
            process.set_no_new_privileges(own.no_new_privileges());
        }
        if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
            process.set_rlimits(own.rlimits().clone());
        }
        if process.oom_score_adj().is_none() {
            process.set_oom_score_adj(own.oom_score_adj());
        }
        if process.scheduler().is_none() {
            process.set_scheduler(own.scheduler().clone());
        }
        if process.io_priority().is_none() {
            process.set_io_priority(*own.io_priority());
        }
        if process.exec_cpu_affinity().is_none() {
            process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
        }
    }
}
