//! From JSON to the specification's types.
//!
//! Their own reader checks `execCPUAffinity` with a regular expression, whose engine would be a sixth of the program, and
//! reads what is for other systems, which is passed over here. So the two outer types are read by ours.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Box as ConsoleSize, ExecCPUAffinity, Hooks, Linux, LinuxCapabilities, LinuxIOPriority, Mount, PosixRlimit, Process,
    Root, Scheduler, Spec, User,
};
use serde::Deserialize;

/// As [`Spec`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    oci_version: String,
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    pub process: Option<ConfigProcess>,
    hostname: Option<String>,
    domainname: Option<String>,
    hooks: Option<Hooks>,
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
}

/// As [`Process`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigProcess {
    terminal: Option<bool>,
    console_size: Option<ConsoleSize>,
    #[serde(default)]
    user: User,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    #[serde(default = "root")]
    cwd: PathBuf,
    capabilities: Option<LinuxCapabilities>,
    rlimits: Option<Vec<PosixRlimit>>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    oom_score_adj: Option<i32>,
    selinux_label: Option<String>,
    io_priority: Option<LinuxIOPriority>,
    scheduler: Option<Scheduler>,
    #[serde(rename = "execCPUAffinity")]
    exec_cpu_affinity: Option<ConfigAffinity>,
}

/// As [`ExecCPUAffinity`], whose lists are checked where they are used.
#[derive(Deserialize)]
struct ConfigAffinity {
    initial: Option<String>,
    r#final: Option<String>,
}

fn root() -> PathBuf {
    PathBuf::from("/")
}

impl Config {
    /// Whether a value that stands for "none given" is there, which might also be one that was.
    pub fn is_ambiguous(&self) -> bool {
        let resources = self.linux.as_ref().and_then(|linux| linux.resources().as_ref());
        resources.is_some_and(|resources| resources.pids().is_some_and(|pids| pids.limit() == 0))
    }
}

impl From<Config> for Spec {
    fn from(config: Config) -> Self {
        let mut spec = Self::default();
        spec.set_version(config.oci_version)
            .set_root(config.root)
            .set_mounts(config.mounts)
            .set_process(config.process.map(Process::from))
            .set_hostname(config.hostname)
            .set_domainname(config.domainname)
            .set_hooks(config.hooks)
            .set_annotations(config.annotations)
            .set_linux(config.linux);
        spec
    }
}

impl From<ConfigProcess> for Process {
    fn from(config: ConfigProcess) -> Self {
        let mut process = Self::default();
        process
            .set_terminal(config.terminal)
            .set_console_size(config.console_size)
            .set_user(config.user)
            .set_args(config.args)
            .set_env(config.env)
            .set_cwd(config.cwd)
            .set_capabilities(config.capabilities)
            .set_rlimits(config.rlimits)
            .set_no_new_privileges(config.no_new_privileges)
            .set_apparmor_profile(config.apparmor_profile)
            .set_oom_score_adj(config.oom_score_adj)
            .set_selinux_label(config.selinux_label)
            .set_io_priority(config.io_priority)
            .set_scheduler(config.scheduler)
            .set_exec_cpu_affinity(config.exec_cpu_affinity.map(ExecCPUAffinity::from));
        process
    }
}

impl From<ConfigAffinity> for ExecCPUAffinity {
    fn from(config: ConfigAffinity) -> Self {
        let mut affinity = Self::default();
        affinity.set_initial(config.initial).set_cpu_affinity_final(config.r#final);
        affinity
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{default_spec, parse};

    /// Every field for Linux.
    fn full() -> Value {
        let mut spec = default_spec();
        spec["domainname"] = json!("peas");
        spec["annotations"] = json!({"a": "b"});
        spec["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
        let more = json!({
            "consoleSize": {"height": 24, "width": 80},
            "apparmorProfile": "profile",
            "oomScoreAdj": 7,
            "selinuxLabel": "label",
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "scheduler": {"policy": "SCHED_OTHER", "nice": 5},
            "execCPUAffinity": {"initial": "0", "final": "0-1"},
        });
        if let (Some(process), Value::Object(more)) = (spec["process"].as_object_mut(), more) {
            process.extend(more);
        }
        spec
    }

    #[test]
    fn nothing_is_lost_and_nothing_made_up() {
        for value in [full(), json!({"process": {"user": {}, "cwd": "/"}}), json!({"process": {}}), json!({})] {
            let mut value = value;
            let text = serde_json::to_vec(&value).expect("JSON");
            let ours = parse(&text, Path::new("config.json")).expect("our reader");
            value.get_mut("process").map(crate::spec::complete);
            let theirs: Spec = serde_json::from_value(value).expect("their reader");
            assert_eq!(ours, theirs);
        }
    }
}
