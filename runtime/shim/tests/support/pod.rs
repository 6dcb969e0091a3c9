//! A pod without containerd: our own client, as peapod uses it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Piped};
use std::time::Duration;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pea_shim::client::{Bootstrap, CreateTask, Error, Exit, Mount, Shim, Stdio, delete};
use pea_shim::sandbox::{Namespace, SandboxOptions};
use serde_json::{Value, json};

/// Runs a test's future on one thread, as peapod does. One that hangs fails.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    run_within(2 * super::DEADLINE, test)
}

/// The same, of a test that may take longer.
pub fn run_within<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { tokio::time::timeout(limit, test).await };
    runtime.block_on(test).expect("the test hangs")
}

pub struct Pod {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub shim: Shim,
    pub address: String,
    /// `/proc/<pid>/ns/*` are the pod's.
    pub pid: u32,
    pub shim_pid: u32,
    namespaces: Vec<Namespace>,
}

impl Pod {
    /// A pod that shares what pods share.
    pub async fn start() -> Self {
        Self::with(&[Namespace::Ipc, Namespace::Network, Namespace::Uts]).await
    }

    pub async fn with(namespaces: &[Namespace]) -> Self {
        Self::launched(namespaces, |dir, id| Bootstrap::start(&binary(), &dir.join("bundle"), "test", id, dir).unwrap())
            .await
    }

    /// A pod whose shim tells its events to whoever listens at `events` in its directory.
    pub async fn telling() -> Self {
        Self::launched(&[Namespace::Ipc, Namespace::Network, Namespace::Uts], |dir, id| {
            start_with_events(&dir.join("bundle"), id, dir, &dir.join("events"))
        })
        .await
    }

    async fn launched(namespaces: &[Namespace], launch: impl FnOnce(&Path, &str) -> String) -> Self {
        let dir = testkit::scratch();
        let id = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        for name in ["bundle", "busybox", "containers", "pea"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        testkit::busybox_rootfs(&dir.path().join("busybox"));
        let address = launch(dir.path(), &id);
        let shim = Shim::connect(&address).await.unwrap();
        let options = SandboxOptions {
            hostname: if namespaces.contains(&Namespace::Uts) { "web".into() } else { String::new() },
            namespaces: namespaces.to_vec(),
            cgroup_parent: Some(format!("/{id}").into()),
            pea_root: Some(dir.path().join("pea")),
            ..SandboxOptions::default()
        };
        shim.create_sandbox(&id, &dir.path().join("bundle"), None, &options).await.unwrap();
        let pid = shim.start_sandbox(&id).await.unwrap().pid;
        let shim_pid = shim.connect_task("nobody").await.unwrap().0;
        Self { dir, id, shim, address, pid, shim_pid, namespaces: namespaces.to_vec() }
    }

    pub fn signal_shim(&self, signal: Signal) {
        kill(Pid::from_raw(self.shim_pid as i32), signal).unwrap();
    }

    pub fn sandbox_bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub fn bundle(&self, name: &str) -> PathBuf {
        self.dir.path().join("containers").join(name)
    }

    pub fn container_id(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    /// Creates a container that joins the pod; its root is busybox under an overlay.
    pub async fn create(&self, name: &str, program: &[&str], stdio: Stdio) -> Result<u32, Error> {
        self.create_with(name, program, stdio, |_| {}).await
    }

    /// The same, with a change to its `config.json`.
    pub async fn create_with(
        &self,
        name: &str,
        program: &[&str],
        stdio: Stdio,
        change: impl FnOnce(&mut Value),
    ) -> Result<u32, Error> {
        let rootfs = self.prepare(name, program, stdio.terminal, change);
        self.create_on(name, rootfs, stdio).await
    }

    /// Writes a container's bundle, and returns what its root file system is made of.
    pub fn prepare(&self, name: &str, program: &[&str], terminal: bool, change: impl FnOnce(&mut Value)) -> Vec<Mount> {
        let bundle = self.bundle(name);
        for part in ["rootfs", "upper", "work"] {
            fs::create_dir_all(bundle.join(part)).unwrap();
        }
        let mut config = self.config(name, program, terminal);
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let options = [
            format!("lowerdir={}", self.dir.path().join("busybox").display()),
            format!("upperdir={}", bundle.join("upper").display()),
            format!("workdir={}", bundle.join("work").display()),
        ];
        vec![Mount { kind: "overlay".into(), source: "overlay".into(), options: options.to_vec() }]
    }

    /// Creates a container of a bundle that is written already, on that root file system.
    pub async fn create_on(&self, name: &str, rootfs: Vec<Mount>, stdio: Stdio) -> Result<u32, Error> {
        let (id, bundle) = (self.container_id(name), self.bundle(name));
        self.shim.create(&CreateTask { id, bundle, rootfs, stdio, ..CreateTask::default() }).await
    }

    /// Creates and starts.
    pub async fn start_container(&self, name: &str, program: &[&str], stdio: Stdio) -> u32 {
        let pid = self.create(name, program, stdio).await.unwrap();
        assert_eq!(self.shim.start(&self.container_id(name), None).await.unwrap(), pid);
        pid
    }

    /// Waits for a container and deletes it.
    pub async fn finish(&self, name: &str) -> Exit {
        let id = self.container_id(name);
        let waited = self.shim.wait(&id, None).await.unwrap();
        let deleted = self.shim.delete(&id, None).await.unwrap();
        assert_eq!((waited.status, waited.at), (deleted.status, deleted.at));
        deleted
    }

    /// The specification of a container that joins the pod.
    pub fn config(&self, name: &str, program: &[&str], terminal: bool) -> Value {
        let mut namespaces = vec![json!({"type": "mount"})];
        for (namespace, kind, file) in
            [(Namespace::Ipc, "ipc", "ipc"), (Namespace::Network, "network", "net"), (Namespace::Uts, "uts", "uts")]
        {
            if self.namespaces.contains(&namespace) {
                namespaces.push(json!({"type": kind, "path": format!("/proc/{}/ns/{file}", self.pid)}));
            }
        }
        namespaces.push(match self.namespaces.contains(&Namespace::Pid) {
            true => json!({"type": "pid", "path": format!("/proc/{}/ns/pid", self.pid)}),
            false => json!({"type": "pid"}),
        });
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": terminal, "cwd": "/", "args": program, "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin"], "capabilities": {}
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
            ],
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{}/{name}", self.id)}
        })
    }

    /// A CRI log's address, and the file.
    pub fn log(&self, name: &str) -> (Stdio, PathBuf) {
        let file = self.dir.path().join(format!("{name}.log"));
        let address = format!("file://{}?format=cri", file.display());
        (Stdio { stdout: address.clone(), stderr: address, ..Stdio::default() }, file)
    }

    /// Ends the pod the orderly way, and checks that nothing is left.
    pub async fn end(self) {
        self.shim.stop_sandbox(&self.id, std::time::Duration::ZERO).await.unwrap();
        self.shim.shutdown_sandbox(&self.id).await.unwrap();
        // The client of this test stays connected, and need not be waited for.
        self.signal_shim(Signal::SIGTERM);
        self.nothing_left();
    }

    pub fn nothing_left(&self) {
        super::eventually("the shim has ended", || !super::alive(self.shim_pid));
        assert!(!Path::new(self.address.strip_prefix("unix://").unwrap()).exists(), "the socket is still there");
        assert_eq!(super::mounts_below(self.dir.path()), Vec::<String>::new());
        assert_eq!(super::cgroups_named(&self.id), Vec::<PathBuf>::new());
        super::eventually("the sandbox's process has ended", || !super::alive(self.pid));
        let state = fs::read_dir(self.dir.path().join("pea")).map_or(0, Iterator::count);
        assert_eq!(state, 0, "pea keeps containers");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = delete(&binary(), &self.sandbox_bundle(), "test", &self.id);
    }
}

/// Starts a shim as containerd from 2.3 does; its events go to `events`.
pub fn start_with_events(bundle: &Path, id: &str, socket_dir: &Path, events: &Path) -> String {
    let params = BootstrapParams {
        instance_id: id.to_owned(),
        namespace: "test".to_owned(),
        socket_dir: Some(socket_dir.display().to_string()),
        containerd_ttrpc_address: events.display().to_string(),
        ..Default::default()
    };
    let mut start = Command::new(binary());
    start.args(["-namespace", "test", "-id", id, "start"]).current_dir(bundle);
    let mut start = start.stdin(Piped::piped()).stdout(Piped::piped()).spawn().unwrap();
    start.stdin.take().unwrap().write_all(&params.write_to_bytes().unwrap()).unwrap();
    let answer = start.wait_with_output().unwrap().stdout;
    BootstrapResult::parse_from_bytes(&answer).unwrap().address
}

pub fn binary() -> PathBuf {
    testkit::binary("containerd-shim-pea-v2")
}

/// Runs a process in a container from its registration to its deletion; how it ended.
pub async fn exec_to_end(
    shim: &Shim,
    id: &str,
    exec_id: &str,
    process: &oci_spec::runtime::Process,
    stdio: &Stdio,
) -> u32 {
    shim.exec(id, exec_id, process, stdio).await.unwrap();
    shim.start(id, Some(exec_id)).await.unwrap();
    let status = shim.wait(id, Some(exec_id)).await.unwrap().status;
    shim.delete(id, Some(exec_id)).await.unwrap();
    status
}

/// A process to exec: a command line in busybox's shell.
pub fn shell(line: &str) -> oci_spec::runtime::Process {
    process(&["sh", "-c", line])
}

/// A process to exec.
pub fn process(arguments: &[&str]) -> oci_spec::runtime::Process {
    let value = json!({"cwd": "/", "args": arguments, "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    serde_json::from_value(value).unwrap()
}

/// A program on the node, as a logger is one.
pub fn program(pod: &Pod, name: &str, text: &str) -> PathBuf {
    let path = pod.dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The log's records without their times.
pub fn records(file: &Path) -> Vec<String> {
    let log = fs::read_to_string(file).unwrap();
    log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Makes FIFOs in the pod's directory.
pub fn fifos(pod: &Pod, names: &[&str]) -> Vec<String> {
    let make = |name: &&str| {
        let path = pod.dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        path.display().to_string()
    };
    names.iter().map(make).collect()
}
