//! The types that travel inside `Any`: runtime options, an exec's process, limits, a process's details.

mod runtime;

use std::path::Path;

use containerd_shim_protos::api::CheckpointTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use oci_spec::runtime::{LinuxResources, Process};

use crate::error::Error;

pub use runtime::TaskOptions;

/// The type containerd gives an exec's process; its value is JSON.
pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The type containerd gives limits; its value is JSON.
pub const RESOURCES_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

const PROCESS_DETAILS_TYPE_URL: &str = "containerd.runc.v1.ProcessDetails";
const CHECKPOINT: &str = "containerd.runc.v1.CheckpointOptions";

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

/// What a `Checkpoint` request asks for, of that CRIU.
pub fn checkpoint_options(
    request: &CheckpointTaskRequest,
    criu: Option<&Path>,
) -> Result<pea::CheckpointOptions, Error> {
    let mut asked = oci::CheckpointOptions::default();
    if let Some(any) = request.options.as_ref().filter(|any| !any.type_url.is_empty()) {
        if any.type_url.rsplit('/').next() != Some(CHECKPOINT) {
            return Err(Error::invalid(format!("checkpoint options of type {:?} are not known", any.type_url)));
        }
        let wrong = |source| Error::invalid(format!("{CHECKPOINT}: {source}"));
        asked = oci::CheckpointOptions::parse_from_bytes(&any.value).map_err(wrong)?;
    }
    let images = if request.path.is_empty() { &asked.image_path } else { &request.path };
    if images.is_empty() {
        return Err(Error::invalid("a checkpoint needs a directory for its images"));
    }
    let mut options = pea::CriuOptions::new(images);
    if let Some(criu) = criu {
        options.program = criu.to_owned();
    }
    options.work = (!asked.work_path.is_empty()).then(|| asked.work_path.into());
    options.tcp_established = asked.open_tcp;
    options.ext_unix_sk = asked.external_unix_sockets;
    options.shell_job = asked.terminal;
    options.file_locks = asked.file_locks;
    options.manage_cgroups = (!asked.cgroups_mode.is_empty()).then_some(asked.cgroups_mode);
    options.empty_namespace = asked.empty_namespaces.into_iter().next();
    Ok(pea::CheckpointOptions {
        criu: options,
        parent: None,
        leave_running: !asked.exit,
        pre_dump: false,
        tcp_skip_in_flight: false,
        page_server: None,
        status_fd: None,
    })
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

    fn asked(options: &oci::CheckpointOptions, path: &str) -> Result<pea::CheckpointOptions, Error> {
        let value = options.write_to_bytes().unwrap();
        let any = Any { type_url: format!("types.containerd.io/{CHECKPOINT}"), value, ..Default::default() };
        let request = CheckpointTaskRequest { path: path.into(), options: Some(any).into(), ..Default::default() };
        checkpoint_options(&request, None)
    }

    #[test]
    fn each_wish_about_a_checkpoint_is_handed_on() {
        let default = oci::CheckpointOptions::default;
        let plain = asked(&default(), "/images").unwrap();
        assert!(plain.leave_running && !plain.criu.tcp_established && !plain.criu.ext_unix_sk);
        assert!(!plain.criu.shell_job && !plain.criu.file_locks && plain.criu.work.is_none());
        assert_eq!(plain.criu.images, Path::new("/images"));
        assert!(!asked(&oci::CheckpointOptions { exit: true, ..default() }, "/i").unwrap().leave_running);
        let wish = |options: oci::CheckpointOptions| asked(&options, "/i").unwrap().criu;
        assert!(wish(oci::CheckpointOptions { open_tcp: true, ..default() }).tcp_established);
        assert!(wish(oci::CheckpointOptions { external_unix_sockets: true, ..default() }).ext_unix_sk);
        assert!(wish(oci::CheckpointOptions { terminal: true, ..default() }).shell_job);
        assert!(wish(oci::CheckpointOptions { file_locks: true, ..default() }).file_locks);
        let work = wish(oci::CheckpointOptions { work_path: "/w".into(), ..default() });
        assert_eq!(work.work.as_deref(), Some(Path::new("/w")));
        let mode = wish(oci::CheckpointOptions { cgroups_mode: "soft".into(), ..default() });
        assert_eq!(mode.manage_cgroups.as_deref(), Some("soft"));
    }

    #[test]
    fn the_images_of_a_checkpoint_are_where_the_request_says_or_else_the_options() {
        let options = oci::CheckpointOptions { image_path: "/options".into(), ..Default::default() };
        assert_eq!(asked(&options, "/request").unwrap().criu.images, Path::new("/request"));
        assert_eq!(asked(&options, "").unwrap().criu.images, Path::new("/options"));
        assert!(asked(&oci::CheckpointOptions::default(), "").is_err());
        let request = CheckpointTaskRequest { path: "/i".into(), ..Default::default() };
        assert_eq!(
            checkpoint_options(&request, Some("/my/criu".as_ref())).unwrap().criu.program,
            Path::new("/my/criu")
        );
        let other = Any { type_url: "example.Options".into(), ..Default::default() };
        let request = CheckpointTaskRequest { options: Some(other).into(), ..request };
        assert!(checkpoint_options(&request, None).is_err_and(|error| error.to_string().contains("example.Options")));
    }

    #[test]
    fn a_process_that_no_exec_started_has_no_execs_name() {
        assert_eq!(exec_of_details(&process_details("e").unwrap()).as_deref(), Some("e"));
        assert_eq!(exec_of_details(&process_details("").unwrap()), None);
    }
}
