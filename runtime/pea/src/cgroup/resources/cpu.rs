//! `linux.resources.cpu`

use std::path::Path;

use oci_spec::runtime::LinuxCpu;

use super::Target;
use crate::cgroup::value::{Value, unsupported};
use crate::error::Error;
use crate::stats::CgroupVersion;

/// The kernel's own period, in microseconds (cgroup-v2.rst, "cpu.max").
const DEFAULT_PERIOD: u64 = 100_000;

pub fn values(cpu: &LinuxCpu, target: Target<'_>) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            let key = format!("linux.resources.cpu.{name}");
            let home = target.home("cpuset", &key)?;
            values.push(Value::new(key, &home.dir, format!("cpuset.{name}"), list));
        }
    }
    let Some(key) = first_key(cpu) else { return Ok(values) };
    let home = target.home("cpu", key)?;
    match home.version {
        CgroupVersion::V1 => values.extend(v1(cpu, &home.dir)),
        CgroupVersion::V2 => values.extend(v2(cpu, &home.dir)?),
    }
    Ok(values)
}

const SHARES: &str = "linux.resources.cpu.shares";
const QUOTA: &str = "linux.resources.cpu.quota";
const PERIOD: &str = "linux.resources.cpu.period";
const BURST: &str = "linux.resources.cpu.burst";
const IDLE: &str = "linux.resources.cpu.idle";
const RUNTIME: &str = "linux.resources.cpu.realtimeRuntime";
const RUNTIME_PERIOD: &str = "linux.resources.cpu.realtimePeriod";

/// The first of the controller's keys that says something.
fn first_key(cpu: &LinuxCpu) -> Option<&'static str> {
    let said = [
        (shares(cpu).is_some(), SHARES),
        (quota(cpu).is_some(), QUOTA),
        (period(cpu).is_some(), PERIOD),
        (cpu.burst().is_some(), BURST),
        (cpu.idle().is_some(), IDLE),
        (real_time(cpu).0.is_some(), RUNTIME),
        (real_time(cpu).1.is_some(), RUNTIME_PERIOD),
    ];
    said.into_iter().find_map(|(said, key)| said.then_some(key))
}

/// A group that only gets what others leave has the least weight there is, and the kernel lets nobody change that.
fn shares(cpu: &LinuxCpu) -> Option<u64> {
    cpu.shares().filter(|shares| *shares != 0 && cpu.idle().unwrap_or(0) == 0)
}

fn quota(cpu: &LinuxCpu) -> Option<i64> {
    cpu.quota().filter(|quota| *quota != 0)
}

fn period(cpu: &LinuxCpu) -> Option<u64> {
    cpu.period().filter(|period| *period != 0)
}

fn real_time(cpu: &LinuxCpu) -> (Option<i64>, Option<u64>) {
    (cpu.realtime_runtime().filter(|runtime| *runtime != 0), cpu.realtime_period().filter(|period| *period != 0))
}

fn v1(cpu: &LinuxCpu, dir: &Path) -> Vec<Value> {
    let value = |key, file, number: Option<i128>| number.map(|number| Value::new(key, dir, file, number));
    let (runtime, runtime_period) = real_time(cpu);
    let early = [
        value(RUNTIME_PERIOD, "cpu.rt_period_us", runtime_period.map(Into::into)),
        value(RUNTIME, "cpu.rt_runtime_us", runtime.map(Into::into)),
    ];
    let late = [
        value(IDLE, "cpu.idle", cpu.idle().map(Into::into)),
        value(SHARES, "cpu.shares", shares(cpu).map(Into::into)),
        value(PERIOD, "cpu.cfs_period_us", period(cpu).map(Into::into)),
        value(BURST, "cpu.cfs_burst_us", cpu.burst().map(Into::into)),
        value(QUOTA, "cpu.cfs_quota_us", quota(cpu).map(Into::into)),
    ];
    early.into_iter().flatten().chain(late.into_iter().flatten().map(Value::late)).collect()
}

fn v2(cpu: &LinuxCpu, dir: &Path) -> Result<Vec<Value>, Error> {
    let (runtime, runtime_period) = real_time(cpu);
    for (given, key) in [(runtime.is_some(), RUNTIME), (runtime_period.is_some(), RUNTIME_PERIOD)] {
        if given {
            return Err(unsupported(key, "cgroup v2 has no real-time scheduling by group"));
        }
    }
    let key = if quota(cpu).is_some() { QUOTA } else { PERIOD };
    let values = [
        cpu.idle().map(|idle| Value::new(IDLE, dir, "cpu.idle", idle)),
        shares(cpu).map(|shares| Value::new(SHARES, dir, "cpu.weight", weight(shares))),
        cpu.burst().map(|burst| Value::new(BURST, dir, "cpu.max.burst", burst)),
        bandwidth(cpu).map(|bandwidth| Value::new(key, dir, "cpu.max", bandwidth)),
    ];
    Ok(values.into_iter().flatten().map(Value::late).collect())
}

fn bandwidth(cpu: &LinuxCpu) -> Option<String> {
    let (quota, period) = (quota(cpu), period(cpu));
    if quota.is_none() && period.is_none() {
        return None;
    }
    let quota = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
    Some(format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD)))
}

/// The weight (1 to 10000) for a share (2 to 262144): the curve through both ends and through both defaults, 1024 and
/// 100, on which runc and crun have agreed.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = log.mul_add(log, 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{plan, v1, v2};
    use super::*;

    #[test]
    fn shares_become_weights_as_in_other_runtimes() {
        for (shares, expected) in [(1, 1), (2, 1), (3, 2), (1024, 100), (260_000, 9929), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn each_key_has_its_file() {
        let cpu = json!({"cpu": {"shares": 512, "quota": 50000, "period": 20000, "burst": 10000, "idle": 0,
            "realtimeRuntime": 900, "realtimePeriod": 1000, "cpus": "0-1", "mems": "0"}});
        assert_eq!(
            plan(&v1(), cpu.clone()).expect("a plan"),
            [
                "cpuset/cpuset.cpus=0-1",
                "cpuset/cpuset.mems=0",
                "cpu/cpu.rt_period_us=1000",
                "cpu/cpu.rt_runtime_us=900",
                "cpu/cpu.idle=0",
                "cpu/cpu.shares=512",
                "cpu/cpu.cfs_period_us=20000",
                "cpu/cpu.cfs_burst_us=10000",
                "cpu/cpu.cfs_quota_us=50000",
            ]
        );
        let error = plan(&v2(), cpu).expect_err("real time");
        assert!(error.starts_with("linux.resources.cpu.realtimeRuntime: "), "{error}");
        let cpu = json!({"cpu": {"shares": 512, "quota": 50000, "period": 20000, "burst": 10000, "cpus": "0-1"}});
        assert_eq!(
            plan(&v2(), cpu).expect("a plan"),
            ["cpuset.cpus=0-1", "cpu.weight=59", "cpu.max.burst=10000", "cpu.max=50000 20000"]
        );
    }

    #[test]
    fn a_quota_and_a_period_are_one_value_in_v2() {
        let max = |cpu| plan(&v2(), json!({"cpu": cpu})).expect("a plan");
        assert_eq!(max(json!({"quota": -1})), ["cpu.max=max 100000"]);
        assert_eq!(max(json!({"period": 5000})), ["cpu.max=max 5000"]);
        assert_eq!(max(json!({"quota": 7000})), ["cpu.max=7000 100000"]);
        assert_eq!(max(json!({"quota": 0, "period": 0, "shares": 0, "cpus": ""})), Vec::<String>::new());
    }

    #[test]
    fn an_idle_group_keeps_the_least_weight() {
        let cpu = json!({"cpu": {"idle": 1, "shares": 1024}});
        assert_eq!(plan(&v2(), cpu.clone()).expect("a plan"), ["cpu.idle=1"]);
        assert_eq!(plan(&v1(), cpu).expect("a plan"), ["cpu/cpu.idle=1"]);
    }
}
