//! The form of the kernel's first interface.

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::protobuf::MessageField;
use pea::{HugetlbStats, IoEntry, MemoryCounter, Stats};

use super::{UNLIMITED, rdma};

pub(super) fn metrics(stats: &Stats) -> v1::Metrics {
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
        io_service_bytes_recursive: stats.blkio.bytes.iter().map(io_entry).collect(),
        io_serviced_recursive: stats.blkio.operations.iter().map(io_entry).collect(),
        ..Default::default()
    };
    let (current, limit) = rdma(stats);
    let entry =
        |(device, hca_handles, hca_objects)| v1::RdmaEntry { device, hca_handles, hca_objects, ..Default::default() };
    let (current, limit) = (current.map(entry).collect(), limit.map(entry).collect());
    v1::Metrics {
        hugetlb: stats.hugetlb.iter().map(hugetlb).collect(),
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory(stats)),
        blkio: MessageField::some(blkio),
        rdma: MessageField::some(v1::RdmaStat { current, limit, ..Default::default() }),
        memory_oom_control: MessageField::some(v1::MemoryOomControl {
            oom_kill: stats.memory.oom_kills,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn io_entry(entry: &IoEntry) -> v1::BlkIOEntry {
    v1::BlkIOEntry {
        op: entry.operation.clone(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..Default::default()
    }
}

fn hugetlb((size, pages): (&String, &HugetlbStats)) -> v1::HugetlbStat {
    v1::HugetlbStat {
        usage: pages.usage,
        max: pages.max_usage,
        failcnt: pages.failures,
        pagesize: size.clone(),
        ..Default::default()
    }
}

/// The fields of `memory.stat` that the v1 form knows, by the kernel's names.
fn memory(stats: &Stats) -> v1::MemoryStat {
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
