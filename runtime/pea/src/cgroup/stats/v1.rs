//! What v1 controllers say.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::hierarchy::Layout;
use super::{Group, pids, rdma, v2, value};
use crate::stats::{
    BlkioStats, CgroupVersion, CpuStats, CpusetStats, HugetlbStats, IoEntry, MemoryCounter, MemoryStats, Stats,
};

/// v1 counts processor time of the two modes in these.
const TICKS_PER_SECOND: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;

/// What has no v1 controller, or has none at all there, is taken from the unified hierarchy beside them.
pub fn read(layout: &Layout, path: &Path, unified: &Group) -> Stats {
    let group = |controller: &str| match layout.home_of(controller) {
        Some((hierarchy, CgroupVersion::V1)) if !path.as_os_str().is_empty() => Group(Some(hierarchy.dir(path))),
        _ => Group(None),
    };
    let pages = group("hugetlb");
    Stats {
        version: CgroupVersion::V1,
        cpu: CpuStats { pressure: unified.pressure("cpu.pressure"), ..cpu(&group("cpu"), &group("cpuacct")) },
        memory: MemoryStats { pressure: unified.pressure("memory.pressure"), ..memory(&group("memory")) },
        pids: pids(&group("pids")),
        blkio: BlkioStats { pressure: unified.pressure("io.pressure"), ..blkio(&group("blkio")) },
        cpuset: CpusetStats {
            cpus: group("cpuset").text("cpuset.effective_cpus").trim().to_owned(),
            mems: group("cpuset").text("cpuset.effective_mems").trim().to_owned(),
        },
        hugetlb: if pages.0.is_some() { hugetlb(&pages) } else { v2::hugetlb(unified) },
        rdma: rdma(&group("rdma")),
        rdt: None,
    }
}

fn cpu(cpu: &Group, account: &Group) -> CpuStats {
    let modes = account.table("cpuacct.stat");
    let throttling = cpu.table("cpu.stat");
    CpuStats {
        usage: account.number("cpuacct.usage"),
        user: value(&modes, "user") * (NANOSECONDS / TICKS_PER_SECOND),
        system: value(&modes, "system") * (NANOSECONDS / TICKS_PER_SECOND),
        per_cpu: account.text("cpuacct.usage_percpu").split_whitespace().filter_map(|each| each.parse().ok()).collect(),
        periods: value(&throttling, "nr_periods"),
        throttled_periods: value(&throttling, "nr_throttled"),
        throttled_time: value(&throttling, "throttled_time"),
        burst_periods: value(&throttling, "nr_bursts"),
        burst_time: value(&throttling, "burst_time"),
        pressure: None,
    }
}

fn memory(group: &Group) -> MemoryStats {
    MemoryStats {
        usage: group.number("memory.usage_in_bytes"),
        max_usage: group.number("memory.max_usage_in_bytes"),
        limit: group.limit("memory.limit_in_bytes"),
        swap: group.counter("memory.memsw"),
        kernel: group.counter("memory.kmem"),
        kernel_tcp: group.counter("memory.kmem.tcp"),
        failures: group.number("memory.failcnt"),
        oom_kills: value(&group.table("memory.oom_control"), "oom_kill"),
        stat: group.table("memory.stat"),
        events: BTreeMap::new(),
        pressure: None,
    }
}

fn blkio(group: &Group) -> BlkioStats {
    BlkioStats {
        bytes: parse_blkio(&group.text("blkio.throttle.io_service_bytes_recursive")),
        operations: parse_blkio(&group.text("blkio.throttle.io_serviced_recursive")),
        pressure: None,
    }
}

fn hugetlb(group: &Group) -> BTreeMap<String, HugetlbStats> {
    let stats = |size: String| {
        let reserved = format!("hugetlb.{size}.rsvd");
        let there = group.0.as_ref().is_some_and(|dir| dir.join(format!("{reserved}.usage_in_bytes")).exists());
        let counter = group.counter(if there { &reserved } else { reserved.trim_end_matches(".rsvd") });
        let MemoryCounter { usage, max_usage, limit, failures } = counter;
        (size, HugetlbStats { usage, max_usage, limit, failures })
    };
    group.page_sizes(".usage_in_bytes").into_iter().map(stats).collect()
}

/// Lines of "major:minor operation value"; a total without a device ends the file.
pub fn parse_blkio(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let operation = fields.next()?.to_owned();
        let value = fields.next()?.parse().ok()?;
        Some(IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, operation, value })
    };
    text.lines().filter_map(entry).collect()
}
