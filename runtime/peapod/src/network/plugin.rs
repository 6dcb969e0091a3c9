//! Running one CNI plugin: environment, standard input, answer, deadline.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use cni_bridge::spec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::NetworkError;

/// How long a plugin may take. kubelet gives a whole sandbox four minutes; one plugin that needs a quarter of that
/// hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// One run of one plugin.
pub struct Run<'a> {
    /// The network's name, for messages.
    pub network: &'a str,
    /// The plugin's type.
    pub plugin: &'a str,
    /// `ADD` or `DEL`.
    pub verb: &'static str,
    /// The CNI_ variables besides CNI_COMMAND and CNI_PATH.
    pub env: Vec<(&'static str, OsString)>,
    /// The execution configuration.
    pub stdin: Vec<u8>,
}

impl Run<'_> {
    /// Runs the plugin from the first of `dirs` that has it; what it printed, when it succeeded.
    ///
    /// The child inherits the pod's lock: killing us does not let anybody else at the pod while it works.
    pub async fn run(&self, dirs: &[PathBuf]) -> Result<Vec<u8>, NetworkError> {
        let program = find(self.network, self.plugin, dirs)?;
        let failed = |source| NetworkError::Run {
            network: self.network.to_owned(),
            plugin: self.plugin.to_owned(),
            verb: self.verb,
            program: program.clone(),
            source,
        };
        let path: OsString = dirs.iter().map(|dir| dir.as_os_str()).collect::<Vec<_>>().join(":".as_ref());
        let mut child = Command::new(&program)
            .env("CNI_COMMAND", self.verb)
            .env("CNI_PATH", path)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let talk = self.converse(&mut child);
        match tokio::time::timeout(DEADLINE, talk).await {
            Ok(output) => self.judge(output.map_err(failed)?),
            Err(_) => {
                // Killed and reaped: nobody may change the pod behind our back later on.
                child.kill().await.map_err(failed)?;
                Err(NetworkError::Deadline {
                    network: self.network.to_owned(),
                    plugin: self.plugin.to_owned(),
                    verb: self.verb,
                    seconds: DEADLINE.as_secs(),
                })
            }
        }
    }

    /// Writes and reads at once: a plugin may answer before it has read everything.
    async fn converse(&self, child: &mut tokio::process::Child) -> std::io::Result<Output> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A plugin that has ended already says why in its answer, not in this broken pipe.
                let _ = stdin.write_all(&self.stdin).await;
            }
        };
        let (_, stdout, stderr) = tokio::join!(write, read_all(stdout), read_all(stderr));
        Ok(Output { status: child.wait().await?, stdout: stdout?, stderr: stderr? })
    }

    fn judge(&self, output: Output) -> Result<Vec<u8>, NetworkError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(NetworkError::Plugin {
            network: self.network.to_owned(),
            plugin: self.plugin.to_owned(),
            verb: self.verb,
            reason: reason(&output),
        })
    }
}

/// The program of a plugin: the first of that name in `dirs` that can be executed.
pub fn find(network: &str, plugin: &str, dirs: &[PathBuf]) -> Result<PathBuf, NetworkError> {
    let runs = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    dirs.iter().map(|dir| dir.join(plugin)).find(runs).ok_or_else(|| NetworkError::NoPlugin {
        network: network.to_owned(),
        plugin: plugin.to_owned(),
        searched: dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

async fn read_all<R: AsyncReadExt + Unpin>(pipe: Option<R>) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut text).await?;
    }
    Ok(text)
}

/// The `msg` and `details` of the error object a plugin prints on standard output; without one, what it printed.
fn reason(output: &Output) -> String {
    if let Ok(answer) = serde_json::from_slice::<spec::Error>(&output.stdout)
        && !answer.msg.is_empty()
    {
        return answer.to_string();
    }
    let said = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text).trim().to_owned());
    format!("{}, {}", output.status, said.iter().find(|text| !text.is_empty()).map_or("silently", |text| text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn failed(stdout: &str, stderr: &str) -> Output {
        Output { status: std::process::ExitStatus::from_raw(256), stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn the_reason_is_the_plugins_own_message_when_it_gave_one() {
        assert_eq!(
            reason(&failed(r#"{"code":11,"msg":"no address","details":"range full"}"#, "log")),
            "no address; range full"
        );
        assert_eq!(reason(&failed(r#"{"code":11,"msg":"no address"}"#, "")), "no address");
        assert_eq!(reason(&failed("", "boom\n")), "exit status: 1, boom");
        assert_eq!(reason(&failed("", "")), "exit status: 1, silently");
    }
}
