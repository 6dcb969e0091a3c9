//! What a container uses, read from its control groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which of the kernel's two interfaces the numbers were read from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy a controller (also when a unified one is mounted beside them).
    #[default]
    V1,
    /// The unified hierarchy.
    V2,
}

/// What a container uses. Values a kernel does not offer are zero, limits not set are `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Where the numbers come from.
    pub version: CgroupVersion,
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block devices.
    pub blkio: BlkioStats,
    /// Which processors and memory nodes it may use.
    pub cpuset: CpusetStats,
    /// Huge pages, by their size (`2MB`).
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// RDMA, by device.
    pub rdma: BTreeMap<String, RdmaStats>,
    /// Shares of caches and memory bandwidth, where the specification asks for them.
    pub rdt: Option<RdtStats>,
}

/// The container's resctrl group (Intel RDT).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RdtStats {
    /// What it may use, a line a resource.
    pub schemata: Vec<String>,
    /// What it uses, by domain.
    pub domains: Vec<RdtDomain>,
}

/// What is used of one cache or memory controller; none where it is not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RdtDomain {
    /// As the kernel names it: `mon_L3_00`.
    pub name: String,
    /// Bytes of the last-level cache.
    pub cache_occupancy: Option<u64>,
    /// Bytes moved, in all.
    pub total_bandwidth: Option<u64>,
    /// Bytes moved from and to memory near by.
    pub local_bandwidth: Option<u64>,
}

/// Processor time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuStats {
    /// All time used.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// Time used on each processor; empty on v2.
    pub per_cpu: Vec<u64>,
    /// Enforcement periods elapsed.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
    /// Periods in which more than the quota was used, from what had been saved up.
    pub burst_periods: u64,
    /// Time used so.
    pub burst_time: u64,
    /// Time lost by waiting for a processor.
    pub pressure: Option<Pressure>,
}

/// How much was lost by waiting for a resource (psi.rst): by some of the tasks, and by all of them at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: PressureLine,
    /// All tasks waited.
    pub full: PressureLine,
}

/// One line of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PressureLine {
    /// Per cent of the time, over the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the time, over the last minute.
    pub avg60: f64,
    /// Per cent of the time, over the last five minutes.
    pub avg300: f64,
    /// In all, in microseconds.
    pub total: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// In use now, page cache included.
    pub usage: u64,
    /// The most ever in use (0 where not recorded).
    pub max_usage: u64,
    /// The hard limit.
    pub limit: Option<u64>,
    /// Swap (v1: memory and swap together).
    pub swap: MemoryCounter,
    /// The kernel's memory (v1 only).
    pub kernel: MemoryCounter,
    /// TCP buffers (v1 only).
    pub kernel_tcp: MemoryCounter,
    /// How often the limit was hit.
    pub failures: u64,
    /// Processes killed because the limit was hit.
    pub oom_kills: u64,
    /// `memory.stat` as the kernel has it.
    pub stat: BTreeMap<String, u64>,
    /// `memory.events` as the kernel has it (v2 only).
    #[serde(default)]
    pub events: BTreeMap<String, u64>,
    /// Time lost by waiting for memory.
    pub pressure: Option<Pressure>,
}

/// A kind of memory that is counted and limited by itself, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryCounter {
    /// In use now.
    pub usage: u64,
    /// The most ever in use (0 where not recorded).
    pub max_usage: u64,
    /// The hard limit.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
}

impl MemoryStats {
    /// Usage without the page cache that can be dropped at once (`inactive_file`): the working set.
    pub fn working_set(&self) -> u64 {
        let inactive = self.stat.get("total_inactive_file").or_else(|| self.stat.get("inactive_file"));
        self.usage.saturating_sub(inactive.copied().unwrap_or(0))
    }
}

/// Tasks (threads count).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// The most allowed.
    pub limit: Option<u64>,
}

/// Traffic of block devices since the group was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlkioStats {
    /// Bytes, by device and operation.
    pub bytes: Vec<IoEntry>,
    /// Requests, by device and operation.
    pub operations: Vec<IoEntry>,
    /// Time lost by waiting for devices.
    pub pressure: Option<Pressure>,
}

/// Processors and memory nodes, as the kernel writes lists of them: `0-3,7`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpusetStats {
    /// Processors; empty where it is not said.
    pub cpus: String,
    /// Memory nodes; empty where it is not said.
    pub mems: String,
}

/// Huge pages of one size, in bytes: those reserved, where the kernel counts that, else those in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HugetlbStats {
    /// Now.
    pub usage: u64,
    /// The most ever (v1 only).
    pub max_usage: u64,
    /// The most allowed.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Use of an RDMA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RdmaStats {
    /// Handles in use.
    pub handles: u64,
    /// Objects in use.
    pub objects: u64,
    /// Handles allowed.
    pub handle_limit: Option<u64>,
    /// Objects allowed.
    pub object_limit: Option<u64>,
}

/// One counter of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Discard` and so on.
    pub operation: String,
    /// The counter.
    pub value: u64,
}
