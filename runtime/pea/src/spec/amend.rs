//! What a caller's environment adds to the specification (sd_notify(3), sd_listen_fds(3)).

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

/// Where the container finds the socket its readiness is told to.
const NOTIFY_DIR: &str = "/run/notify";

/// The name of that socket in its directory, inside and outside of the container.
pub const NOTIFY_SOCKET: &str = "notify.sock";

/// Adds variables to the process's environment; what was there comes first.
pub fn add_env(spec: &mut Spec, env: &[String]) {
    if let Some(process) = spec.process_mut()
        && !env.is_empty()
    {
        process.env_mut().get_or_insert_default().extend(env.iter().cloned());
    }
}

/// Lets the container tell of its readiness by a socket in `dir`, which it sees read-only: it shall use the socket that
/// is there, and not replace it.
pub fn add_notify_socket(spec: &mut Spec, dir: &Path) {
    let mut mount = Mount::default();
    mount.set_destination(NOTIFY_DIR.into());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(dir.to_owned()));
    mount.set_options(Some(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    add_env(spec, &[format!("NOTIFY_SOCKET={NOTIFY_DIR}/{NOTIFY_SOCKET}")]);
}
