//! `update`: other limits for a container that lives.

use oci_spec::runtime::LinuxResources;
use serde_json::Value as Json;

use crate::cgroup;
use crate::error::{Error, ErrorKind};
use crate::rdt;
use crate::state::Status;
use crate::store::Container;
use crate::verb::query;

/// Sets the limits given; what is not given stays, device rules always. The container's own copy of its specification
/// is changed with them, so that the next update builds on this one.
pub fn update(container: &Container, given: &LinuxResources) -> Result<(), Error> {
    let lock = container.lock()?;
    let record = container.record()?;
    if matches!(query::status(container, &record), Status::Creating | Status::Stopped) {
        return Err(Error::not_running(container.id()));
    }
    let spec = container.spec()?;
    let saved = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    cgroup::update(&record.cgroup, record.unit.as_ref(), &saved, given, cgroup::zero_is_a_limit(&spec))?;
    let mut given =
        serde_json::to_value(given).map_err(|error| Error::internal(format!("encode resources: {error}")))?;
    if let Some(memory) = given.get_mut("memory").and_then(Json::as_object_mut)
        && memory.get("limit").and_then(Json::as_i64) == Some(-1)
    {
        // With the one limit that of swap was lifted too.
        memory.entry("swap").or_insert(Json::from(0));
    }
    container.change_spec(&lock, |spec| {
        let resources = spec.pointer_mut("/linux").and_then(Json::as_object_mut);
        if let Some(linux) = resources {
            let saved = linux.entry("resources").or_insert_with(|| Json::Object(Default::default()));
            cgroup::merge(saved, &given);
        }
    })
}

/// Sets other shares of the cache (`L3:...`) and of memory bandwidth (`MB:...`), for a container that has some.
pub fn update_rdt(container: &Container, cache: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
    let lock = container.lock()?;
    let record = container.record()?;
    if matches!(query::status(container, &record), Status::Creating | Status::Stopped) {
        return Err(Error::not_running(container.id()));
    }
    let mut spec = container.spec()?;
    let Some(rdt) = spec.linux_mut().as_mut().and_then(|linux| linux.intel_rdt_mut().as_mut()) else {
        let text = "the container's specification has no linux.intelRdt to update";
        return Err(Error::new(ErrorKind::InvalidState, text));
    };
    let keys = [("l3CacheSchema", cache), ("memBwSchema", bandwidth)];
    if let Some(schema) = cache {
        rdt.set_l3_cache_schema(Some(schema.to_owned()));
    }
    if let Some(schema) = bandwidth {
        rdt.set_mem_bw_schema(Some(schema.to_owned()));
    }
    rdt::Plan::new(&spec, container.id())?.map_or(Ok(()), |plan| plan.write_schemata())?;
    container.change_spec(&lock, |spec| {
        for (key, schema) in keys {
            if let (Some(rdt), Some(schema)) = (spec.pointer_mut("/linux/intelRdt"), schema) {
                rdt[key] = Json::from(schema);
            }
        }
    })
}

/// Reads resources as `update` is given them.
pub fn parse(text: &[u8], whence: &str) -> Result<LinuxResources, Error> {
    let wrong = |why: String| Error::new(ErrorKind::InvalidArgument, format!("resources of {whence}: {why}"));
    let mut json: Json = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    cgroup::without_empty_pids(&mut json);
    crate::spec::retype(&json).map_err(wrong)
}
