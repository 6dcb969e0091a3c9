//! What a pod uses: what its containers use together.
//!
//! Not read from a cgroup that they have in common: the pod may have none of its own, and under one that kubelet has made
//! there is also what others account to the pod. How long was waited for a resource (psi.rst) is left out: containers that
//! wait at the same time wait once.

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use pea::{CgroupVersion, CpuStats, HugetlbStats, MemoryCounter, MemoryStats, PidsStats, RdmaStats, Stats};

use crate::error::Error;
use crate::log;
use crate::pod::Pod;
use crate::task::Phase;

/// Adds up the containers that have not ended. What one of them does not tell is as if it used nothing.
pub fn of_pod(pod: &Pod) -> Stats {
    let mut sum = Stats { version: version(), ..nothing() };
    for container in pod.containers() {
        if !matches!(container.init.phase(), Phase::Created | Phase::Running) {
            continue;
        }
        match container.runtime.stats(&container.id).map_err(Error::from) {
            Ok(stats) => add(&mut sum, stats),
            // It may have ended just now.
            Err(error) if error.is_not_found() => {}
            Err(error) => log::error(error),
        }
    }
    sum
}

/// The form the numbers are told in when there is nothing to read: by what containerd's clients go, too.
fn version() -> CgroupVersion {
    match statfs("/sys/fs/cgroup") {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => CgroupVersion::V2,
        _ => CgroupVersion::V1,
    }
}

/// No pages and no handles of one kind, as in [`nothing`].
const NO_PAGES: HugetlbStats = HugetlbStats { usage: 0, max_usage: 0, limit: Some(0), failures: 0 };
const NO_RDMA: RdmaStats = RdmaStats { handles: 0, objects: 0, handle_limit: Some(0), object_limit: Some(0) };

/// A sum has a limit only as long as each of its parts has one.
fn nothing() -> Stats {
    let counter = || MemoryCounter { limit: Some(0), ..MemoryCounter::default() };
    Stats {
        memory: MemoryStats {
            limit: Some(0),
            swap: counter(),
            kernel: counter(),
            kernel_tcp: counter(),
            ..MemoryStats::default()
        },
        pids: PidsStats { limit: Some(0), ..PidsStats::default() },
        ..Stats::default()
    }
}

fn add(sum: &mut Stats, part: Stats) {
    sum.version = part.version;
    add_cpu(&mut sum.cpu, &part.cpu);
    add_memory(&mut sum.memory, part.memory);
    sum.pids.current += part.pids.current;
    add_limit(&mut sum.pids.limit, part.pids.limit);
    sum.blkio.bytes.extend(part.blkio.bytes);
    sum.blkio.operations.extend(part.blkio.operations);
    for (size, part) in part.hugetlb {
        add_pages(sum.hugetlb.entry(size).or_insert(NO_PAGES), &part);
    }
    for (device, part) in part.rdma {
        add_rdma(sum.rdma.entry(device).or_insert(NO_RDMA), &part);
    }
}

fn add_cpu(sum: &mut CpuStats, part: &CpuStats) {
    sum.usage += part.usage;
    sum.user += part.user;
    sum.system += part.system;
    sum.periods += part.periods;
    sum.throttled_periods += part.throttled_periods;
    sum.throttled_time += part.throttled_time;
    sum.burst_periods += part.burst_periods;
    sum.burst_time += part.burst_time;
    sum.per_cpu.resize(sum.per_cpu.len().max(part.per_cpu.len()), 0);
    for (sum, part) in sum.per_cpu.iter_mut().zip(&part.per_cpu) {
        *sum += part;
    }
}

fn add_memory(sum: &mut MemoryStats, part: MemoryStats) {
    sum.usage += part.usage;
    sum.max_usage += part.max_usage;
    add_limit(&mut sum.limit, part.limit);
    add_counter(&mut sum.swap, &part.swap);
    add_counter(&mut sum.kernel, &part.kernel);
    add_counter(&mut sum.kernel_tcp, &part.kernel_tcp);
    sum.failures += part.failures;
    sum.oom_kills += part.oom_kills;
    for (name, value) in part.stat {
        // Some of these are limits, which may be "none".
        let known = sum.stat.entry(name).or_default();
        *known = known.saturating_add(value);
    }
    for (name, count) in part.events {
        *sum.events.entry(name).or_default() += count;
    }
}

fn add_pages(sum: &mut HugetlbStats, part: &HugetlbStats) {
    sum.usage += part.usage;
    sum.max_usage += part.max_usage;
    sum.failures += part.failures;
    add_limit(&mut sum.limit, part.limit);
}

fn add_rdma(sum: &mut RdmaStats, part: &RdmaStats) {
    sum.handles += part.handles;
    sum.objects += part.objects;
    add_limit(&mut sum.handle_limit, part.handle_limit);
    add_limit(&mut sum.object_limit, part.object_limit);
}

fn add_counter(sum: &mut MemoryCounter, part: &MemoryCounter) {
    sum.usage += part.usage;
    sum.max_usage += part.max_usage;
    sum.failures += part.failures;
    add_limit(&mut sum.limit, part.limit);
}

fn add_limit(sum: &mut Option<u64>, part: Option<u64>) {
    *sum = sum.zip(part).map(|(sum, part)| sum.saturating_add(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(limit: Option<u64>) -> Stats {
        Stats {
            cpu: CpuStats { usage: 5, per_cpu: vec![2, 3], ..CpuStats::default() },
            memory: MemoryStats { usage: 100, limit, stat: [("rss".to_owned(), 7)].into(), ..MemoryStats::default() },
            pids: PidsStats { current: 3, limit },
            ..Stats::default()
        }
    }

    #[test]
    fn what_is_used_adds_up_and_so_do_limits_if_all_have_one() {
        let mut sum = nothing();
        add(&mut sum, container(Some(1000)));
        add(&mut sum, container(Some(500)));
        assert_eq!((sum.cpu.usage, sum.cpu.per_cpu.as_slice()), (10, &[4, 6][..]));
        assert_eq!((sum.memory.usage, sum.memory.stat["rss"], sum.pids.current), (200, 14, 6));
        assert_eq!((sum.memory.limit, sum.pids.limit), (Some(1500), Some(1500)));
        add(&mut sum, container(None));
        assert_eq!((sum.memory.usage, sum.memory.limit, sum.pids.limit), (300, None, None));
    }

    #[test]
    fn what_only_some_containers_have_adds_up_by_its_name() {
        let pages = |limit| HugetlbStats { usage: 1, max_usage: 2, limit, failures: 3 };
        let rdma = |object_limit| RdmaStats { handles: 4, objects: 5, handle_limit: Some(6), object_limit };
        let one = |size: &str, device: &str, limit| Stats {
            cpu: CpuStats { burst_periods: 7, burst_time: 8, ..CpuStats::default() },
            memory: MemoryStats {
                events: [("oom".to_owned(), 9), ("high".to_owned(), 10)].into(),
                ..MemoryStats::default()
            },
            hugetlb: [(size.to_owned(), pages(limit))].into(),
            rdma: [(device.to_owned(), rdma(limit))].into(),
            ..Stats::default()
        };
        let mut sum = nothing();
        for (size, device, limit) in [("2MB", "mlx4_0", Some(11)), ("2MB", "mlx4_0", Some(12)), ("1GB", "mlx4_1", None)]
        {
            add(&mut sum, one(size, device, limit));
        }
        assert_eq!((sum.cpu.burst_periods, sum.cpu.burst_time), (21, 24));
        assert_eq!((sum.memory.events["oom"], sum.memory.events["high"]), (27, 30));
        let twice = HugetlbStats { usage: 2, max_usage: 4, limit: Some(23), failures: 6 };
        assert_eq!(sum.hugetlb, [("1GB".to_owned(), pages(None)), ("2MB".to_owned(), twice)].into());
        let twice = RdmaStats { handles: 8, objects: 10, handle_limit: Some(12), object_limit: Some(23) };
        assert_eq!(sum.rdma, [("mlx4_0".to_owned(), twice), ("mlx4_1".to_owned(), rdma(None))].into());
    }
}
