//! The form of the unified hierarchy.

use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::MessageField;
use pea::{HugetlbStats, IoEntry, Pressure, PressureLine, Stats};

use super::{UNLIMITED, rdma};

pub(super) fn metrics(stats: &Stats) -> v2::Metrics {
    let micro = |nanoseconds: u64| nanoseconds / 1000;
    let cpu = v2::CPUStat {
        usage_usec: micro(stats.cpu.usage),
        user_usec: micro(stats.cpu.user),
        system_usec: micro(stats.cpu.system),
        nr_periods: stats.cpu.periods,
        nr_throttled: stats.cpu.throttled_periods,
        throttled_usec: micro(stats.cpu.throttled_time),
        nr_bursts: stats.cpu.burst_periods,
        burst_usec: micro(stats.cpu.burst_time),
        psi: psi(stats.cpu.pressure),
        ..Default::default()
    };
    let limit = stats.pids.limit.unwrap_or(UNLIMITED);
    let pids = v2::PidsStat { current: stats.pids.current, limit, ..Default::default() };
    let event = |name: &str| stats.memory.events.get(name).copied().unwrap_or(0);
    let events = v2::MemoryEvents {
        low: event("low"),
        high: event("high"),
        max: stats.memory.failures,
        oom: event("oom"),
        oom_kill: stats.memory.oom_kills,
        oom_group_kill: event("oom_group_kill"),
        ..Default::default()
    };
    let (current, limit) = rdma(stats);
    let entry =
        |(device, hca_handles, hca_objects)| v2::RdmaEntry { device, hca_handles, hca_objects, ..Default::default() };
    let (current, limit) = (current.map(entry).collect(), limit.map(entry).collect());
    let io = v2::IOStat { usage: io(stats), psi: psi(stats.blkio.pressure), ..Default::default() };
    v2::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory(stats)),
        memory_events: MessageField::some(events),
        rdma: MessageField::some(v2::RdmaStat { current, limit, ..Default::default() }),
        io: MessageField::some(io),
        hugetlb: stats.hugetlb.iter().map(hugetlb).collect(),
        ..Default::default()
    }
}

/// The fields of `memory.stat` that the v2 form knows, by the kernel's names.
fn memory(stats: &Stats) -> v2::MemoryStat {
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
        swap_max_usage: memory.swap.max_usage,
        psi: psi(memory.pressure),
        ..Default::default()
    }
}

fn hugetlb((size, pages): (&String, &HugetlbStats)) -> v2::HugeTlbStat {
    v2::HugeTlbStat {
        current: pages.usage,
        max: pages.limit.unwrap_or(UNLIMITED),
        failcnt: pages.failures,
        pagesize: size.clone(),
        ..Default::default()
    }
}

/// Nothing where the kernel does not measure it.
fn psi(pressure: Option<Pressure>) -> MessageField<v2::PSIStats> {
    let line = |line: PressureLine| {
        let PressureLine { avg10, avg60, avg300, total } = line;
        MessageField::some(v2::PSIData { avg10, avg60, avg300, total, ..Default::default() })
    };
    let both = |Pressure { some, full }| v2::PSIStats { some: line(some), full: line(full), ..Default::default() };
    pressure.map(both).into()
}

/// One entry a device, from one entry a device and operation.
fn io(stats: &Stats) -> Vec<v2::IOEntry> {
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
