//! A private containerd: its configuration, its images, its start.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::super::DEADLINE;
use super::grpc::Grpc;
use super::message::Message;
use super::{PAUSE, may_lower_oom_scores, serves_pauseless_fully, systemd, version};

/// An archive of that image, which is made once for all tests of a program; its making needs a place.
pub fn image(place: &Path, name: &str, command: &str) -> Vec<u8> {
    static MADE: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let make = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/busybox-image");
        // Of this form of archive containerd takes the name as it is.
        testkit::run(Command::new(script).arg("--docker").arg(place).args([name, command]));
        fs::read(place).unwrap()
    };
    made.entry(name.to_owned()).or_insert_with(make).clone()
}

pub fn configuration(dir: &Path, sandboxer: &str) -> String {
    let (dir, systemd, restrict) = (dir.display(), systemd(), !may_lower_oom_scores());
    let (shim, pea) = (testkit::bin_dir().join("containerd-shim-pea-v2"), testkit::bin_dir().join("pea"));
    let (shim, pea) = (shim.display(), pea.display());
    let options = match sandboxer {
        "shim" if !serves_pauseless_fully(&version()) => String::new(),
        _ => format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.pea.options]\nConfigPath = \"{dir}/runtime.toml\""
        ),
    };
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/c.sock"
[ttrpc]
address = "{dir}/c.sock.ttrpc"
# From 1.7 on; its default is a socket of the machine's, over which two of them at once fail to start.
[plugins."io.containerd.nri.v1.nri"]
socket_path = "{dir}/nri.sock"
plugin_path = "{dir}/nri/plugins"
plugin_config_path = "{dir}/nri/conf.d"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = {restrict}
disable_apparmor = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/cni-bin"
conf_dir = "{dir}/cni-conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "pea"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pea]
runtime_type = "io.containerd.pea.v2"
sandboxer = "{sandboxer}"
{options}
# Without options, which containerd 2.1 does not hand on to a pod with users of its own.
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.plain]
runtime_type = "io.containerd.pea.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pauseless]
runtime_type = "io.containerd.pea.v2"
sandboxer = "shim"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = {systemd}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
BinaryName = "crun"
SystemdCgroup = {systemd}
# The shim under the type whose features containerd asks for.
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.by-path]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.by-path.options]
SystemdCgroup = {systemd}
Root = "{dir}/pea"
# pea under containerd's own shim.
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.below]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.below.options]
BinaryName = "{pea}"
SystemdCgroup = {systemd}
Root = "{dir}/pea"
"#
    )
}

pub fn start(dir: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("containerd.log")).unwrap();
    let path =
        format!("{0}/shims:{1}:{2}", dir.display(), testkit::bin_dir().display(), std::env::var("PATH").unwrap());
    Command::new("containerd")
        .args(["--log-level", "debug", "-c"])
        .arg(dir.join("config.toml"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("containerd (Debian package containerd)")
}

/// Connects as soon as the daemon serves CRI and has found its network.
pub async fn connect(dir: &Path) -> Grpc {
    let end = std::time::Instant::now() + DEADLINE;
    loop {
        if let Ok(cri) = Grpc::connect(&dir.join("c.sock")).await
            && let Ok(status) = cri.call("runtime.v1.RuntimeService/Status", &Message::new()).await
            && !String::from_utf8_lossy(&status.0).contains("NotReady")
        {
            return cri;
        }
        assert!(std::time::Instant::now() < end, "containerd does not serve CRI:\n{}", log_of(dir));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn log_of(dir: &Path) -> String {
    let log = fs::read_to_string(dir.join("containerd.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("loading plugin")).collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
