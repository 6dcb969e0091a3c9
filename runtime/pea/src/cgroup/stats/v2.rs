//! What the unified hierarchy says.

use std::collections::BTreeMap;

use super::{Group, pids, rdma, value};
use crate::stats::{
    BlkioStats, CgroupVersion, CpuStats, CpusetStats, HugetlbStats, IoEntry, MemoryCounter, MemoryStats, Stats,
};

pub fn read(group: &Group) -> Stats {
    let io = group.text("io.stat");
    Stats {
        version: CgroupVersion::V2,
        cpu: cpu(group),
        memory: memory(group),
        pids: pids(group),
        blkio: BlkioStats {
            bytes: parse_io(&io, &[("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")]),
            operations: parse_io(&io, &[("rios", "Read"), ("wios", "Write"), ("dios", "Discard")]),
            pressure: group.pressure("io.pressure"),
        },
        cpuset: CpusetStats {
            cpus: group.text("cpuset.cpus.effective").trim().to_owned(),
            mems: group.text("cpuset.mems.effective").trim().to_owned(),
        },
        hugetlb: hugetlb(group),
        rdma: rdma(group),
        rdt: None,
    }
}

fn cpu(group: &Group) -> CpuStats {
    let stat = group.table("cpu.stat");
    let time = |key: &str| value(&stat, key) * 1000;
    CpuStats {
        usage: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        per_cpu: Vec::new(),
        periods: value(&stat, "nr_periods"),
        throttled_periods: value(&stat, "nr_throttled"),
        throttled_time: time("throttled_usec"),
        burst_periods: value(&stat, "nr_bursts"),
        burst_time: time("burst_usec"),
        pressure: group.pressure("cpu.pressure"),
    }
}

fn memory(group: &Group) -> MemoryStats {
    let events = group.table("memory.events");
    MemoryStats {
        usage: group.number("memory.current"),
        max_usage: group.number("memory.peak"),
        limit: group.limit("memory.max"),
        swap: MemoryCounter {
            usage: group.number("memory.swap.current"),
            max_usage: group.number("memory.swap.peak"),
            limit: group.limit("memory.swap.max"),
            failures: value(&group.table("memory.swap.events"), "max"),
        },
        kernel: MemoryCounter::default(),
        kernel_tcp: MemoryCounter::default(),
        failures: value(&events, "max"),
        oom_kills: value(&events, "oom_kill"),
        stat: group.table("memory.stat"),
        events,
        pressure: group.pressure("memory.pressure"),
    }
}

pub fn hugetlb(group: &Group) -> BTreeMap<String, HugetlbStats> {
    let stats = |size: String| {
        let file = |end: &str| format!("hugetlb.{size}.{end}");
        let reserved = group.text(&file("rsvd.current")).trim().parse().ok();
        let limit = if reserved.is_some() { "rsvd.max" } else { "max" };
        let stats = HugetlbStats {
            usage: reserved.unwrap_or_else(|| group.number(&file("current"))),
            max_usage: 0,
            limit: group.limit(&file(limit)),
            failures: value(&group.table(&file("events")), "max"),
        };
        (size, stats)
    };
    group.page_sizes(".current").into_iter().map(stats).collect()
}

/// Lines of "major:minor key=value key=value ...".
pub fn parse_io(text: &str, keys: &[(&str, &str)]) -> Vec<IoEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let Some((device, counters)) = line.split_once(' ') else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, operation) in keys {
            let counter = counters.split(' ').find_map(|each| each.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
            if let Some(value) = counter {
                entries.push(IoEntry { major, minor, operation: (*operation).to_owned(), value });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::v1::parse_blkio;
    use super::*;

    #[test]
    fn both_formats_of_block_device_counters_say_the_same() {
        let v1 = parse_blkio("8:0 Read 4096\n8:0 Write 512\nTotal 4608\n");
        let v2 = parse_io("8:0 rbytes=4096 wbytes=512 rios=3 wios=1\n", &[("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(v1, v2);
        assert_eq!(v1.len(), 2);
        assert_eq!((v1[1].operation.as_str(), v1[1].value), ("Write", 512));
    }

    #[test]
    fn huge_pages_are_found_by_their_files() {
        let dir = testkit::scratch();
        for (file, text) in [
            ("hugetlb.2MB.current", "4096"),
            ("hugetlb.2MB.rsvd.current", "8192"),
            ("hugetlb.2MB.rsvd.max", "max"),
            ("hugetlb.2MB.events", "max 3"),
            ("hugetlb.1GB.current", "5"),
            ("hugetlb.1GB.max", "6"),
        ] {
            fs::write(dir.path().join(file), text).expect("a file");
        }
        let stats = hugetlb(&Group(Some(dir.path().to_owned())));
        assert_eq!(stats.keys().collect::<Vec<_>>(), ["1GB", "2MB"]);
        assert_eq!(stats["2MB"], HugetlbStats { usage: 8192, max_usage: 0, limit: None, failures: 3 });
        assert_eq!(stats["1GB"], HugetlbStats { usage: 5, max_usage: 0, limit: Some(6), failures: 0 });
    }

    #[test]
    fn each_event_of_memory_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("memory.events"), "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\n").expect("a file");
        let memory = memory(&Group(Some(dir.path().to_owned())));
        assert_eq!((memory.events["low"], memory.events["high"], memory.events["oom"]), (1, 2, 4));
        assert_eq!((memory.failures, memory.oom_kills), (3, 5));
    }
}
