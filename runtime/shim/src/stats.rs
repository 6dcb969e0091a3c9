//! What a container uses, in the two forms containerd's clients know: by the kernel's cgroup version.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use pea::{CgroupVersion, IoEntry, MemoryCounter, Stats};

use crate::error::Error;

const V1_TYPE_URL: &str = "io.containerd.cgroups.v1.Metrics";
const V2_TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";
/// How both forms write "no limit".
const UNLIMITED: u64 = u64::MAX;

/// The `Any` of a `Stats` response.
pub fn metrics(stats: &Stats) -> Result<Any, Error> {
    let (type_url, value) = match stats.version {
        CgroupVersion::V1 => (V1_TYPE_URL, of_v1(stats).write_to_bytes()),
        CgroupVersion::V2 => (V2_TYPE_URL, of_v2(stats).write_to_bytes()),
    };
    let value = value.map_err(|source| Error::internal(format!("encode {type_url}: {source}")))?;
    Ok(Any { type_url: type_url.to_owned(), value, ..Default::default() })
}

fn of_v1(stats: &Stats) -> v1::Metrics {
    let cpu = v1::CPUStat {
        usage: MessageField::some(v1::CPUUsage {
            total: stats.cpu.usage,
            kernel: stats.cpu.system,
            user: stats.cpu.user,
            per_cpu: stats.cpu.per_cpu.clone(),
            ..Default::default()
        }),
        throttling: MessageField::some(v1::Throttle {
            periods: stats.cpu.periods,
            throttled_periods: stats.cpu.throttled_periods,
            throttled_time: stats.cpu.throttled_time,
            ..Default::default()
        }),
        ..Default::default()
    };
    let pids = v1::PidsStat { current: stats.pids.current, limit: stats.pids.limit.unwrap_or(0), ..Default::default() };
    let blkio = v1::BlkIOStat {
        io_service_bytes_recursive: stats.blkio.bytes.iter().map(entry_v1).collect(),
        io_serviced_recursive: stats.blkio.operations.iter().map(entry_v1).collect(),
        ..Default::default()
    };
    v1::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory_v1(stats)),
        blkio: MessageField::some(blkio),
        memory_oom_control: MessageField::some(v1::MemoryOomControl {
            oom_kill: stats.memory.oom_kills,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn entry_v1(entry: &IoEntry) -> v1::BlkIOEntry {
    v1::BlkIOEntry {
        op: entry.operation.clone(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..Default::default()
    }
}

/// The fields of `memory.stat` that the v1 form knows, by the kernel's names.
fn memory_v1(stats: &Stats) -> v1::MemoryStat {
    let memory = &stats.memory;
    let field = |name: &str| memory.stat.get(name).copied().unwrap_or(0);
    v1::MemoryStat {
        cache: field("cache"),
        rss: field("rss"),
        rss_huge: field("rss_huge"),
        mapped_file: field("mapped_file"),
        dirty: field("dirty"),
        writeback: field("writeback"),
        pg_pg_in: field("pgpgin"),
        pg_pg_out: field("pgpgout"),
        pg_fault: field("pgfault"),
        pg_maj_fault: field("pgmajfault"),
        inactive_anon: field("inactive_anon"),
        active_anon: field("active_anon"),
        inactive_file: field("inactive_file"),
        active_file: field("active_file"),
        unevictable: field("unevictable"),
        hierarchical_memory_limit: field("hierarchical_memory_limit"),
        hierarchical_swap_limit: field("hierarchical_memsw_limit"),
        total_cache: field("total_cache"),
        total_rss: field("total_rss"),
        total_rss_huge: field("total_rss_huge"),
        total_mapped_file: field("total_mapped_file"),
        total_dirty: field("total_dirty"),
        total_writeback: field("total_writeback"),
        total_pg_pg_in: field("total_pgpgin"),
        total_pg_pg_out: field("total_pgpgout"),
        total_pg_fault: field("total_pgfault"),
        total_pg_maj_fault: field("total_pgmajfault"),
        total_inactive_anon: field("total_inactive_anon"),
        total_active_anon: field("total_active_anon"),
        total_inactive_file: field("total_inactive_file"),
        total_active_file: field("total_active_file"),
        total_unevictable: field("total_unevictable"),
        usage: entry(memory.usage, memory.max_usage, memory.limit, memory.failures),
        swap: counter(&memory.swap),
        kernel: counter(&memory.kernel),
        kernel_tcp: counter(&memory.kernel_tcp),
        ..Default::default()
    }
}

fn counter(counter: &MemoryCounter) -> MessageField<v1::MemoryEntry> {
    entry(counter.usage, counter.max_usage, counter.limit, counter.failures)
}

fn entry(usage: u64, max: u64, limit: Option<u64>, failures: u64) -> MessageField<v1::MemoryEntry> {
    let limit = limit.unwrap_or(UNLIMITED);
    MessageField::some(v1::MemoryEntry { limit, usage, max, failcnt: failures, ..Default::default() })
}

fn of_v2(stats: &Stats) -> v2::Metrics {
    let micro = |nanoseconds: u64| nanoseconds / 1000;
    let cpu = v2::CPUStat {
        usage_usec: micro(stats.cpu.usage),
        user_usec: micro(stats.cpu.user),
        system_usec: micro(stats.cpu.system),
        nr_periods: stats.cpu.periods,
        nr_throttled: stats.cpu.throttled_periods,
        throttled_usec: micro(stats.cpu.throttled_time),
        ..Default::default()
    };
    let limit = stats.pids.limit.unwrap_or(UNLIMITED);
    let pids = v2::PidsStat { current: stats.pids.current, limit, ..Default::default() };
    let events =
        v2::MemoryEvents { max: stats.memory.failures, oom_kill: stats.memory.oom_kills, ..Default::default() };
    v2::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory_v2(stats)),
        memory_events: MessageField::some(events),
        io: MessageField::some(v2::IOStat { usage: io_v2(stats), ..Default::default() }),
        ..Default::default()
    }
}

/// The fields of `memory.stat` that the v2 form knows, by the kernel's names.
fn memory_v2(stats: &Stats) -> v2::MemoryStat {
    let memory = &stats.memory;
    let field = |name: &str| memory.stat.get(name).copied().unwrap_or(0);
    v2::MemoryStat {
        anon: field("anon"),
        file: field("file"),
        kernel_stack: field("kernel_stack"),
        slab: field("slab"),
        sock: field("sock"),
        shmem: field("shmem"),
        file_mapped: field("file_mapped"),
        file_dirty: field("file_dirty"),
        file_writeback: field("file_writeback"),
        anon_thp: field("anon_thp"),
        inactive_anon: field("inactive_anon"),
        active_anon: field("active_anon"),
        inactive_file: field("inactive_file"),
        active_file: field("active_file"),
        unevictable: field("unevictable"),
        slab_reclaimable: field("slab_reclaimable"),
        slab_unreclaimable: field("slab_unreclaimable"),
        pgfault: field("pgfault"),
        pgmajfault: field("pgmajfault"),
        workingset_refault: field("workingset_refault"),
        workingset_activate: field("workingset_activate"),
        workingset_nodereclaim: field("workingset_nodereclaim"),
        pgrefill: field("pgrefill"),
        pgscan: field("pgscan"),
        pgsteal: field("pgsteal"),
        pgactivate: field("pgactivate"),
        pgdeactivate: field("pgdeactivate"),
        pglazyfree: field("pglazyfree"),
        pglazyfreed: field("pglazyfreed"),
        thp_fault_alloc: field("thp_fault_alloc"),
        thp_collapse_alloc: field("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.limit.unwrap_or(UNLIMITED),
        max_usage: memory.max_usage,
        swap_usage: memory.swap.usage,
        swap_limit: memory.swap.limit.unwrap_or(UNLIMITED),
        ..Default::default()
    }
}

/// One entry a device, from one entry a device and operation.
fn io_v2(stats: &Stats) -> Vec<v2::IOEntry> {
    let mut devices = std::collections::BTreeMap::<(u64, u64), v2::IOEntry>::new();
    let mut add =
        |entries: &[IoEntry], read: fn(&mut v2::IOEntry) -> &mut u64, write: fn(&mut v2::IOEntry) -> &mut u64| {
            for entry in entries {
                let device = devices.entry((entry.major, entry.minor)).or_insert_with(|| v2::IOEntry {
                    major: entry.major,
                    minor: entry.minor,
                    ..Default::default()
                });
                match entry.operation.as_str() {
                    "Read" => *read(device) += entry.value,
                    "Write" => *write(device) += entry.value,
                    _ => {}
                }
            }
        };
    add(&stats.blkio.bytes, |device| &mut device.rbytes, |device| &mut device.wbytes);
    add(&stats.blkio.operations, |device| &mut device.rios, |device| &mut device.wios);
    devices.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use containerd_shim_protos::protobuf::MessageFull;
    use containerd_shim_protos::protobuf::reflect::ReflectValueRef;
    use pea::{BlkioStats, CpuStats, MemoryStats, PidsStats};

    use super::*;

    /// The numbers of a message, by the names of their fields.
    fn numbers<M: MessageFull>(message: &M) -> BTreeMap<String, u64> {
        let message_type = M::descriptor();
        let numbers = message_type.fields().filter_map(|field| match field.get_singular_field_or_default(message) {
            ReflectValueRef::U64(value) => Some((field.name().to_owned(), value)),
            _ => None,
        });
        numbers.collect()
    }

    /// Every field has another number, so that none can stand for another.
    fn stats(version: CgroupVersion, names: impl Iterator<Item = String>) -> Stats {
        let counter = |n| MemoryCounter { usage: n, max_usage: n + 1, limit: Some(n + 2), failures: n + 3 };
        let io = |operation: &str, minor, value| IoEntry { operation: operation.into(), major: 8, minor, value };
        Stats {
            version,
            cpu: CpuStats {
                usage: 11_000,
                user: 12_000,
                system: 13_000,
                per_cpu: vec![1, 2],
                periods: 14,
                throttled_periods: 15,
                throttled_time: 16_000,
                ..CpuStats::default()
            },
            memory: MemoryStats {
                usage: 21,
                max_usage: 22,
                limit: Some(23),
                failures: 24,
                oom_kills: 25,
                swap: counter(30),
                kernel: counter(40),
                kernel_tcp: counter(50),
                stat: names.zip(1000..).collect(),
                ..MemoryStats::default()
            },
            pids: PidsStats { current: 61, limit: Some(62) },
            blkio: BlkioStats {
                bytes: vec![
                    io("Read", 0, 71),
                    io("Write", 0, 72),
                    io("Sync", 0, 9),
                    io("Read", 1, 73),
                    io("Read", 0, 4),
                ],
                operations: vec![io("Read", 0, 75), io("Write", 0, 76)],
                ..BlkioStats::default()
            },
            ..Stats::default()
        }
    }

    /// The kernel's name in `memory.stat` for a field of the v1 form.
    fn name_in_v1(field: &str) -> String {
        let plain =
            field.replace("pg_pg_", "pgpg").replace("pg_maj_fault", "pgmajfault").replace("pg_fault", "pgfault");
        plain.replace("swap_limit", "memsw_limit")
    }

    #[test]
    fn each_figure_is_in_its_field_of_the_first_form() {
        let fields: Vec<String> = numbers(&v1::MemoryStat::new()).into_keys().collect();
        let stats = stats(CgroupVersion::V1, fields.iter().map(|field| name_in_v1(field)));
        let any = metrics(&stats).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        let usage = &metrics.cpu.usage;
        assert_eq!((usage.total, usage.user, usage.kernel), (11_000, 12_000, 13_000));
        assert_eq!(usage.per_cpu, [1, 2]);
        let throttling = &metrics.cpu.throttling;
        assert_eq!((throttling.periods, throttling.throttled_periods, throttling.throttled_time), (14, 15, 16_000));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (61, 62));
        let expected: BTreeMap<String, u64> = fields.into_iter().zip(1000..).collect();
        assert_eq!(numbers(&*metrics.memory), expected);
        let entry = |entry: &v1::MemoryEntry| (entry.usage, entry.max, entry.limit, entry.failcnt);
        let memory = &metrics.memory;
        assert_eq!((entry(&memory.usage), entry(&memory.swap)), ((21, 22, 23, 24), (30, 31, 32, 33)));
        assert_eq!((entry(&memory.kernel), entry(&memory.kernel_tcp)), ((40, 41, 42, 43), (50, 51, 52, 53)));
        assert_eq!(metrics.memory_oom_control.oom_kill, 25);
        let entries = |entries: &[v1::BlkIOEntry]| {
            entries.iter().map(|entry| (entry.op.clone(), entry.major, entry.minor, entry.value)).collect::<Vec<_>>()
        };
        assert_eq!(entries(&metrics.blkio.io_service_bytes_recursive)[0], ("Read".to_owned(), 8, 0, 71));
        assert_eq!(entries(&metrics.blkio.io_serviced_recursive)[1], ("Write".to_owned(), 8, 0, 76));
    }

    #[test]
    fn each_figure_is_in_its_field_of_the_second_form() {
        // What is not from `memory.stat`.
        let others = [("max_usage", 22), ("swap_limit", 32), ("swap_max_usage", 0), ("swap_usage", 30), ("usage", 21)];
        let mut others: BTreeMap<String, u64> = others.map(|(name, value)| (name.to_owned(), value)).into();
        others.insert("usage_limit".into(), 23);
        let fields = numbers(&v2::MemoryStat::new()).into_keys();
        let fields: Vec<String> = fields.filter(|field| !others.contains_key(field)).collect();
        let any = metrics(&stats(CgroupVersion::V2, fields.iter().cloned())).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        let cpu = &metrics.cpu;
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec), (11, 12, 13), "microseconds");
        assert_eq!((cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec), (14, 15, 16));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (61, 62));
        let mut expected: BTreeMap<String, u64> = fields.into_iter().zip(1000..).collect();
        expected.append(&mut others);
        assert_eq!(numbers(&*metrics.memory), expected);
        assert_eq!((metrics.memory_events.max, metrics.memory_events.oom_kill), (24, 25));
        let devices: Vec<_> = metrics.io.usage.iter().map(numbers).collect();
        let device = |minor, [rbytes, wbytes, rios, wios]: [u64; 4]| {
            let figures = [
                ("major", 8),
                ("minor", minor),
                ("rbytes", rbytes),
                ("wbytes", wbytes),
                ("rios", rios),
                ("wios", wios),
            ];
            figures.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>()
        };
        assert_eq!(devices, [device(0, [75, 72, 75, 76]), device(1, [73, 0, 0, 0])]);
    }

    #[test]
    fn no_limit_is_no_limit_of_nothing() {
        let metrics = of_v2(&Stats { version: CgroupVersion::V2, ..Stats::default() });
        assert_eq!(metrics.pids.limit, UNLIMITED);
        assert_eq!((metrics.memory.usage_limit, metrics.memory.swap_limit), (UNLIMITED, UNLIMITED));
        let metrics = of_v1(&Stats::default());
        // The first form writes "no limit" of processes as 0.
        assert_eq!((metrics.pids.limit, metrics.memory.usage.limit), (0, UNLIMITED));
    }
}
