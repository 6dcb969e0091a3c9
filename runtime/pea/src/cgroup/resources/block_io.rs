//! `linux.resources.blockIO`

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice, LinuxWeightDevice};

use super::Target;
use crate::cgroup::value::{Value, unsupported};
use crate::error::Error;
use crate::stats::CgroupVersion;

const KEY: &str = "linux.resources.blockIO";

/// A list of the specification, the v1 file of each of its entries, and the word for it in v2's io.max.
type Throttle<'a> = (&'static str, &'a Option<Vec<LinuxThrottleDevice>>, &'static str, &'static str);

fn throttles(io: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    [
        ("throttleReadBpsDevice", io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
    ]
}

pub fn values(io: &LinuxBlockIo, target: Target<'_>) -> Result<Vec<Value>, Error> {
    let Some(key) = first_key(io) else { return Ok(Vec::new()) };
    let home = target.home("blkio", &format!("{KEY}.{key}"))?;
    let mut values = match home.version {
        CgroupVersion::V1 => weights_v1(io, &home.dir),
        CgroupVersion::V2 => weights_v2(io, &home.dir)?,
    };
    for (list, devices, file, word) in throttles(io) {
        for (index, device) in devices.iter().flatten().enumerate() {
            let key = format!("{KEY}.{list}[{index}]");
            let (device, rate) = (number(&key, device.major(), device.minor())?, device.rate());
            values.push(match home.version {
                CgroupVersion::V1 => Value::new(key, &home.dir, file, format!("{device} {rate}")),
                // No rate is no limit, as it is in v1.
                CgroupVersion::V2 if rate == 0 => Value::new(key, &home.dir, "io.max", format!("{device} {word}=max")),
                CgroupVersion::V2 => Value::new(key, &home.dir, "io.max", format!("{device} {word}={rate}")),
            });
        }
    }
    Ok(values)
}

fn weight(io: &LinuxBlockIo) -> Option<u16> {
    io.weight().filter(|weight| *weight != 0)
}

fn leaf_weight(io: &LinuxBlockIo) -> Option<u16> {
    io.leaf_weight().filter(|weight| *weight != 0)
}

fn weight_devices(io: &LinuxBlockIo) -> &[LinuxWeightDevice] {
    io.weight_device().as_deref().unwrap_or_default()
}

/// The first key that says something.
fn first_key(io: &LinuxBlockIo) -> Option<&'static str> {
    let weights = [
        (weight(io).is_some(), "weight"),
        (leaf_weight(io).is_some(), "leafWeight"),
        (!weight_devices(io).is_empty(), "weightDevice"),
    ];
    let throttles = throttles(io).map(|(key, list, ..)| (list.iter().flatten().next().is_some(), key));
    weights.into_iter().chain(throttles).find_map(|(said, key)| said.then_some(key))
}

fn number(key: &str, major: i64, minor: i64) -> Result<String, Error> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(Error::spec(format!("{key}: {major}:{minor} is not a device"))),
    }
}

/// Of two schedulers, CFQ (gone with Linux 5.0) and BFQ, each has its own files.
fn weights_v1(io: &LinuxBlockIo, dir: &Path) -> Vec<Value> {
    let mut values = Vec::new();
    if let Some(weight) = weight(io) {
        values.push(Value::new(format!("{KEY}.weight"), dir, "blkio.weight", weight).or("blkio.bfq.weight", weight));
    }
    if let Some(weight) = leaf_weight(io) {
        values.push(Value::new(format!("{KEY}.leafWeight"), dir, "blkio.leaf_weight", weight));
    }
    for (index, entry) in weight_devices(io).iter().enumerate() {
        let key = format!("{KEY}.weightDevice[{index}]");
        let line = |weight: u16| format!("{}:{} {weight}", entry.major(), entry.minor());
        if let Some(weight) = entry.weight().filter(|weight| *weight != 0).map(line) {
            values.push(Value::new(&*key, dir, "blkio.weight_device", &weight).or("blkio.bfq.weight_device", &weight));
        }
        if let Some(weight) = entry.leaf_weight().filter(|weight| *weight != 0).map(line) {
            values.push(Value::new(&*key, dir, "blkio.leaf_weight_device", weight));
        }
    }
    values
}

fn weights_v2(io: &LinuxBlockIo, dir: &Path) -> Result<Vec<Value>, Error> {
    let no_leaves = |key: String| Err(unsupported(&key, "cgroup v2 does not weigh a group against its children"));
    if leaf_weight(io).is_some() {
        return no_leaves(format!("{KEY}.leafWeight"));
    }
    let mut values = Vec::new();
    if let Some(weight) = weight(io) {
        let value = Value::new(format!("{KEY}.weight"), dir, "io.bfq.weight", weight);
        values.push(value.or("io.weight", format!("default {}", io_weight(weight))));
    }
    for (index, entry) in weight_devices(io).iter().enumerate() {
        let key = format!("{KEY}.weightDevice[{index}]");
        if entry.leaf_weight().is_some_and(|weight| weight != 0) {
            return no_leaves(key);
        }
        let Some(weight) = entry.weight().filter(|weight| *weight != 0) else { continue };
        let device = number(&key, entry.major(), entry.minor())?;
        let value = Value::new(key, dir, "io.bfq.weight", format!("{device} {weight}"));
        values.push(value.or("io.weight", format!("{device} {}", io_weight(weight))));
    }
    Ok(values)
}

/// From 10..1000 to 1..10000, in a straight line, as runc and crun have it.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{plan, v1, v2};
    use super::*;

    #[test]
    fn weights_are_converted_in_a_straight_line() {
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn each_key_has_its_file() {
        let io = |leaf: Option<u16>| {
            json!({"blockIO": {"weight": 500, "leafWeight": leaf,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}})
        };
        assert_eq!(
            plan(&v1(), io(Some(300))).expect("a plan"),
            [
                "blkio/blkio.weight=500",
                "blkio/blkio.leaf_weight=300",
                "blkio/blkio.weight_device=8:0 10",
                "blkio/blkio.throttle.read_bps_device=8:0 600",
                "blkio/blkio.throttle.write_iops_device=8:16 0",
            ]
        );
        assert_eq!(
            plan(&v2(), io(None)).expect("a plan"),
            ["io.bfq.weight=500", "io.bfq.weight=8:0 10", "io.max=8:0 rbps=600", "io.max=8:16 wiops=max"]
        );
        assert!(plan(&v2(), io(Some(300))).expect_err("a leaf").starts_with("linux.resources.blockIO.leafWeight: "));
    }

    #[test]
    fn a_device_has_two_numbers() {
        let io = json!({"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}});
        assert!(plan(&v2(), io).expect_err("no device").contains("throttleReadBpsDevice[0]: -1:0 is not a device"));
    }
}
