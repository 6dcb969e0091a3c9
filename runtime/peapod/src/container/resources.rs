//! Limits, as the cgroups are told.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::{ContainerError, Node};
use crate::manifest::Container;

/// The CFS period kubelet uses, in microseconds.
const PERIOD: u64 = 100_000;
/// The least quota the kernel takes, in microseconds.
const LEAST_QUOTA: u64 = 1_000;
/// The kernel's bounds of `cpu.shares`.
const SHARES: (u64, u64) = (2, 262_144);

/// CPU and memory limits, and which devices may be used.
pub(super) fn resources(container: &Container, node: &Node) -> Result<LinuxResources, ContainerError> {
    let wanted = &container.resources;
    // 1024 shares are one processor; who asks for nothing gets the least there is.
    let shares = (wanted.cpu_request.unwrap_or(0).saturating_mul(1024) / 1000).clamp(SHARES.0, SHARES.1);
    let mut cpu = LinuxCpuBuilder::default().shares(shares);
    if let Some(limit) = wanted.cpu_limit {
        let quota = (limit.saturating_mul(PERIOD) / 1000).max(LEAST_QUOTA);
        cpu = cpu.quota(i64::try_from(quota).unwrap_or(i64::MAX)).period(PERIOD);
    }
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = wanted.memory_limit.and_then(|limit| i64::try_from(limit).ok()) {
        memory = memory.limit(limit);
        // Memory and swap together: the same number means no swap, as for any pod.
        if node.swap_accounting {
            memory = memory.swap(limit);
        }
    }
    // The runtime adds the devices every container has; a privileged one may use all.
    let devices = LinuxDeviceCgroupBuilder::default().allow(container.security.privileged).access("rwm").build()?;
    Ok(LinuxResourcesBuilder::default().cpu(cpu.build()?).memory(memory.build()?).devices(vec![devices]).build()?)
}
