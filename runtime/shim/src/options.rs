//! The types that travel inside `Any`: runtime options, an exec's process, a process's details.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use oci_spec::runtime::Process;

use crate::error::Error;

/// The type containerd gives an exec's process; its value is JSON.
pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

const PROCESS_DETAILS_TYPE_URL: &str = "containerd.runc.v1.ProcessDetails";
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

/// The runtime options that this shim serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskOptions {
    /// The state root to use instead of the default one.
    pub root: Option<PathBuf>,
    /// Let systemd make the control groups.
    pub systemd_cgroup: bool,
    /// See [`pea::CreateOptions::no_pivot`].
    pub no_pivot: bool,
    /// See [`pea::CreateOptions::no_new_keyring`].
    pub no_new_keyring: bool,
    /// Who owns the pipes of the container's standard streams.
    pub io_owner: (u32, u32),
}

impl TaskOptions {
    /// Reads the options of a `Create` request.
    ///
    /// # Errors
    /// `InvalidArgument` for a type this shim does not know: an option ignored is worse than a container refused.
    pub fn from_any(any: Option<&Any>) -> Result<Self, Error> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        // containerd writes the bare name, gRPC tools a URL that ends in it.
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if name != RUNC_OPTIONS {
            return Err(Error::invalid(format!("runtime options of type {name:?} are not known; use {RUNC_OPTIONS}")));
        }
        let options = oci::Options::parse_from_bytes(&any.value)
            .map_err(|source| Error::invalid(format!("runtime options {RUNC_OPTIONS}: {source}")))?;
        Self::from_runc(options)
    }

    fn from_runc(options: oci::Options) -> Result<Self, Error> {
        if !options.binary_name.is_empty() {
            let name = &options.binary_name;
            return Err(Error::invalid(format!(
                "runtime option BinaryName = {name:?}: this shim is its own runtime; for another one use io.containerd.runc.v2"
            )));
        }
        Ok(Self {
            root: (!options.root.is_empty()).then(|| options.root.into()),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            io_owner: (options.io_uid, options.io_gid),
        })
    }
}

/// Reads the process of an `Exec` request.
pub fn process_of_any(any: Option<&Any>) -> Result<Process, Error> {
    let any = any.ok_or_else(|| Error::invalid("an exec needs a process".to_owned()))?;
    serde_json::from_slice(&any.value).map_err(|source| Error::invalid(format!("the exec's process: {source}")))
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

    fn any(type_url: &str, options: &oci::Options) -> Any {
        Any { type_url: type_url.to_owned(), value: options.write_to_bytes().unwrap(), ..Default::default() }
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(TaskOptions::from_any(None).unwrap(), TaskOptions::default());
        assert_eq!(TaskOptions::from_any(Some(&Any::default())).unwrap(), TaskOptions::default());
    }

    #[test]
    fn options_of_runc_are_understood_under_both_spellings_of_their_type() {
        let runc = oci::Options { root: "/run/x".into(), io_uid: 7, systemd_cgroup: true, ..Default::default() };
        for url in [RUNC_OPTIONS, "types.containerd.io/containerd.runc.v1.Options"] {
            let options = TaskOptions::from_any(Some(&any(url, &runc))).unwrap();
            assert_eq!(options.root.as_deref(), Some("/run/x".as_ref()));
            assert!(options.systemd_cgroup);
            assert_eq!(options.io_owner, (7, 0));
        }
    }

    #[test]
    fn another_runtime_and_unknown_options_are_refused_by_name() {
        let other = oci::Options { binary_name: "crun".into(), ..Default::default() };
        assert!(TaskOptions::from_any(Some(&any(RUNC_OPTIONS, &other))).unwrap_err().to_string().contains("crun"));
        let unknown = Any { type_url: "example.Options".into(), ..Default::default() };
        assert!(TaskOptions::from_any(Some(&unknown)).unwrap_err().to_string().contains("example.Options"));
    }
}
