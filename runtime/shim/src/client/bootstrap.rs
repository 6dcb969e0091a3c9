//! Starting a shim, and clearing up after one: the two actions of its binary.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;

use super::error::Error;
use super::types::Exit;

/// The `start` action.
pub struct Bootstrap;

impl Bootstrap {
    /// Starts the shim of `bundle` and returns the address to [connect](super::Shim::connect) to.
    ///
    /// The shim listens on a socket in `socket_dir`, a directory that exists; its path plus 22
    /// bytes must fit the 107 of a Unix socket's address. Asking again while the shim lives
    /// returns the same address.
    ///
    /// Blocks for the few milliseconds the binary takes. What the caller left inheritable (a lock,
    /// say) the binary holds until it returns; the shim itself does not keep it.
    pub fn start(
        shim_binary: &Path,
        bundle: &Path,
        namespace: &str,
        id: &str,
        socket_dir: &Path,
    ) -> Result<String, Error> {
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: namespace.to_owned(),
            socket_dir: Some(socket_dir.display().to_string()),
            ..Default::default()
        };
        let input = params.write_to_bytes().map_err(|source| failed(shim_binary, "start", source))?;
        let mut command = action(shim_binary, bundle, namespace, id);
        let output = run(command.arg("start"), shim_binary, "start", &input)?;
        let result = BootstrapResult::parse_from_bytes(&output)
            .map_err(|source| failed(shim_binary, "start", format!("its answer cannot be read: {source}")))?;
        Ok(result.address)
    }
}

/// Runs the `delete` action: ends and removes all that is left of `bundle`, the shim included
/// when `bundle` is a sandbox's. Succeeds when nothing is left, and as often as it is asked.
///
/// Returns how the task of that bundle ended, as far as it is known (137 otherwise).
pub fn delete(shim_binary: &Path, bundle: &Path, namespace: &str, id: &str) -> Result<Exit, Error> {
    let mut command = action(shim_binary, bundle, namespace, id);
    command.arg("-bundle").arg(bundle).arg("delete");
    let output = run(&mut command, shim_binary, "delete", &[])?;
    let response = DeleteResponse::parse_from_bytes(&output)
        .map_err(|source| failed(shim_binary, "delete", format!("its answer cannot be read: {source}")))?;
    Ok(Exit::new(response.pid, response.exit_status, response.exited_at.as_ref()))
}

/// The part of the command line that both actions share. `address` is empty: there is no containerd.
fn action(shim_binary: &Path, bundle: &Path, namespace: &str, id: &str) -> Command {
    let mut command = Command::new(shim_binary);
    command.args(["-namespace", namespace, "-address", "", "-id", id]);
    if bundle.is_dir() {
        command.current_dir(bundle);
    }
    // A shim started from within containerd's reach must not take this pod's events there.
    command.env_remove("TTRPC_ADDRESS").env_remove("GRPC_ADDRESS");
    command
}

fn run(command: &mut Command, shim: &Path, action: &'static str, input: &[u8]) -> Result<Vec<u8>, Error> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| failed(shim, action, source))?;
    let output = converse(&mut child, input);
    let status = child.wait().map_err(|source| failed(shim, action, source))?;
    match output {
        Ok((output, _)) if status.success() => Ok(output),
        Ok((_, complaint)) if !complaint.trim().is_empty() => Err(failed(shim, action, complaint.trim())),
        Ok(_) => Err(failed(shim, action, format!("ended with {status}"))),
        Err(source) => Err(failed(shim, action, source)),
    }
}

/// Hands the input over and reads both outputs. The binary prints its answer in one small piece, so
/// reading one pipe after the other cannot block it.
fn converse(child: &mut Child, input: &[u8]) -> std::io::Result<(Vec<u8>, String)> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // It has ended without looking at its input, and says below why.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let (mut output, mut complaint) = (Vec::new(), String::new());
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_end(&mut output)?;
    }
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_string(&mut complaint)?;
    }
    Ok((output, complaint))
}

fn failed(shim: &Path, action: &'static str, reason: impl ToString) -> Error {
    Error::Binary { shim: shim.display().to_string(), action, reason: reason.to_string() }
}
