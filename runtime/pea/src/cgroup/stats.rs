//! Reading what a cgroup uses. A file that is not there (a controller that is off, an older kernel) reads as zero.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::hierarchy::Layout;
use crate::error::Error;
use crate::stats::{
    BlkioStats, CgroupVersion, CpuStats, CpusetStats, HugetlbStats, IoEntry, MemoryCounter, MemoryStats, PidsStats,
    Pressure, PressureLine, RdmaStats, Stats,
};

/// v1 counts processor time of the two modes in these.
const TICKS_PER_SECOND: u64 = 100;
const NANOSECONDS: u64 = 1_000_000_000;

/// What v1 has for "no limit": the largest multiple of a page.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// Reads the statistics of the cgroup at `path`.
pub fn read(path: &Path) -> Result<Stats, Error> {
    let layout = Layout::read()?;
    let unified = Group(layout.unified().filter(|_| !path.as_os_str().is_empty()).map(|it| it.dir(path)));
    if layout.is_unified_alone() {
        let mut stats = read_v2(&unified);
        if unified.text("pids.current").is_empty() {
            // Without the controller processes can be counted, if not threads.
            stats.pids.current = super::pids(path)?.len() as u64;
        }
        return Ok(stats);
    }
    Ok(read_v1(&layout, path, &unified))
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

    fn pressure(&self, file: &str) -> Option<Pressure> {
        Some(self.text(file)).filter(|text| !text.is_empty()).map(|text| parse_pressure(&text))
    }

    /// The four files of a v1 counter of memory.
    fn counter(&self, prefix: &str) -> MemoryCounter {
        MemoryCounter {
            usage: self.number(&format!("{prefix}.usage_in_bytes")),
            max_usage: self.number(&format!("{prefix}.max_usage_in_bytes")),
            limit: self.limit(&format!("{prefix}.limit_in_bytes")),
            failures: self.number(&format!("{prefix}.failcnt")),
        }
    }

    /// The sizes of huge pages there are files of, which begin with "hugetlb.SIZE." and end as said.
    fn page_sizes(&self, end: &str) -> Vec<String> {
        let entries = self.0.as_ref().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let size = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(end)?;
            (!size.contains('.')).then(|| size.to_owned())
        };
        entries.filter_map(size).collect()
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

/// What has no v1 controller, or has none at all there, is taken from the unified hierarchy beside them.
fn read_v1(layout: &Layout, path: &Path, unified: &Group) -> Stats {
    let group = |controller: &str| match layout.home_of(controller) {
        Some((hierarchy, CgroupVersion::V1)) if !path.as_os_str().is_empty() => Group(Some(hierarchy.dir(path))),
        _ => Group(None),
    };
    let hugetlb = group("hugetlb");
    Stats {
        version: CgroupVersion::V1,
        cpu: CpuStats { pressure: unified.pressure("cpu.pressure"), ..cpu_v1(&group("cpu"), &group("cpuacct")) },
        memory: MemoryStats { pressure: unified.pressure("memory.pressure"), ..memory_v1(&group("memory")) },
        pids: pids(&group("pids")),
        blkio: BlkioStats { pressure: unified.pressure("io.pressure"), ..blkio_v1(&group("blkio")) },
        cpuset: CpusetStats {
            cpus: group("cpuset").text("cpuset.effective_cpus").trim().to_owned(),
            mems: group("cpuset").text("cpuset.effective_mems").trim().to_owned(),
        },
        hugetlb: if hugetlb.0.is_some() { hugetlb_v1(&hugetlb) } else { hugetlb_v2(unified) },
        rdma: rdma(&group("rdma")),
        rdt: None,
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
        burst_periods: value(&throttling, "nr_bursts"),
        burst_time: value(&throttling, "burst_time"),
        pressure: None,
    }
}

fn memory_v1(group: &Group) -> MemoryStats {
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
        pressure: None,
    }
}

fn pids(group: &Group) -> PidsStats {
    PidsStats { current: group.number("pids.current"), limit: group.limit("pids.max") }
}

fn blkio_v1(group: &Group) -> BlkioStats {
    BlkioStats {
        bytes: parse_blkio(&group.text("blkio.throttle.io_service_bytes_recursive")),
        operations: parse_blkio(&group.text("blkio.throttle.io_serviced_recursive")),
        pressure: None,
    }
}

fn hugetlb_v1(group: &Group) -> BTreeMap<String, HugetlbStats> {
    let stats = |size: String| {
        let reserved = format!("hugetlb.{size}.rsvd");
        let there = group.0.as_ref().is_some_and(|dir| dir.join(format!("{reserved}.usage_in_bytes")).exists());
        let counter = group.counter(if there { &reserved } else { reserved.trim_end_matches(".rsvd") });
        let MemoryCounter { usage, max_usage, limit, failures } = counter;
        (size, HugetlbStats { usage, max_usage, limit, failures })
    };
    group.page_sizes(".usage_in_bytes").into_iter().map(stats).collect()
}

/// "device hca_handle=1 hca_object=max", the same in both versions.
fn rdma(group: &Group) -> BTreeMap<String, RdmaStats> {
    let (current, limits) = (group.text("rdma.current"), group.text("rdma.max"));
    let find = |text: &str, device: &str, key: &str| -> Option<u64> {
        let mut words = text.lines().find(|line| line.split(' ').next() == Some(device))?.split(' ').skip(1);
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let devices = current.lines().filter_map(|line| line.split(' ').next()).filter(|device| !device.is_empty());
    let stats = |device: &str| RdmaStats {
        handles: find(&current, device, "hca_handle").unwrap_or(0),
        objects: find(&current, device, "hca_object").unwrap_or(0),
        handle_limit: find(&limits, device, "hca_handle"),
        object_limit: find(&limits, device, "hca_object"),
    };
    devices.map(|device| (device.to_owned(), stats(device))).collect()
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
            pressure: group.pressure("io.pressure"),
        },
        cpuset: CpusetStats {
            cpus: group.text("cpuset.cpus.effective").trim().to_owned(),
            mems: group.text("cpuset.mems.effective").trim().to_owned(),
        },
        hugetlb: hugetlb_v2(group),
        rdma: rdma(group),
        rdt: None,
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
        burst_periods: value(&stat, "nr_bursts"),
        burst_time: time("burst_usec"),
        pressure: group.pressure("cpu.pressure"),
    }
}

fn memory_v2(group: &Group) -> MemoryStats {
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
        pressure: group.pressure("memory.pressure"),
    }
}

fn hugetlb_v2(group: &Group) -> BTreeMap<String, HugetlbStats> {
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

/// Lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", for some and for all.
fn parse_pressure(text: &str) -> Pressure {
    let line = |kind: &str| {
        let words: Vec<_> =
            text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default().split(' ').collect();
        let word = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).unwrap_or_default();
        PressureLine {
            avg10: word("avg10=").parse().unwrap_or(0.0),
            avg60: word("avg60=").parse().unwrap_or(0.0),
            avg300: word("avg300=").parse().unwrap_or(0.0),
            total: word("total=").parse().unwrap_or(0),
        }
    };
    Pressure { some: line("some "), full: line("full ") }
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
    fn pressure_has_two_lines() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text);
        assert_eq!(pressure.some, PressureLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 12_345 });
        assert_eq!(pressure.full.total, 7);
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
        let stats = hugetlb_v2(&Group(Some(dir.path().to_owned())));
        assert_eq!(stats.keys().collect::<Vec<_>>(), ["1GB", "2MB"]);
        assert_eq!(stats["2MB"], HugetlbStats { usage: 8192, max_usage: 0, limit: None, failures: 3 });
        assert_eq!(stats["1GB"], HugetlbStats { usage: 5, max_usage: 0, limit: Some(6), failures: 0 });
    }

    #[test]
    fn rdma_has_a_line_a_device() {
        let dir = testkit::scratch();
        fs::write(dir.path().join("rdma.current"), "mlx4_0 hca_handle=2 hca_object=2000\n").expect("a file");
        fs::write(dir.path().join("rdma.max"), "mlx4_0 hca_handle=3 hca_object=max\n").expect("a file");
        let stats = rdma(&Group(Some(dir.path().to_owned())))["mlx4_0"];
        assert_eq!(stats, RdmaStats { handles: 2, objects: 2000, handle_limit: Some(3), object_limit: None });
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
