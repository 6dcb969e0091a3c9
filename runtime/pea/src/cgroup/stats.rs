//! Reading what a cgroup uses. A file that is not there (a controller that is off, an older kernel) reads as zero.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Hierarchy, Kind, hierarchies};
use crate::error::Error;
use crate::stats::{BlkioStats, CgroupVersion, CpuStats, IoEntry, MemoryStats, PidsStats, Stats};

/// v1 counts processor time of the two modes in these.
const TICKS_PER_SECOND: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;

/// What v1 has for "no limit": the largest multiple of a page.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// Reads the statistics of the cgroup at `path`.
pub fn read(path: &Path) -> Result<Stats, Error> {
    let all = hierarchies()?;
    let v1 = all.iter().any(|hierarchy| hierarchy.kind == Kind::Controllers);
    if v1 {
        return Ok(read_v1(&all, path));
    }
    Ok(read_v2(&Group(all.first().map(|hierarchy| hierarchy.dir(path)))))
}

/// A cgroup's directory; none where its controller has no hierarchy.
struct Group(Option<PathBuf>);

impl Group {
    fn text(&self, file: &str) -> String {
        self.0.as_ref().and_then(|dir| fs::read_to_string(dir.join(file)).ok()).unwrap_or_default()
    }

    fn number(&self, file: &str) -> u64 {
        self.text(file).trim().parse().unwrap_or(0)
    }

    /// `None` for "max" and for v1's largest number.
    fn limit(&self, file: &str) -> Option<u64> {
        self.text(file).trim().parse().ok().filter(|limit| *limit < V1_UNLIMITED)
    }

    /// A file of "key value" lines.
    fn table(&self, file: &str) -> BTreeMap<String, u64> {
        parse_table(&self.text(file))
    }
}

fn parse_table(text: &str) -> BTreeMap<String, u64> {
    let entry = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

fn value(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

fn read_v1(all: &[Hierarchy], path: &Path) -> Stats {
    let group =
        |controller: &str| Group(all.iter().find(|hierarchy| hierarchy.controls(controller)).map(|it| it.dir(path)));
    Stats {
        version: CgroupVersion::V1,
        cpu: cpu_v1(&group("cpu"), &group("cpuacct")),
        memory: memory_v1(&group("memory")),
        pids: pids(&group("pids")),
        blkio: blkio_v1(&group("blkio")),
    }
}

fn cpu_v1(cpu: &Group, account: &Group) -> CpuStats {
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
    }
}

fn memory_v1(group: &Group) -> MemoryStats {
    MemoryStats {
        usage: group.number("memory.usage_in_bytes"),
        max_usage: group.number("memory.max_usage_in_bytes"),
        limit: group.limit("memory.limit_in_bytes"),
        swap_usage: group.number("memory.memsw.usage_in_bytes"),
        swap_limit: group.limit("memory.memsw.limit_in_bytes"),
        kernel_usage: group.number("memory.kmem.usage_in_bytes"),
        kernel_tcp_usage: group.number("memory.kmem.tcp.usage_in_bytes"),
        failures: group.number("memory.failcnt"),
        oom_kills: value(&group.table("memory.oom_control"), "oom_kill"),
        stat: group.table("memory.stat"),
    }
}

fn pids(group: &Group) -> PidsStats {
    PidsStats { current: group.number("pids.current"), limit: group.limit("pids.max") }
}

fn blkio_v1(group: &Group) -> BlkioStats {
    BlkioStats {
        bytes: parse_blkio(&group.text("blkio.throttle.io_service_bytes_recursive")),
        operations: parse_blkio(&group.text("blkio.throttle.io_serviced_recursive")),
    }
}

/// Lines of "major:minor operation value"; a total without a device ends the file.
fn parse_blkio(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let operation = fields.next()?.to_owned();
        let value = fields.next()?.parse().ok()?;
        Some(IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, operation, value })
    };
    text.lines().filter_map(entry).collect()
}

fn read_v2(group: &Group) -> Stats {
    let io = group.text("io.stat");
    Stats {
        version: CgroupVersion::V2,
        cpu: cpu_v2(group),
        memory: memory_v2(group),
        pids: pids(group),
        blkio: BlkioStats {
            bytes: parse_io(&io, &[("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")]),
            operations: parse_io(&io, &[("rios", "Read"), ("wios", "Write"), ("dios", "Discard")]),
        },
    }
}

fn cpu_v2(group: &Group) -> CpuStats {
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
    }
}

fn memory_v2(group: &Group) -> MemoryStats {
    let events = group.table("memory.events");
    MemoryStats {
        usage: group.number("memory.current"),
        max_usage: group.number("memory.peak"),
        limit: group.limit("memory.max"),
        swap_usage: group.number("memory.swap.current"),
        swap_limit: group.limit("memory.swap.max"),
        kernel_usage: 0,
        kernel_tcp_usage: 0,
        failures: value(&events, "max"),
        oom_kills: value(&events, "oom_kill"),
        stat: group.table("memory.stat"),
    }
}

/// Lines of "major:minor key=value key=value ...".
fn parse_io(text: &str, keys: &[(&str, &str)]) -> Vec<IoEntry> {
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
    fn no_limit_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let group = Group(Some(dir.path().to_owned()));
        for (text, limit) in [("max\n", None), ("9223372036854771712\n", None), ("1048576\n", Some(1_048_576))] {
            fs::write(dir.path().join("memory.max"), text).expect("a file");
            assert_eq!(group.limit("memory.max"), limit, "{text}");
        }
        assert_eq!(group.limit("not.there"), None);
    }
}
