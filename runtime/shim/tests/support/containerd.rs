//! A private containerd: its own root, state, sockets and network namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, eventually};

pub struct Containerd {
    pub dir: tempfile::TempDir,
    pub namespace: String,
    daemon: Child,
}

impl Containerd {
    /// Starts one. The calling thread enters a network namespace of its own first.
    pub fn start() -> Self {
        testkit::enter_node();
        let dir = testkit::scratch();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        testkit::busybox_rootfs(&dir.path().join("rootfs"));
        let config = dir.path().join("config.toml");
        let path = dir.path().display();
        let text = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{path}/c.sock\"\n[ttrpc]\naddress = \"{path}/c.sock.ttrpc\"\n"
        );
        fs::write(&config, text).unwrap();
        // Where the runtime's state and cgroups go by the name of the namespace, each daemon has its own.
        let namespace = dir.path().file_name().unwrap().to_str().unwrap().replace('.', "-");
        let daemon = daemon(dir.path());
        let this = Self { dir, namespace, daemon };
        this.await_ready();
        this
    }

    fn await_ready(&self) {
        eventually("containerd answers", || self.try_ctr(&["version"]).status.success());
    }

    /// Kills the daemon and starts it again on the same state.
    pub fn restart(&mut self) {
        self.restart_after(|| {});
    }

    /// The same, with something that happens while there is none.
    pub fn restart_after(&mut self, meanwhile: impl FnOnce()) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        meanwhile();
        self.daemon = daemon(self.dir.path());
        self.await_ready();
    }

    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        // ctr hands SIGTERM on to its task, which may not care.
        command.args(["-k", "1", &DEADLINE.as_secs().to_string(), "ctr"]);
        // From 2.2 on it says before the output that cgroup v1 will not be served for ever.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        command.arg("-a").arg(self.dir.path().join("c.sock")).args(["-n", &self.namespace]);
        match arguments.strip_prefix(&["task", "exec"]) {
            Some(rest) => command.args(["task", "exec", "--fifo-dir"]).arg(self.fifos()).args(rest),
            None => command.args(arguments),
        };
        command
    }

    /// Where `ctr` makes FIFOs. The default is a directory of the machine, where a detached task's stay.
    fn fifos(&self) -> PathBuf {
        self.dir.path().join("fifo")
    }

    pub fn try_ctr(&self, arguments: &[&str]) -> Output {
        testkit::attempt(&mut self.ctr(arguments))
    }

    pub fn output(&self, arguments: &[&str]) -> String {
        testkit::output(&mut self.ctr(arguments))
    }

    /// `ctr run` on busybox's root file system; `flags` go before it.
    pub fn run(&self, flags: &[&str], id: &str, program: &[&str]) -> Command {
        let mut arguments = vec!["run", "--runtime", "io.containerd.pea.v2", "--rootfs", "--env", "PATH=/bin"];
        let fifos = self.fifos();
        arguments.extend(["--fifo-dir", fifos.to_str().unwrap()]);
        arguments.extend(flags);
        let rootfs = self.dir.path().join("rootfs");
        arguments.extend([rootfs.to_str().unwrap(), id]);
        arguments.extend(program);
        self.ctr(&arguments)
    }

    /// The id of a container as no other test has it.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// The bundles of tasks that containerd knows.
    pub fn bundles(&self) -> usize {
        let state = self.dir.path().join("state/io.containerd.runtime.v2.task").join(&self.namespace);
        fs::read_dir(state).map_or(0, Iterator::count)
    }
}

fn daemon(dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("containerd.log")).unwrap();
    let path = format!("{}:{}", testkit::bin_dir().display(), std::env::var("PATH").unwrap());
    testkit::binary("containerd-shim-pea-v2");
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

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().filter(|line| !line.contains("loading plugin")).collect();
            eprintln!("containerd's log:\n{}", tail[tail.len().saturating_sub(40)..].join("\n"));
        }
        let tasks = self.try_ctr(&["task", "ls", "-q"]);
        for id in String::from_utf8_lossy(&tasks.stdout).split_whitespace() {
            self.try_ctr(&["task", "rm", "--force", id]);
        }
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        let _ = self.daemon.wait();
        // What outlives the tasks by design: the places that are named after containerd's namespace.
        let _ = fs::remove_dir(Path::new("/run/containerd/pea").join(&self.namespace));
        for cgroup in super::cgroups_named(&self.namespace) {
            let _ = fs::remove_dir(cgroup);
        }
    }
}
