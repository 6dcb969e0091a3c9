//! Limits as properties of a unit (systemd.resource-control(5), org.freedesktop.systemd1(5)).
//!
//! Every value is written to the cgroup as well. systemd has to know those it has a property for, or it would undo them
//! the next time it sets up the unit's cgroup, as after `systemctl daemon-reload`.

use super::datum::Datum;
use crate::cgroup::value::Value;

/// One property, and the first version of systemd that has it (0: any that is still in use).
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub name: String,
    pub value: Datum,
    pub since: u32,
}

impl Property {
    pub fn new(name: impl Into<String>, value: Datum) -> Self {
        Self { name: name.into(), value, since: 0 }
    }

    /// Whether it cannot be changed once the unit runs.
    pub fn is_fixed(&self) -> bool {
        self.name == OOM_POLICY
    }
}

/// It decides what systemd writes to `memory.oom.group`.
const OOM_POLICY: &str = "OOMPolicy";

/// How a file's text becomes a property's value.
#[derive(Clone, Copy)]
enum Form {
    /// A number, or `max` or -1 for none.
    Limit,
    /// The number after `default`.
    Weight,
    /// `0-2,7` as a set of bits.
    Set,
    /// 1 for the least weight there is.
    Idle,
    /// 1 for all to die of one.
    Together,
}

/// File, property, form, and the version of systemd since which there is such a property.
const PROPERTIES: [(&str, &str, Form, u32); 15] = [
    ("memory.max", "MemoryMax", Form::Limit, 0),
    ("memory.high", "MemoryHigh", Form::Limit, 0),
    ("memory.low", "MemoryLow", Form::Limit, 0),
    ("memory.min", "MemoryMin", Form::Limit, 0),
    ("memory.swap.max", "MemorySwapMax", Form::Limit, 0),
    ("memory.oom.group", OOM_POLICY, Form::Together, 253),
    ("memory.limit_in_bytes", "MemoryLimit", Form::Limit, 0),
    ("cpu.weight", "CPUWeight", Form::Limit, 0),
    ("cpu.idle", "CPUWeight", Form::Idle, 252),
    ("cpu.shares", "CPUShares", Form::Limit, 0),
    ("cpuset.cpus", "AllowedCPUs", Form::Set, 244),
    ("cpuset.mems", "AllowedMemoryNodes", Form::Set, 244),
    ("pids.max", "TasksMax", Form::Limit, 0),
    ("io.weight", "IOWeight", Form::Weight, 0),
    ("blkio.weight", "BlockIOWeight", Form::Limit, 0),
];

/// Those there are properties for. A text that the kernel would not understand either is left to the kernel.
pub fn properties(values: &[Value]) -> Vec<Property> {
    let mut properties = Vec::new();
    for value in values {
        for (file, name, form, since) in PROPERTIES {
            if let Some(value) = value.text_for(file).and_then(|text| form.read(text)) {
                properties.push(Property { name: name.to_owned(), value, since });
            }
        }
        properties.extend(value.text_for("cpu.max").and_then(bandwidth).into_iter().flatten());
    }
    let v1 = |file| values.iter().find_map(|value| value.text_for(file));
    if let Some(quota) = v1("cpu.cfs_quota_us") {
        let text = format!("{quota} {}", v1("cpu.cfs_period_us").unwrap_or("100000"));
        properties.extend(bandwidth(&text).into_iter().flatten());
    }
    properties
}

impl Form {
    fn read(self, text: &str) -> Option<Datum> {
        match self {
            Self::Limit => limit(text).map(Datum::U64),
            Self::Weight => text.strip_prefix("default ").unwrap_or(text).parse().ok().map(Datum::U64),
            Self::Set => set(text),
            Self::Together => Some(Datum::text(if text == "1" { "kill" } else { "continue" })),
            Self::Idle => (text == "1").then_some(Datum::U64(0)),
        }
    }
}

fn limit(text: &str) -> Option<u64> {
    match text.trim() {
        // systemd's own word for it.
        "max" | "-1" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// From a quota and its period, in microseconds: processor time a second, and the period.
fn bandwidth(text: &str) -> Option<[Property; 2]> {
    const SECOND: u64 = 1_000_000;
    /// systemd keeps percents, and would round down, to nothing at worst.
    const PERCENT: u64 = SECOND / 100;
    let mut words = text.split_whitespace();
    let quota = limit(words.next()?)?;
    let period: u64 = words.next().unwrap_or("100000").parse().ok().filter(|period| *period != 0)?;
    let per_second = match quota {
        u64::MAX => u64::MAX,
        quota => quota.checked_mul(SECOND)?.div_ceil(period).next_multiple_of(PERCENT),
    };
    let property = |name: &str, value, since| Property { name: name.to_owned(), value: Datum::U64(value), since };
    Some([property("CPUQuotaPerSecUSec", per_second, 0), property("CPUQuotaPeriodUSec", period, 242)])
}

/// A list as the kernel writes it (cpuset(7), "List format"), as bytes, the lowest bit of the first being number 0.
fn set(list: &str) -> Option<Datum> {
    /// More processors than any kernel is built for.
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        if bytes.len() <= last / 8 {
            bytes.resize(last / 8 + 1, 0_u8);
        }
        (first..=last).for_each(|number| bytes[number / 8] |= 1 << (number % 8));
    }
    Some(Datum::Array("y", bytes.into_iter().map(Datum::Byte).collect()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::cgroup::hierarchy::Layout;
    use crate::cgroup::resources::{self, Target, testing};

    fn of(layout: &Layout, resources: Json) -> Vec<(String, Datum)> {
        let resources = serde_json::from_value(resources).expect("resources");
        let target = Target { layout, path: Path::new("/x"), zero_is_a_limit: true };
        let values = resources::values(&resources, target).expect("values");
        properties(&values).into_iter().map(|property| (property.name, property.value)).collect()
    }

    fn numbers(layout: &Layout, resources: Json) -> Vec<(String, u64)> {
        let number = |(name, datum)| match datum {
            Datum::U64(number) => (name, number),
            other => panic!("{name}: {other:?}"),
        };
        of(layout, resources).into_iter().map(number).collect()
    }

    fn expected<const N: usize>(all: [(&str, u64); N]) -> Vec<(String, u64)> {
        all.into_iter().map(|(name, number)| (name.to_owned(), number)).collect()
    }

    #[test]
    fn each_limit_has_its_property() {
        let limits = json!({
            "memory": {"limit": 4096, "reservation": 2048, "swap": 8192},
            "cpu": {"shares": 1024, "quota": 50_000, "period": 20_000},
            "pids": {"limit": 7},
            "blockIO": {"weight": 500},
        });
        assert_eq!(
            numbers(&testing::v2(), limits.clone()),
            expected([
                ("MemorySwapMax", 4096),
                ("MemoryMax", 4096),
                ("MemoryLow", 2048),
                ("CPUWeight", 100),
                ("CPUQuotaPerSecUSec", 2_500_000),
                ("CPUQuotaPeriodUSec", 20_000),
                ("IOWeight", 4950),
                ("TasksMax", 7),
            ])
        );
        assert_eq!(
            numbers(&testing::v1(), limits),
            expected([
                ("MemoryLimit", 4096),
                ("CPUShares", 1024),
                ("BlockIOWeight", 500),
                ("TasksMax", 7),
                ("CPUQuotaPerSecUSec", 2_500_000),
                ("CPUQuotaPeriodUSec", 20_000),
            ])
        );
    }

    #[test]
    fn no_limit_is_one_too() {
        assert_eq!(
            numbers(&testing::v2(), json!({"pids": {"limit": -1}, "cpu": {"quota": -1}, "memory": {"limit": -1}})),
            expected([
                ("MemorySwapMax", u64::MAX),
                ("MemoryMax", u64::MAX),
                ("CPUQuotaPerSecUSec", u64::MAX),
                ("CPUQuotaPeriodUSec", 100_000),
                ("TasksMax", u64::MAX),
            ])
        );
    }

    #[test]
    fn the_unified_hierarchys_own_words_are_understood() {
        let unified = json!({"unified": {"memory.high": "max", "memory.min": "4096", "cpu.max": "1000", "cpu.idle": "1",
            "io.max": "8:0 rbps=1", "pids.max": "nonsense"}});
        assert_eq!(
            numbers(&testing::v2(), unified),
            expected([
                ("CPUWeight", 0),
                ("CPUQuotaPerSecUSec", 10_000),
                ("CPUQuotaPeriodUSec", 100_000),
                ("MemoryHigh", u64::MAX),
                ("MemoryMin", 4096),
            ])
        );
    }

    #[test]
    fn processor_time_is_rounded_up_to_percents() {
        let quota = |quota, period| {
            numbers(&testing::v2(), json!({"cpu": {"quota": quota, "period": period}})).first().map(|it| it.1)
        };
        assert_eq!(quota(10_000, 1_000_000), Some(10_000));
        assert_eq!(quota(10_001, 1_000_000), Some(20_000));
        assert_eq!(quota(1000, 3000), Some(340_000));
    }

    #[test]
    fn processors_are_bits() {
        let bytes = |list| match set(list) {
            Some(Datum::Array("y", all)) => Some(all),
            _ => None,
        };
        let of = |all: &[u8]| Some(all.iter().map(|&byte| Datum::Byte(byte)).collect::<Vec<_>>());
        assert_eq!(bytes("0-2,9"), of(&[0b111, 0b10]));
        assert_eq!(bytes("7\n"), of(&[0x80]));
        assert_eq!(bytes("2-1"), None);
        assert_eq!(bytes("x"), None);
        assert_eq!(bytes("0-99999999999"), None);
        let cpus = of_v2(json!({"cpu": {"cpus": "1", "mems": "0"}}));
        assert_eq!(cpus, ["AllowedCPUs", "AllowedMemoryNodes"]);
    }

    fn of_v2(resources: Json) -> Vec<String> {
        of(&testing::v2(), resources).into_iter().map(|(name, _)| name).collect()
    }
}
