//! The types that travel inside `Any`: runtime options, an exec's process, limits, a process's details.

mod checkpoint;
mod runtime;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use oci_spec::runtime::{LinuxResources, Process};

use crate::error::Error;

pub use checkpoint::{checkpoint_options, checkpoint_that_exits, restore_options};
pub use runtime::{TaskOptions, naming_criu};

/// The type containerd gives an exec's process; its value is JSON.
pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The type containerd gives limits; its value is JSON.
pub const RESOURCES_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

const PROCESS_DETAILS_TYPE_URL: &str = "containerd.runc.v1.ProcessDetails";

/// Reads the process of an `Exec` request.
pub fn process_of_any(any: Option<&Any>) -> Result<Process, Error> {
    let any = any.ok_or_else(|| Error::invalid("an exec needs a process".to_owned()))?;
    serde_json::from_slice(&any.value).map_err(|source| Error::invalid(format!("the exec's process: {source}")))
}

/// Reads the limits of an `Update` request.
pub fn resources_of_any(any: Option<&Any>) -> Result<LinuxResources, Error> {
    let any = any.ok_or_else(|| Error::invalid("an update needs resources".to_owned()))?;
    serde_json::from_slice(&any.value).map_err(|source| Error::invalid(format!("the update's resources: {source}")))
}

/// What `Pids` says of a process that an exec started.
pub fn process_details(exec_id: &str) -> Option<Any> {
    let details = oci::ProcessDetails { exec_id: exec_id.to_owned(), ..Default::default() };
    let value = details.write_to_bytes().ok()?;
    Some(Any { type_url: PROCESS_DETAILS_TYPE_URL.to_owned(), value, ..Default::default() })
}

/// The exec that started a process, from what `Pids` says of it.
pub fn exec_of_details(any: &Any) -> Option<String> {
    let details = oci::ProcessDetails::parse_from_bytes(&any.value).ok()?;
    (!details.exec_id.is_empty()).then_some(details.exec_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_no_exec_started_has_no_execs_name() {
        assert_eq!(exec_of_details(&process_details("e").unwrap()).as_deref(), Some("e"));
        assert_eq!(exec_of_details(&process_details("").unwrap()), None);
    }
}
