//! Statistics in the form of `runc events`, which other programs read.

use serde_json::{Value, json};

use crate::stats::{
    CgroupVersion, IoEntry, MemoryCounter, MemoryStats, Pressure, PressureLine, RdtDomain, RdtStats, Stats,
};

/// How "no limit" is written there.
const UNLIMITED: u64 = u64::MAX;

/// The `data` of an event of type "stats".
pub fn of(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    json!({
        "cpu": {
            "usage": {"total": cpu.usage, "percpu": cpu.per_cpu, "kernel": cpu.system, "user": cpu.user},
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_time,
            },
            "psi": cpu.pressure.as_ref().map(pressure),
        },
        "cpuset": {"cpus": list(&stats.cpuset.cpus), "mems": list(&stats.cpuset.mems)},
        "memory": memory(&stats.memory, stats.version),
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": stats.blkio.bytes.iter().map(entry).collect::<Vec<_>>(),
            "ioServicedRecursive": stats.blkio.operations.iter().map(entry).collect::<Vec<_>>(),
            "psi": stats.blkio.pressure.as_ref().map(pressure),
        },
        "hugetlb": stats.hugetlb.iter().map(|(size, pages)| {
            (size.clone(), json!({"usage": pages.usage, "max": pages.max_usage, "failcnt": pages.failures}))
        }).collect::<serde_json::Map<_, _>>(),
        "intel_rdt": stats.rdt.as_ref().map_or(json!({}), rdt),
        // The runtime knows nothing of networks.
        "network_interfaces": null,
    })
}

fn memory(memory: &MemoryStats, version: CgroupVersion) -> Value {
    let usage = MemoryCounter {
        usage: memory.usage,
        max_usage: memory.max_usage,
        limit: memory.limit,
        failures: memory.failures,
    };
    // In v1's terms: together with memory.
    let swap = match version {
        CgroupVersion::V1 => memory.swap,
        CgroupVersion::V2 => MemoryCounter {
            usage: memory.swap.usage + memory.usage,
            max_usage: 0,
            limit: memory.swap.limit.zip(memory.limit).map(|(swap, memory)| swap.saturating_add(memory)),
            failures: memory.swap.failures,
        },
    };
    let cache = memory.stat.get("cache").or_else(|| memory.stat.get("file"));
    json!({
        "cache": cache.copied().unwrap_or(0),
        "usage": counter(&usage),
        "swap": counter(&swap),
        "kernel": counter(&memory.kernel),
        "kernelTCP": counter(&memory.kernel_tcp),
        "raw": memory.stat,
        "psi": memory.pressure.as_ref().map(pressure),
    })
}

fn counter(counter: &MemoryCounter) -> Value {
    json!({
        "limit": counter.limit.unwrap_or(UNLIMITED),
        "usage": counter.usage,
        "max": counter.max_usage,
        "failcnt": counter.failures,
    })
}

fn entry(entry: &IoEntry) -> Value {
    json!({"major": entry.major, "minor": entry.minor, "op": entry.operation, "value": entry.value})
}

fn pressure(pressure: &Pressure) -> Value {
    let line = |line: &PressureLine| json!({"avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300, "total": line.total});
    json!({"some": line(&pressure.some), "full": line(&pressure.full)})
}

fn rdt(rdt: &RdtStats) -> Value {
    let line = |resource: &str| rdt.schemata.iter().find(|line| line.starts_with(resource));
    let bandwidth = |domain: &RdtDomain| {
        let (total, local) = (domain.total_bandwidth?, domain.local_bandwidth?);
        Some(json!({"mbm_total_bytes": total, "mbm_local_bytes": local}))
    };
    let occupancy = |domain: &RdtDomain| domain.cache_occupancy.map(|bytes| json!({"llc_occupancy": bytes}));
    json!({
        "schemata": rdt.schemata,
        "l3_cache_schema": line("L3"),
        "mem_bw_schema": line("MB"),
        "mbm_stats": rdt.domains.iter().filter_map(bandwidth).collect::<Vec<_>>(),
        "cmt_stats": rdt.domains.iter().filter_map(occupancy).collect::<Vec<_>>(),
    })
}

/// "0-2,5" as numbers.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(list(""), Vec::<u16>::new());
    }

    #[test]
    fn swap_is_told_together_with_memory() {
        let limit = |limit| MemoryCounter { limit, usage: 1, ..MemoryCounter::default() };
        let memory = MemoryStats { usage: 10, limit: Some(100), swap: limit(Some(50)), ..MemoryStats::default() };
        let v2 = of(&Stats { version: CgroupVersion::V2, memory: memory.clone(), ..Stats::default() });
        assert_eq!((&v2["memory"]["swap"]["limit"], &v2["memory"]["swap"]["usage"]), (&json!(150), &json!(11)));
        let v1 = of(&Stats { version: CgroupVersion::V1, memory, ..Stats::default() });
        assert_eq!((&v1["memory"]["swap"]["limit"], &v1["memory"]["swap"]["usage"]), (&json!(50), &json!(1)));
        let none = MemoryStats { swap: limit(None), ..MemoryStats::default() };
        let none = of(&Stats { memory: none, ..Stats::default() });
        assert_eq!(none["memory"]["swap"]["limit"], json!(u64::MAX));
    }
}
