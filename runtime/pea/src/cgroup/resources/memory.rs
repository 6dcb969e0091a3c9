//! `linux.resources.memory`

use std::path::Path;

use oci_spec::runtime::LinuxMemory;

use super::Target;
use crate::cgroup::value::{Value, unsupported};
use crate::error::Error;
use crate::stats::CgroupVersion;

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const RESERVATION: &str = "linux.resources.memory.reservation";
const KERNEL: &str = "linux.resources.memory.kernel";
const KERNEL_TCP: &str = "linux.resources.memory.kernelTCP";
const SWAPPINESS: &str = "linux.resources.memory.swappiness";
const DISABLE_OOM_KILLER: &str = "linux.resources.memory.disableOOMKiller";
const USE_HIERARCHY: &str = "linux.resources.memory.useHierarchy";

/// No limit.
const UNLIMITED: i64 = -1;

pub fn values(memory: &LinuxMemory, target: Target<'_>) -> Result<Vec<Value>, Error> {
    let Some(key) = first_key(memory) else { return Ok(Vec::new()) };
    let home = target.home("memory", key)?;
    match home.version {
        CgroupVersion::V1 => v1(memory, &home.dir),
        CgroupVersion::V2 => v2(memory, &home.dir),
    }
}

fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// -1, which callers write as an unsigned number too, is "as the group above".
fn swappiness(memory: &LinuxMemory) -> Option<u64> {
    memory.swappiness().filter(|swappiness| *swappiness != u64::MAX)
}

/// The first key that says something.
fn first_key(memory: &LinuxMemory) -> Option<&'static str> {
    let said = [
        (given(memory.limit()).is_some(), LIMIT),
        (memory.swap().is_some_and(|swap| swap != 0 || no_swap(memory)), SWAP),
        (given(memory.reservation()).is_some(), RESERVATION),
        (given(memory.kernel()).is_some(), KERNEL),
        (given(memory.kernel_tcp()).is_some(), KERNEL_TCP),
        (swappiness(memory).is_some(), SWAPPINESS),
        (memory.disable_oom_killer() == Some(true), DISABLE_OOM_KILLER),
        (memory.use_hierarchy() == Some(true), USE_HIERARCHY),
    ];
    said.into_iter().find_map(|(said, key)| said.then_some(key))
}

fn v1(memory: &LinuxMemory, dir: &Path) -> Result<Vec<Value>, Error> {
    if swappiness(memory).is_some_and(|swappiness| swappiness > 100) {
        return Err(Error::spec(format!("{SWAPPINESS}: {} is not between 0 and 100", swappiness(memory).unwrap_or(0))));
    }
    let (limit, swap) = (given(memory.limit()), given(memory.swap()));
    const SWAP_FILE: &str = "memory.memsw.limit_in_bytes";
    let swap = match (limit, swap) {
        // Without a limit of memory one of both together would be left, by an earlier update.
        (Some(UNLIMITED), None) => Some(Value::new(SWAP, dir, SWAP_FILE, UNLIMITED).if_there()),
        (_, Some(UNLIMITED)) => Some(Value::new(SWAP, dir, SWAP_FILE, UNLIMITED).if_there()),
        (_, swap) => swap.map(|swap| Value::new(SWAP, dir, SWAP_FILE, swap)),
    };
    let value = |key, file, number: Option<i64>| number.map(|number| Value::new(key, dir, file, number));
    let yes = |key, file, given: Option<bool>| given.filter(|yes| *yes).map(|_| Value::new(key, dir, file, 1));
    // The kernel's own memory cannot be limited any more since Linux 5.16, nor is it counted with the hierarchy left
    // out since 5.11: what is left of these files cannot be relied on.
    Ok([
        yes(USE_HIERARCHY, "memory.use_hierarchy", memory.use_hierarchy()).map(Value::if_possible),
        value(KERNEL, "memory.kmem.limit_in_bytes", given(memory.kernel())).map(Value::if_possible),
        value(KERNEL_TCP, "memory.kmem.tcp.limit_in_bytes", given(memory.kernel_tcp())).map(Value::if_possible),
        value(LIMIT, "memory.limit_in_bytes", limit),
        swap,
        value(RESERVATION, "memory.soft_limit_in_bytes", given(memory.reservation())),
        yes(DISABLE_OOM_KILLER, "memory.oom_control", memory.disable_oom_killer()),
        swappiness(memory).map(|number| Value::new(SWAPPINESS, dir, "memory.swappiness", number)),
    ]
    .into_iter()
    .flatten()
    .collect())
}

fn v2(memory: &LinuxMemory, dir: &Path) -> Result<Vec<Value>, Error> {
    if swappiness(memory).is_some() {
        return Err(unsupported(SWAPPINESS, "cgroup v2 does not have it by group"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported(DISABLE_OOM_KILLER, "cgroup v2 cannot do without"));
    }
    let value = |key, file, number: Option<i64>| number.map(|number| Value::new(key, dir, file, limit(number)));
    Ok([
        swap_alone(memory)?.map(|swap| {
            let value = Value::new(SWAP, dir, "memory.swap.max", limit(swap));
            // Where swap is not counted there is none to limit; unless some was to be allowed.
            if swap <= 0 { value.if_there() } else { value }
        }),
        value(LIMIT, "memory.max", given(memory.limit())),
        value(RESERVATION, "memory.low", given(memory.reservation())),
    ]
    .into_iter()
    .flatten()
    .collect())
}

fn limit(number: i64) -> String {
    if number == UNLIMITED { "max".to_owned() } else { number.to_string() }
}

/// Zero together with a limit is "not set"; with nothing else it can only mean none.
fn no_swap(memory: &LinuxMemory) -> bool {
    memory.swap() == Some(0) && given(memory.limit()).is_none()
}

/// The specification counts swap together with memory; cgroup v2 counts it alone.
fn swap_alone(memory: &LinuxMemory) -> Result<Option<i64>, Error> {
    let wrong = |text: String| Err(Error::spec(format!("{SWAP}: {text}")));
    match (given(memory.limit()), given(memory.swap())) {
        (Some(UNLIMITED), None) | (_, Some(UNLIMITED)) => Ok(Some(UNLIMITED)),
        (_, None) => Ok(no_swap(memory).then_some(0)),
        (Some(UNLIMITED), swap) => Ok(swap),
        (None, Some(_)) => wrong("is of memory and swap together, so memory.limit is needed too".to_owned()),
        (Some(limit), Some(swap)) if swap < limit => {
            wrong(format!("{swap}, of memory and swap together, is less than memory.limit, {limit}"))
        }
        (Some(limit), Some(swap)) => Ok(Some(swap - limit)),
    }
}

/// Refuses, when the caller wants that, a limit below what is in use, which would have the kernel end a process of the
/// container. (A v1 controller refuses by itself.)
pub fn check_before_update(memory: &LinuxMemory, target: Target<'_>) -> Result<(), Error> {
    let limit = given(memory.limit()).and_then(|limit| u64::try_from(limit).ok());
    let (Some(limit), Some(true)) = (limit, memory.check_before_update()) else { return Ok(()) };
    let home = target.home("memory", LIMIT)?;
    if home.version == CgroupVersion::V1 {
        return Ok(());
    }
    let usage = std::fs::read_to_string(home.dir.join("memory.current")).unwrap_or_default();
    match usage.trim().parse::<u64>() {
        Ok(usage) if usage > limit => Err(Error::spec(format!(
            "{LIMIT}: {limit} is less than the {usage} bytes in use (memory.checkBeforeUpdate)"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{plan, v1, v2};

    #[test]
    fn each_key_has_its_file() {
        let memory = json!({"memory": {"limit": 4096, "swap": 8192, "reservation": 2048, "kernelTCP": 1024,
            "swappiness": 10, "disableOOMKiller": true, "useHierarchy": true}});
        assert_eq!(
            plan(&v1(), memory.clone()).expect("a plan"),
            [
                "memory/memory.use_hierarchy=1",
                "memory/memory.kmem.tcp.limit_in_bytes=1024",
                "memory/memory.limit_in_bytes=4096",
                "memory/memory.memsw.limit_in_bytes=8192",
                "memory/memory.soft_limit_in_bytes=2048",
                "memory/memory.oom_control=1",
                "memory/memory.swappiness=10",
            ]
        );
        let error = plan(&v2(), memory).expect_err("no swappiness");
        assert!(error.starts_with("linux.resources.memory.swappiness: "), "{error}");
        assert_eq!(
            plan(&v2(), json!({"memory": {"limit": 4096, "swap": 8192, "reservation": -1}})).expect("a plan"),
            ["memory.swap.max=4096", "memory.max=4096", "memory.low=max"]
        );
    }

    #[test]
    fn swap_is_counted_alone_in_v2() {
        let swap = |memory| plan(&v2(), json!({"memory": memory}));
        assert_eq!(swap(json!({"limit": 4096, "swap": 4096})).expect("none")[0], "memory.swap.max=0");
        assert_eq!(swap(json!({"limit": 4096, "swap": -1})).expect("any")[0], "memory.swap.max=max");
        assert_eq!(swap(json!({"limit": -1})).expect("any"), ["memory.swap.max=max", "memory.max=max"]);
        assert_eq!(swap(json!({"limit": 4096, "swap": 0})).expect("not set"), ["memory.max=4096"]);
        assert_eq!(swap(json!({"swap": 0})).expect("none"), ["memory.swap.max=0"]);
        assert_eq!(swap(json!({"limit": 0})).expect("not set"), Vec::<String>::new());
        for memory in [json!({"swap": 4096}), json!({"limit": 4096, "swap": 1024})] {
            let error = swap(memory).expect_err("not to be counted");
            assert!(error.starts_with("linux.resources.memory.swap: "), "{error}");
        }
    }

    #[test]
    fn a_limit_that_is_lifted_lifts_that_of_swap_in_v1() {
        assert_eq!(
            plan(&v1(), json!({"memory": {"limit": -1}})).expect("a plan"),
            ["memory/memory.limit_in_bytes=-1", "memory/memory.memsw.limit_in_bytes=-1"]
        );
    }

    #[test]
    fn swappiness_has_a_range() {
        let error = plan(&v1(), json!({"memory": {"swappiness": 101}})).expect_err("too much");
        assert!(error.contains("101 is not between 0 and 100"), "{error}");
        assert_eq!(plan(&v1(), json!({"memory": {"swappiness": u64::MAX}})), Ok(Vec::new()));
    }
}
