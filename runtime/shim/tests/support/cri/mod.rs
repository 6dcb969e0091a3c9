//! A node as kubelet sees it: a private containerd with its CRI plugin, `cni-bridge` for the network, pods.

mod daemon;
pub mod events;
pub mod grpc;
pub mod message;
mod pods;
mod remains;
pub mod security;
pub mod stream;
mod version;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::DEADLINE;
use grpc::{Grpc, Status};
use message::{Message, Reply};

pub use pods::{Pod, own_processes};
#[allow(unused_imports)] // Not every test program has use for all of them.
pub use version::{sandboxer, serves_pauseless, serves_pauseless_fully, serves_sandboxes, serves_users, version};

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
        fs::write(dir.path().join("config.toml"), daemon::configuration(dir.path(), sandboxer)).unwrap();
        prepare(dir.path());
        let daemon = daemon::start(dir.path());
        let cri = daemon::connect(dir.path()).await;
        let node = Self { dir, cri, daemon };
        for (name, command) in [(IMAGE, r#"["sh"]"#), (PAUSE, r#"["sleep","infinity"]"#)] {
            node.import(name, command).await;
        }
        node
    }

    async fn import(&self, name: &str, command: &str) {
        let archive = self.dir.path().join("image.tar");
        fs::write(&archive, daemon::image(&archive, name, command)).unwrap();
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
        self.daemon = daemon::start(self.dir.path());
        self.cri = daemon::connect(self.dir.path()).await;
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
            let _ = fs::remove_dir_all(self.dir.path().join(directory));
        }
        // Where containerd 2.1.9 cannot hand on the options, which say another root.
        let root = Path::new("/run/containerd/pea/k8s.io");
        for container in pea::Runtime::new(root, pea::CgroupDriver::Cgroupfs).list().unwrap_or_default() {
            if container.bundle.starts_with(self.dir.path()) {
                fs::remove_dir_all(root.join(container.id)).unwrap();
            }
        }
        for socket in sockets {
            let _ = fs::remove_file(socket);
        }
        testkit::run(Command::new("ip").args(["link", "delete", "cni0"]));
        self.daemon = daemon::start(self.dir.path());
        self.cri = daemon::connect(self.dir.path()).await;
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

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd's log:\n{}", daemon::log_of(self.dir.path()));
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
