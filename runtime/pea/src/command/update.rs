//! `pea update`

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::size;
use crate::Runtime;
use crate::error::{Error, ErrorKind};
use crate::verb::update::parse;

/// Change the limits of a container
#[derive(Debug, Default, Args)]
pub struct Arguments {
    /// A file with resources as in the specification's linux.resources, or - for the standard input; then all other
    /// options are ignored
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block device traffic, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period of the processor time quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_quota: Option<i64>,
    /// Processor time that may be saved up for a period that needs more, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<u64>,
    /// Share of processor time, relative to other containers
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of the real-time quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_rt_period: Option<u64>,
    /// Real time in each period, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_rt_runtime: Option<i64>,
    /// Processors to use
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: only the time nobody else wants; 0: as others
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Kernel memory (newer kernels do not limit it)
    #[arg(long, hide = true, value_name = "SIZE", value_parser = size::parse)]
    kernel_memory: Option<i64>,
    /// TCP buffers (cgroup v1 only)
    #[arg(long, hide = true, value_name = "SIZE", value_parser = size::parse)]
    kernel_memory_tcp: Option<i64>,
    /// Memory, in bytes or with k, m, g; -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<i64>,
    /// Memory that is left to it when memory gets scarce
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory_reservation: Option<i64>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory_swap: Option<i64>,
    /// Number of tasks; -1 for no limit
    #[arg(long, value_name = "NUMBER")]
    pids_limit: Option<i64>,
    /// Part of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    let (l3_cache, bandwidth) = (arguments.l3_cache_schema.as_deref(), arguments.mem_bw_schema.as_deref());
    if l3_cache.is_some() || bandwidth.is_some() {
        runtime.update_rdt(&arguments.id, l3_cache, bandwidth)?;
    }
    runtime.update(&arguments.id, &arguments.resources()?)
}

impl Arguments {
    fn resources(&self) -> Result<LinuxResources, Error> {
        match self.resources.as_deref() {
            None => parse(self.of_flags().to_string().as_bytes(), "the command line"),
            Some(path) if path == Path::new("-") => {
                let mut text = Vec::new();
                let read = io::stdin().read_to_end(&mut text);
                read.map_err(|error| Error::io("read the standard input", error))?;
                parse(&text, "the standard input")
            }
            Some(path) => {
                let text = fs::read(path).map_err(|error| {
                    Error::new(
                        ErrorKind::InvalidArgument,
                        Error::io(format!("read {}", path.display()), error).to_string(),
                    )
                })?;
                parse(&text, &path.display().to_string())
            }
        }
    }

    /// What the flags say, in the specification's words.
    fn of_flags(&self) -> Value {
        json!({
            "blockIO": {"weight": self.blkio_weight},
            "cpu": {
                "shares": self.cpu_share,
                "quota": self.cpu_quota,
                "period": self.cpu_period,
                "burst": self.cpu_burst,
                "realtimePeriod": self.cpu_rt_period,
                "realtimeRuntime": self.cpu_rt_runtime,
                "cpus": self.cpuset_cpus,
                "mems": self.cpuset_mems,
                "idle": self.cpu_idle,
            },
            "memory": {
                "limit": self.memory,
                "reservation": self.memory_reservation,
                "swap": self.memory_swap,
                "kernel": self.kernel_memory,
                "kernelTCP": self.kernel_memory_tcp,
            },
            // Of resources in a file zero may mean "not set"; who gives the flag wants as few as there can be.
            "pids": {"limit": self.pids_limit.map(|limit| if limit == 0 { 1 } else { limit })},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_resources() {
        let arguments = Arguments {
            cpu_quota: Some(-1),
            memory: Some(4096),
            cpuset_cpus: Some("0-1".to_owned()),
            ..Default::default()
        };
        let resources = arguments.resources().expect("resources");
        assert_eq!(resources.cpu().as_ref().and_then(|cpu| cpu.quota()), Some(-1));
        assert_eq!(resources.cpu().as_ref().and_then(|cpu| cpu.cpus().as_deref()), Some("0-1"));
        assert_eq!(resources.memory().as_ref().and_then(|memory| memory.limit()), Some(4096));
        assert_eq!(resources.pids(), &None);
    }
}
