//! A node as kubelet sees it: a private containerd with its CRI plugin, `cni-bridge` for the network, pods.

pub mod events;
pub mod grpc;
pub mod message;
pub mod security;
pub mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::DEADLINE;
use grpc::{Grpc, Status};
use message::{Message, Reply};

/// The states of containers in CRI.
pub const RUNNING: u64 = 1;
pub const EXITED: u64 = 2;

const IMAGE: &str = "localhost/busybox:latest";
const PAUSE: &str = "localhost/pause:latest";

pub struct Node {
    pub dir: tempfile::TempDir,
    pub cri: Grpc,
    daemon: Child,
}

/// A pod that runs.
pub struct Pod {
    pub id: String,
    pub config: Message,
}

impl Node {
    /// Starts one. The calling thread enters a network namespace of its own.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with something done in its directory before containerd is there.
    pub async fn start_with(prepare: impl FnOnce(&Path)) -> Self {
        Self::with(&sandboxer(), prepare).await
    }

    /// Starts one where `io.containerd.runc.v2` is our shim too: its options come in a type of their own.
    pub async fn in_runcs_place() -> Self {
        let ours = |dir: &Path| {
            let ours = testkit::binary("containerd-shim-pea-v2");
            std::os::unix::fs::symlink(ours, dir.join("shims/containerd-shim-runc-v2")).unwrap();
        };
        Self::with(&sandboxer(), ours).await
    }

    /// Starts one whose pods get the same network by the reference plugins, which lie in that directory.
    pub async fn with_reference_network(plugins: &Path) -> Self {
        let theirs = |dir: &Path| {
            for plugin in ["bridge", "host-local", "loopback"] {
                let _ = fs::remove_file(dir.join("cni-bin").join(plugin));
                std::os::unix::fs::symlink(plugins.join(plugin), dir.join("cni-bin").join(plugin)).unwrap();
            }
            let network = dir.join("cni-conf/10-pods.conflist");
            let text = fs::read_to_string(&network).unwrap();
            fs::write(&network, text.replace(r#""type":"cni-bridge""#, r#""type":"bridge""#)).unwrap();
        };
        Self::with(&sandboxer(), theirs).await
    }

    /// Starts one whose pods need no pause container; `None` where containerd is too old for that.
    pub async fn pauseless() -> Option<Self> {
        let version = version();
        if !serves_pauseless(&version) {
            testkit::skip(&format!(
                "pods without a pause container need containerd 2.1 (scripts/test --sid); this is {version}"
            ));
            return None;
        }
        Some(Self::with("shim", |_| {}).await)
    }

    async fn with(sandboxer: &str, prepare: impl FnOnce(&Path)) -> Self {
        testkit::enter_node();
        let dir = testkit::scratch();
        for name in ["cni-bin", "cni-conf", "logs", "shims"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        for plugin in ["cni-bridge", "loopback", "portmap"] {
            std::os::unix::fs::symlink(testkit::binary("cni-bridge"), dir.path().join("cni-bin").join(plugin)).unwrap();
        }
        let network = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{
            "type": "cni-bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": dir.path().join("leases")}}]});
        fs::write(dir.path().join("cni-conf/10-pods.conflist"), network.to_string()).unwrap();
        let options = format!("Root = \"{}/pea\"\nSystemdCgroup = {}\n", dir.path().display(), systemd());
        fs::write(dir.path().join("runtime.toml"), options).unwrap();
        fs::write(dir.path().join("config.toml"), configuration(dir.path(), sandboxer)).unwrap();
        prepare(dir.path());
        let daemon = daemon(dir.path());
        let cri = connect(dir.path()).await;
        let node = Self { dir, cri, daemon };
        for (name, command) in [(IMAGE, r#"["sh"]"#), (PAUSE, r#"["sleep","infinity"]"#)] {
            node.import(name, command).await;
        }
        node
    }

    async fn import(&self, name: &str, command: &str) {
        let archive = self.dir.path().join("image.tar");
        fs::write(&archive, image(&archive, name, command)).unwrap();
        testkit::run(self.ctr().args(["images", "import"]).arg(&archive));
        // The plugin hears of it by an event.
        let wanted = Message::new().message(1, Message::new().text(1, name));
        self.until("the image is known", async || {
            !self.image("ImageStatus", &wanted).await.unwrap().bytes(&[1]).is_empty()
        })
        .await;
    }

    pub fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.dir.path().join("c.sock")).args(["-n", "k8s.io"]);
        command
    }

    pub async fn call(&self, method: &str, message: &Message) -> Result<Reply, Status> {
        let call = format!("runtime.v1.RuntimeService/{method}");
        tokio::time::timeout(2 * DEADLINE, self.cri.call(&call, message)).await.expect(method)
    }

    async fn image(&self, method: &str, message: &Message) -> Result<Reply, Status> {
        self.cri.call(&format!("runtime.v1.ImageService/{method}"), message).await
    }

    /// A call that must succeed, about one thing.
    pub async fn of(&self, method: &str, id: &str) -> Reply {
        let done = self.call(method, &Message::new().text(1, id)).await;
        done.unwrap_or_else(|status| panic!("{method} {id}: {status:?}"))
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let end = std::time::Instant::now() + DEADLINE;
        while !condition().await {
            assert!(std::time::Instant::now() < end, "still not so after {DEADLINE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the daemon, whatever it is doing.
    pub fn kill(&self) {
        kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGKILL).unwrap();
    }

    /// Kills the daemon and starts it again on the same state.
    pub async fn restart(&mut self) {
        self.restart_after(async || {}).await;
    }

    /// The same, with something that happens while there is none.
    pub async fn restart_after(&mut self, meanwhile: impl AsyncFnOnce()) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        meanwhile().await;
        self.daemon = daemon(self.dir.path());
        self.cri = connect(self.dir.path()).await;
    }

    /// What a reboot of the machine is: no process lives on, and of files only those on disk are left.
    pub async fn reboot(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        let sockets = super::crowd::sockets();
        for shim in super::shims_below(self.dir.path()) {
            kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
        }
        let cgroup = PathBuf::from(self.cgroup());
        pea::cgroup::kill_tree(&cgroup).and_then(|()| pea::cgroup::remove_tree(&cgroup)).unwrap();
        for mount in super::mounts_below(self.dir.path()).iter().rev() {
            let place = PathBuf::from(mount.split(' ').nth(4).unwrap());
            nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        for directory in ["state", "pea"] {
            fs::remove_dir_all(self.dir.path().join(directory)).unwrap();
        }
        for socket in sockets {
            let _ = fs::remove_file(socket);
        }
        testkit::run(Command::new("ip").args(["link", "delete", "cni0"]));
        self.daemon = daemon(self.dir.path());
        self.cri = connect(self.dir.path()).await;
    }

    /// Where a pod's containers have their cgroups, as kubelet would say: a slice where systemd runs.
    pub fn cgroup(&self) -> String {
        let name = self.dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        if !systemd() {
            return format!("/{name}");
        }
        // a-b.slice lies in a.slice (systemd.slice(5)).
        let dashes = name.match_indices('-').map(|(end, _)| end).chain([name.len()]);
        dashes.map(|end| format!("/{}.slice", &name[..end])).collect()
    }

    /// Runs a pod. `more` adds to its `PodSandboxConfig`, and to the part of it that is for Linux.
    pub async fn run_pod(
        &self,
        name: &str,
        more: impl FnOnce(Message, Message) -> (Message, Message),
    ) -> Result<Pod, Status> {
        self.run_pod_by("", name, more).await
    }

    /// The same, by one of the runtimes in the configuration.
    pub async fn run_pod_by(
        &self,
        runtime: &str,
        name: &str,
        more: impl FnOnce(Message, Message) -> (Message, Message),
    ) -> Result<Pod, Status> {
        let metadata = Message::new().text(1, name).text(2, &format!("uid-{name}")).text(3, "default");
        let logs = self.dir.path().join("logs").display().to_string();
        let config = Message::new().message(1, metadata).text(2, name).text(3, &logs);
        let (config, linux) = more(config, Message::new().text(1, &self.cgroup()));
        let config = config.message(8, linux);
        let reply = self.call("RunPodSandbox", &Message::new().message(1, config.clone()).text(2, runtime)).await?;
        Ok(Pod { id: reply.text(&[1]), config })
    }

    /// A pod whose containers have pid namespaces of their own, as is Kubernetes' default.
    pub async fn pod(&self, name: &str) -> Pod {
        let own = |config, linux: Message| (config, linux.message(2, Message::new().message(1, own_processes())));
        self.run_pod(name, own).await.unwrap_or_else(|status| panic!("pod {name}: {status:?}"))
    }

    /// Creates a container. `more` adds to its `ContainerConfig`.
    pub async fn create(
        &self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        more: impl FnOnce(Message) -> Message,
    ) -> Result<String, Status> {
        let config = Message::new()
            .message(1, Message::new().text(1, name))
            .message(2, Message::new().text(1, IMAGE))
            .texts(3, command)
            .text(11, &format!("{name}.log"));
        let request = Message::new().text(1, &pod.id).message(2, more(config)).message(3, pod.config.clone());
        Ok(self.call("CreateContainer", &request).await?.text(&[1]))
    }

    /// Creates and starts a container.
    pub async fn container(&self, pod: &Pod, name: &str, command: &[&str]) -> String {
        self.container_with(pod, name, command, |config| config).await
    }

    pub async fn container_with(
        &self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        more: impl FnOnce(Message) -> Message,
    ) -> String {
        // As with kubelet, its processes are in a pid namespace of its own.
        self.container_in(pod, name, command, own_processes(), more).await
    }

    /// The same, in these namespaces (a `NamespaceOption`).
    pub async fn container_in(
        &self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        namespaces: Message,
        more: impl FnOnce(Message) -> Message,
    ) -> String {
        let linux = Message::new().message(2, Message::new().message(3, namespaces));
        let created = self.create(pod, name, command, |config| more(config.message(15, linux))).await;
        let id = created.unwrap_or_else(|status| panic!("container {name}: {status:?}"));
        self.of("StartContainer", &id).await;
        id
    }

    /// A container's state, exit code and reason.
    pub async fn status(&self, id: &str) -> (u64, u64, String) {
        let status = self.of("ContainerStatus", id).await;
        (status.number(&[1, 3]), status.number(&[1, 7]), status.text(&[1, 10]))
    }

    pub async fn until_exited(&self, id: &str) -> (u64, String) {
        self.until("the container has exited", async || self.status(id).await.0 == EXITED).await;
        let (_, code, reason) = self.status(id).await;
        (code, reason)
    }

    /// Runs a command as probes do: exit code, output, errors.
    pub async fn exec(&self, id: &str, command: &[&str]) -> (u64, String, String) {
        let request = Message::new().text(1, id).texts(2, command).number(3, 20);
        let done = self.call("ExecSync", &request).await.unwrap_or_else(|status| panic!("{command:?}: {status:?}"));
        (done.number(&[3]), done.text(&[1]), done.text(&[2]))
    }

    /// A container's log without times and streams.
    pub fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join("logs").join(format!("{name}.log"))).unwrap_or_default();
        let lines = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    pub async fn remove(&self, pod: &Pod) {
        self.of("StopPodSandbox", &pod.id).await;
        self.of("RemovePodSandbox", &pod.id).await;
    }

    /// Removes all pods there are.
    pub async fn remove_all(&self) {
        loop {
            // Of several the last one.
            let id = self.call("ListPodSandbox", &Message::new()).await.unwrap().text(&[1, 1]);
            if id.is_empty() {
                return;
            }
            self.of("StopPodSandbox", &id).await;
            self.of("RemovePodSandbox", &id).await;
        }
    }

    /// The containers in pea's state root, which the configuration names.
    pub fn kept_by_pea(&self) -> Vec<String> {
        let kept = fs::read_dir(self.dir.path().join("pea/k8s.io")).into_iter().flatten().flatten();
        let names = kept.map(|entry| entry.file_name().into_string().unwrap());
        // What it keeps of seccomp profiles is no container.
        names.filter(|name| !name.starts_with('@')).collect()
    }

    /// What is left of pods, one item a line; empty when all is clean.
    pub fn remains(&self) -> Vec<String> {
        let mut left: Vec<String> =
            super::shims_below(self.dir.path()).iter().map(|pid| format!("shim {pid}")).collect();
        left.extend(
            super::mounts_below(&self.dir.path().join("state")).iter().filter(|mount| !is_daemons(mount)).cloned(),
        );
        left.extend(self.cgroups_left());
        for directory in ["io.containerd.runtime.v2.task/k8s.io", "io.containerd.grpc.v1.cri/sandboxes", "netns"] {
            let entries = fs::read_dir(self.dir.path().join("state").join(directory)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        left.extend(self.kept_by_pea());
        let leases = fs::read_dir(self.dir.path().join("leases/pods")).into_iter().flatten().flatten();
        left.extend(
            leases.map(|lease| lease.file_name().into_string().unwrap()).filter(|name| name.starts_with("10.")),
        );
        left
    }

    /// Of pods. A slice is kubelet's to remove, with the pod; what is in it is not.
    fn cgroups_left(&self) -> Vec<String> {
        if !systemd() {
            let left = super::cgroups_named(self.cgroup().trim_start_matches('/'));
            return left.iter().map(|path| path.display().to_string()).collect();
        }
        let slice = fs::read_dir(format!("/sys/fs/cgroup{}", self.cgroup())).into_iter().flatten().flatten();
        let cgroups = slice.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string());
        let units = testkit::output(Command::new("systemctl").args(["list-units", "--all", "--plain", "--no-legend"]));
        let units = units.lines().filter(|line| line.starts_with("cri-containerd-")).map(str::to_owned);
        cgroups.chain(units).collect()
    }

    pub async fn clean(&self) {
        let end = std::time::Instant::now() + DEADLINE;
        while !self.remains().is_empty() {
            assert!(std::time::Instant::now() < end, "left behind: {:#?}", self.remains());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The plugin's own: it keeps a mount of its directory of namespaces.
fn is_daemons(mount: &str) -> bool {
    mount.split(' ').nth(4).is_some_and(|place| place.ends_with("/netns"))
}

/// pid: CONTAINER, the others: POD.
pub fn own_processes() -> Message {
    Message::new().number(2, 1)
}

/// Whether systemd makes the cgroups of pods, as is the rule where it runs. `PEA_CGROUPS=cgroupfs` is the exception.
pub fn systemd() -> bool {
    let cgroupfs = std::env::var("PEA_CGROUPS").is_ok_and(|driver| driver == "cgroupfs");
    !cgroupfs && Path::new("/run/systemd/system").exists()
}

/// Whether this process may make others less likely to be killed for want of memory than it is: CAP_SYS_RESOURCE.
pub fn may_lower_oom_scores() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let held = super::status_field(std::process::id(), "CapEff");
    u64::from_str_radix(&held, 16).unwrap() & 1 << SYS_RESOURCE != 0
}

/// What containerd says it is.
pub fn version() -> String {
    testkit::output(Command::new("containerd").arg("--version"))
}

/// Whether a containerd of that version, when it starts, reads what a container has written that ends just then. 1.6 closes
/// the FIFO, with its own shim and runc as well.
pub fn reads_to_the_end(version: &str) -> bool {
    is_since(version, (1, 7))
}

/// Whether a containerd of that version runs pods with users of their own.
pub fn serves_users(version: &str) -> bool {
    is_since(version, (1, 7))
}

/// Whether a containerd of that version lets the shim make sandboxes.
pub fn serves_pauseless(version: &str) -> bool {
    is_since(version, (2, 0))
}

/// Whether a containerd of that version serves pods without pause containers as it does others: in the node's network, and
/// with options for the runtime. 2.1.9 crashes over the one, and cannot hand the other on.
pub fn serves_pauseless_fully(version: &str) -> bool {
    is_since(version, (2, 4))
}

fn is_since(version: &str, release: (u32, u32)) -> bool {
    let release_of = |word: &str| {
        let mut numbers = word.trim_start_matches('v').split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    version.split_whitespace().find_map(release_of).is_some_and(|found| found >= release)
}

/// Who makes the sandboxes of pods: containerd with a pause container, or (from 2.1) the shim.
///
/// `PEA_SANDBOXER=shim` has all tests of CRI run without pause containers.
pub fn sandboxer() -> String {
    std::env::var("PEA_SANDBOXER").unwrap_or_else(|_| "podsandbox".into())
}

/// An archive of that image, which is made once for all tests of a program; its making needs a place.
fn image(place: &Path, name: &str, command: &str) -> Vec<u8> {
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

fn configuration(dir: &Path, sandboxer: &str) -> String {
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

fn daemon(dir: &Path) -> Child {
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
async fn connect(dir: &Path) -> Grpc {
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

fn log_of(dir: &Path) -> String {
    let log = fs::read_to_string(dir.join("containerd.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("loading plugin")).collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd's log:\n{}", log_of(self.dir.path()));
        }
        // What a failed test has left running.
        let tasks = self.ctr().args(["task", "ls", "-q"]).output();
        for id in tasks.iter().flat_map(|done| std::str::from_utf8(&done.stdout).unwrap_or_default().split_whitespace())
        {
            let _ = self.ctr().args(["task", "rm", "--force", id]).output();
        }
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        let _ = self.daemon.wait();
        let sockets = super::crowd::sockets();
        // A sandbox without a container is no task, and a shim goes only when it is asked to.
        for shim in super::shims_below(self.dir.path()) {
            let _ = kill(Pid::from_raw(shim as i32), Signal::SIGKILL);
        }
        for socket in sockets {
            let _ = fs::remove_file(socket);
        }
        for mount in super::mounts_below(self.dir.path()).iter().rev() {
            let place = PathBuf::from(mount.split(' ').nth(4).unwrap());
            let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
        }
        for cgroup in super::cgroups_named(self.cgroup().rsplit('/').next().unwrap_or_default()) {
            let _ = fs::remove_dir(cgroup);
        }
    }
}
