//! What a container uses, in the two forms containerd's clients know: by the kernel's cgroup version.

mod v1;
mod v2;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use pea::{CgroupVersion, RdmaStats, Stats};

use crate::error::Error;

const V1_TYPE_URL: &str = "io.containerd.cgroups.v1.Metrics";
const V2_TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";
/// How both forms write "no limit".
const UNLIMITED: u64 = u64::MAX;

/// The `Any` of a `Stats` response.
pub fn metrics(stats: &Stats) -> Result<Any, Error> {
    let (type_url, value) = match stats.version {
        CgroupVersion::V1 => (V1_TYPE_URL, v1::metrics(stats).write_to_bytes()),
        CgroupVersion::V2 => (V2_TYPE_URL, v2::metrics(stats).write_to_bytes()),
    };
    let value = value.map_err(|source| Error::internal(format!("encode {type_url}: {source}")))?;
    Ok(Any { type_url: type_url.to_owned(), value, ..Default::default() })
}

/// A device, and how many handles and objects.
type Rdma = (String, u32, u32);

/// What is used, and what may be. In both forms "no limit" is the most that can be written.
fn rdma(stats: &Stats) -> (impl Iterator<Item = Rdma>, impl Iterator<Item = Rdma>) {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let limit = move |value: Option<u64>| value.map_or(u32::MAX, number);
    let used =
        move |(device, used): (&String, &RdmaStats)| (device.clone(), number(used.handles), number(used.objects));
    let allowed = move |(device, allowed): (&String, &RdmaStats)| {
        (device.clone(), limit(allowed.handle_limit), limit(allowed.object_limit))
    };
    (stats.rdma.iter().map(used), stats.rdma.iter().map(allowed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use containerd_shim_protos::protobuf::MessageFull;
    use containerd_shim_protos::protobuf::reflect::ReflectValueRef;
    use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
    use pea::{
        BlkioStats, CpuStats, HugetlbStats, IoEntry, MemoryCounter, MemoryStats, PidsStats, Pressure, PressureLine,
    };

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

    fn pressure(n: u32) -> Pressure {
        let line = |n: u32| PressureLine {
            avg10: f64::from(n),
            avg60: f64::from(n + 1),
            avg300: f64::from(n + 2),
            total: u64::from(n + 3),
        };
        Pressure { some: line(n), full: line(n + 10) }
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
                burst_periods: 17,
                burst_time: 18_000,
                pressure: Some(pressure(100)),
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
                events: [("low", 26), ("high", 27), ("oom", 28), ("oom_group_kill", 29)]
                    .map(|(name, count)| (name.to_owned(), count))
                    .into(),
                pressure: Some(pressure(200)),
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
                pressure: Some(pressure(300)),
            },
            hugetlb: [("2MB", HugetlbStats { usage: 81, max_usage: 82, limit: Some(83), failures: 84 })]
                .map(|(size, pages)| (size.to_owned(), pages))
                .into(),
            rdma: [("mlx4_0", RdmaStats { handles: 91, objects: 92, handle_limit: Some(93), object_limit: None })]
                .map(|(device, used)| (device.to_owned(), used))
                .into(),
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
        let pages = &metrics.hugetlb[0];
        assert_eq!((pages.pagesize.as_str(), pages.usage, pages.max, pages.failcnt), ("2MB", 81, 82, 84));
        let rdma = |entry: &v1::RdmaEntry| (entry.device.clone(), entry.hca_handles, entry.hca_objects);
        assert_eq!(rdma(&metrics.rdma.current[0]), ("mlx4_0".to_owned(), 91, 92));
        assert_eq!(rdma(&metrics.rdma.limit[0]), ("mlx4_0".to_owned(), 93, u32::MAX));
        let entries = |entries: &[v1::BlkIOEntry]| {
            entries.iter().map(|entry| (entry.op.clone(), entry.major, entry.minor, entry.value)).collect::<Vec<_>>()
        };
        assert_eq!(entries(&metrics.blkio.io_service_bytes_recursive)[0], ("Read".to_owned(), 8, 0, 71));
        assert_eq!(entries(&metrics.blkio.io_serviced_recursive)[1], ("Write".to_owned(), 8, 0, 76));
    }

    #[test]
    fn each_figure_is_in_its_field_of_the_second_form() {
        // What is not from `memory.stat`.
        let others = [("max_usage", 22), ("swap_limit", 32), ("swap_max_usage", 31), ("swap_usage", 30), ("usage", 21)];
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
        assert_eq!((cpu.nr_bursts, cpu.burst_usec), (17, 18));
        let events = [("high", 27), ("low", 26), ("max", 24), ("oom", 28), ("oom_group_kill", 29), ("oom_kill", 25)];
        assert_eq!(numbers(&*metrics.memory_events), events.map(|(name, count)| (name.to_owned(), count)).into());
        for (psi, n) in [(&cpu.psi, 100), (&metrics.memory.psi, 200), (&metrics.io.psi, 300)] {
            let line = |line: &v2::PSIData| PressureLine {
                avg10: line.avg10,
                avg60: line.avg60,
                avg300: line.avg300,
                total: line.total,
            };
            assert_eq!(Pressure { some: line(&psi.some), full: line(&psi.full) }, pressure(n));
        }
        let pages = &metrics.hugetlb[0];
        assert_eq!((pages.pagesize.as_str(), pages.current, pages.max, pages.failcnt), ("2MB", 81, 83, 84));
        let rdma = |entry: &v2::RdmaEntry| (entry.device.clone(), entry.hca_handles, entry.hca_objects);
        assert_eq!(rdma(&metrics.rdma.current[0]), ("mlx4_0".to_owned(), 91, 92));
        assert_eq!(rdma(&metrics.rdma.limit[0]), ("mlx4_0".to_owned(), 93, u32::MAX));
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
        let metrics = super::v2::metrics(&Stats { version: CgroupVersion::V2, ..Stats::default() });
        assert_eq!(metrics.pids.limit, UNLIMITED);
        assert_eq!((metrics.memory.usage_limit, metrics.memory.swap_limit), (UNLIMITED, UNLIMITED));
        let metrics = super::v1::metrics(&Stats::default());
        // The first form writes "no limit" of processes as 0.
        assert_eq!((metrics.pids.limit, metrics.memory.usage.limit), (0, UNLIMITED));
    }
}
