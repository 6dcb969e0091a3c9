//! Changing the limits of a container that lives.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use serde_json::Value as Json;

use super::create::{Controllers, make};
use super::hierarchy::Layout;
use super::resources::{self, Target};
use super::systemd::Unit;
use super::value::{Value, write_all};
use crate::error::{Error, ErrorKind};

/// Sets what is given, and what depends on it; `saved` are the resources as they were. When the kernel refuses a value,
/// those written before it are taken back as far as they are known.
pub fn update(
    path: &Path,
    unit: Option<&Unit>,
    saved: &LinuxResources,
    given: &LinuxResources,
    zero_is_a_limit: bool,
) -> Result<(), Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, "the container has no cgroup of its own"));
    }
    let layout = Layout::read()?;
    let target = Target { layout: &layout, path, zero_is_a_limit };
    let wanted = complete(saved, given);
    if let Some(memory) = wanted.memory() {
        resources::check_before_update(memory, target)?;
    }
    let values = resources::values(&wanted, target)?;
    if let Some(unified) = layout.unified() {
        let controllers = Controllers::new(&layout, &values, &unified.dir(path));
        // The first value of its controller, maybe. What is enabled already is left alone.
        if !controllers.needed.is_empty() && unit.is_none() {
            make(unified, path, &controllers)?;
        }
    }
    set(unit, &values).inspect_err(|_| {
        let before = resources::values(saved, target).unwrap_or_default();
        let _ = unit.map(|unit| unit.update(&before));
        for value in &before {
            let _ = write_all([value]);
        }
    })
}

/// The kernel is the first to judge them; systemd, told of them, writes them in its own rounding.
fn set(unit: Option<&Unit>, values: &[Value]) -> Result<(), Error> {
    write_all(values)?;
    let Some(unit) = unit else { return Ok(()) };
    unit.update(values)?;
    write_all(values)
}

/// Adds to what is given what has to be written with it: on v2 a quota and a period are one value, and the limit of
/// swap depends on that of memory.
fn complete(saved: &LinuxResources, given: &LinuxResources) -> LinuxResources {
    let mut wanted = given.clone();
    if let Some(cpu) = wanted.cpu_mut() {
        complete_cpu(cpu, saved.cpu().as_ref());
    }
    if let Some(memory) = wanted.memory_mut() {
        complete_memory(memory, saved.memory().as_ref());
    }
    wanted
}

fn complete_cpu(cpu: &mut LinuxCpu, saved: Option<&LinuxCpu>) {
    let said = |number: Option<i128>| number.is_some_and(|number| number != 0);
    let (quota, period) = (said(cpu.quota().map(Into::into)), said(cpu.period().map(Into::into)));
    if quota && !period {
        cpu.set_period(saved.and_then(LinuxCpu::period));
    }
    if period && !quota {
        cpu.set_quota(saved.and_then(LinuxCpu::quota));
    }
    // The kernel forgets them while the group is idle.
    if cpu.idle() == Some(0) && cpu.shares().is_none() {
        cpu.set_shares(saved.and_then(LinuxCpu::shares));
    }
}

fn complete_memory(memory: &mut LinuxMemory, saved: Option<&LinuxMemory>) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if limit.is_none() && memory.swap().is_some_and(|swap| swap != 0) {
        memory.set_limit(saved.and_then(LinuxMemory::limit));
    }
    // Without a limit of memory none is left of both together.
    if limit.is_some_and(|limit| limit > 0) && memory.swap().is_none() {
        memory.set_swap(saved.and_then(LinuxMemory::swap));
    }
}

/// Merges resources in their JSON form: later ones replace earlier ones, lists are merged by what their entries are
/// about (a device, a page size, an interface). Device rules stay as they are.
pub fn merge(saved: &mut Json, given: &Json) {
    match (saved, given) {
        (_, Json::Null) => {}
        (Json::Object(saved), Json::Object(given)) => {
            for (key, value) in given.iter().filter(|(key, _)| *key != "devices") {
                match saved.get_mut(key) {
                    Some(there) => merge(there, value),
                    None if value.is_null() => {}
                    None => drop(saved.insert(key.clone(), value.clone())),
                }
            }
        }
        (Json::Array(saved), Json::Array(given)) => {
            for entry in given {
                match saved.iter_mut().find(|there| subject(there) == subject(entry)) {
                    Some(there) => merge(there, entry),
                    None => saved.push(entry.clone()),
                }
            }
        }
        (saved, given) => *saved = given.clone(),
    }
}

/// What an entry of a list is about.
fn subject(entry: &Json) -> [Option<&Json>; 4] {
    ["major", "minor", "pageSize", "name"].map(|key| entry.get(key))
}

/// Takes away an empty `pids`, whose missing limit would be taken for zero.
pub fn without_empty_pids(resources: &mut Json) {
    let Some(resources) = resources.as_object_mut() else { return };
    if resources.get("pids").is_some_and(|pids| pids.get("limit").is_none_or(Json::is_null)) {
        resources.remove("pids");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completed(saved: Json, given: Json) -> Json {
        let parse = |json| serde_json::from_value(json).expect("resources");
        serde_json::to_value(complete(&parse(saved), &parse(given))).expect("JSON")
    }

    #[test]
    fn what_is_given_is_completed_by_what_was_there() {
        let saved =
            json!({"cpu": {"quota": 5000, "period": 10000, "shares": 7}, "memory": {"limit": 4096, "swap": 8192}});
        assert_eq!(
            completed(saved.clone(), json!({"cpu": {"quota": 6000}})),
            json!({"cpu": {"quota": 6000, "period": 10000}})
        );
        assert_eq!(
            completed(saved.clone(), json!({"cpu": {"idle": 0}, "memory": {"swap": 9000}})),
            json!({"cpu": {"idle": 0, "shares": 7}, "memory": {"limit": 4096, "swap": 9000}})
        );
        assert_eq!(
            completed(saved.clone(), json!({"memory": {"limit": 5000}})),
            json!({"memory": {"limit": 5000, "swap": 8192}})
        );
        assert_eq!(completed(saved, json!({"memory": {"limit": -1}})), json!({"memory": {"limit": -1}}));
    }

    #[test]
    fn later_resources_build_on_earlier_ones() {
        let mut saved = json!({"devices": [{"allow": true}], "cpu": {"shares": 5, "quota": 1},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}});
        merge(
            &mut saved,
            &json!({"devices": [], "cpu": {"quota": 2, "period": null}, "pids": {"limit": 3}, "memory": null,
                "blockIO": {"throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 2}, {"major": 8, "minor": 16, "rate": 3}]}}),
        );
        assert_eq!(
            saved,
            json!({"devices": [{"allow": true}], "cpu": {"shares": 5, "quota": 2}, "pids": {"limit": 3},
                "blockIO": {"throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 2}, {"major": 8, "minor": 16, "rate": 3}]}})
        );
    }

    #[test]
    fn pids_without_a_limit_say_nothing() {
        for (given, expected) in [
            (json!({"pids": {}}), json!({})),
            (json!({"pids": {"limit": null}}), json!({})),
            (json!({"pids": {"limit": 0}}), json!({"pids": {"limit": 0}})),
        ] {
            let mut resources = given;
            without_empty_pids(&mut resources);
            assert_eq!(resources, expected);
        }
    }
}
