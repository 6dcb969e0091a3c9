//! A bundle of its own for each test, and the command line run on it.
#![allow(dead_code)] // each test file uses a part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A bundle with a busybox root file system, a state root beside it, and an id no other test has.
pub struct Bundle {
    dir: tempfile::TempDir,
    pub id: String,
    pub spec: Value,
}

impl Bundle {
    /// The bundle of `pea spec`, without a terminal, running `args`.
    pub fn new(args: &[&str]) -> Self {
        let dir = testkit::scratch();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir(&rootfs).expect("a directory for the root file system");
        testkit::busybox_rootfs(&rootfs);
        let id = dir.path().file_name().expect("a name").to_string_lossy().into_owned();
        testkit::run(Command::new(testkit::binary("pea")).arg("spec").arg("--bundle").arg(dir.path()));
        let text = fs::read(dir.path().join("config.json")).expect("what spec wrote");
        let mut spec: Value = serde_json::from_slice(&text).expect("JSON");
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(args);
        Self { dir, id, spec }
    }

    /// A shell that runs `script`.
    pub fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// A container that does nothing until it is told to end.
    pub fn idle() -> Self {
        Self::shell("trap 'exit 0' TERM; while :; do sleep 0.1; done")
    }

    /// The same, created and started.
    pub fn running() -> Self {
        let bundle = Self::idle();
        bundle.start_up();
        bundle
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.path().join("state")
    }

    /// `pea VERB ...` on this bundle's state root. The configuration is written first.
    pub fn pea(&self, arguments: &[&str]) -> Command {
        let text = serde_json::to_vec(&self.spec).expect("JSON");
        fs::write(self.path().join("config.json"), text).expect("config.json");
        // Whatever hangs fails its test, and does not stop the others. In the foreground: a terminal's program in a
        // process group of its own would only be in the background there.
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--signal=KILL", "60"]).arg(testkit::binary("pea"));
        command.arg("--root").arg(self.state_root()).args(arguments).current_dir(self.path());
        command
    }

    /// `pea run` of it.
    pub fn run(&self) -> Output {
        testkit::attempt(&mut self.pea(&["run", &self.id]))
    }

    /// What `pea run` prints; it must end well.
    pub fn output(&self) -> String {
        testkit::output(&mut self.pea(&["run", &self.id]))
    }

    /// Creates and starts it, with no standard streams of ours.
    pub fn start_up(&self) {
        self.create();
        testkit::run(&mut self.pea(&["start", &self.id]));
    }

    pub fn create(&self) {
        let null = || fs::File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
        let status = self.pea(&["create", &self.id]).stdin(null()).stdout(null()).status();
        assert!(status.expect("pea").success(), "create failed");
    }

    /// `pea exec` with these arguments after the id.
    pub fn exec(&self, command: &[&str]) -> String {
        testkit::output(self.pea(&["exec", &self.id]).args(command))
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&testkit::output(&mut self.pea(&["state", &self.id]))).expect("JSON")
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("a pid") as i32
    }

    /// Waits until the container's program has ended.
    pub fn wait_stopped(&self) {
        wait("the container to stop", || self.status() == "stopped");
    }

    /// Nothing of the container may be left: no state, no cgroup, no mount.
    pub fn assert_nothing_left(&self) {
        let mut entries: Vec<_> = fs::read_dir(self.state_root()).into_iter().flatten().flatten().collect();
        // Compiled filters are nobody's, and stay.
        entries.retain(|entry| entry.file_name() != "@seccomp");
        assert!(entries.is_empty(), "left in the state root: {entries:?}");
        assert_eq!(cgroups(&self.id), Vec::<PathBuf>::new(), "cgroups left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        assert!(!mounts.contains(&self.id), "mounts left");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = testkit::attempt(&mut self.pea(&["delete", "--force", &self.id]));
    }
}

/// The cgroup directories of that name directly below any hierarchy.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|hierarchy| hierarchy.join(name)).filter(|path| path.exists()).collect()
}

/// Where the hierarchies of this machine are mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if unified() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).expect("cgroups").flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// In a mount namespace of one's own: leaves nothing but the unified hierarchy. By the machine's mount of it, where there is
/// one: another mount would change the options of the whole hierarchy (cgroup-v2.rst, "Mounting").
pub const UNIFIED_ALONE: &str = "if [ -e /sys/fs/cgroup/unified ]; then \
    mount --bind /sys/fs/cgroup/unified /mnt && umount -R /sys/fs/cgroup && mount --move /mnt /sys/fs/cgroup; \
    elif ! [ -e /sys/fs/cgroup/cgroup.controllers ]; then \
    umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup; fi";

/// A command where there is nothing but cgroup v2.
pub fn on_v2(command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    let script = format!("{UNIFIED_ALONE} && exec \"$@\"");
    wrapped.args(["--mount", "sh", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

/// Whether this machine has the unified hierarchy alone.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether cgroups can limit that (in the unified hierarchy a controller may be off, or be used by a v1 one).
pub fn controls(controller: &str) -> bool {
    let on = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    on.map_or(true, |on| on.split_whitespace().any(|each| each == controller))
}

/// Waits for a condition; too long is a failure.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    let mut pause = Duration::from_micros(50);
    while !condition() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// What a failed command said.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// What a command printed.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
