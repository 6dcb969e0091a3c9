//! The shim, its `start`, its helpers and its `delete` killed after every one of their system calls: what is left, `delete`
//! removes from the bundle alone, and it tells the exit of a task as whoever waited for it was told.
//!
//! Each walk takes every n-th call only, beginning with another one for each process; `PEA_KILL_EVERY=1` takes all of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pea_shim::client::{Bootstrap, CreateTask, Error, Mount, Shim, Stdio, delete};
use pea_shim::sandbox::{Namespace, SandboxOptions};
use serde_json::json;
use support::pod::{binary, run, shell};
use support::{alive, cgroups_named, eventually, mounts_below};
use testkit::trace::{Following, Trace, Until, Victim, follow};

/// The exit code of the container's program.
const CODE: u32 = 7;
/// containerd's namespace.
const NAMESPACE: &str = "test";

/// Who makes the shim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// A task alone: the bundle is its own.
    Task,
    /// A sandbox, in which the task joins what the shim holds.
    Sandbox,
}

/// A shim with one container, from the `start` to the end of both.
struct Life {
    kind: Kind,
    dir: tempfile::TempDir,
    id: String,
    /// How the container's end was told.
    told: Cell<Option<u32>>,
}

impl Life {
    fn new(kind: Kind) -> Self {
        let dir = testkit::scratch();
        let id = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        for name in ["pod", "c", "c/rootfs", "busybox", "upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        testkit::busybox_rootfs(&dir.path().join("busybox"));
        nix::unistd::mkfifo(&dir.path().join("input"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { kind, dir, id, told: Cell::new(None) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The bundle that the shim is started in, and the id that goes with it.
    fn home(&self) -> (PathBuf, &str) {
        match self.kind {
            Kind::Task => (self.path("c"), &self.id),
            Kind::Sandbox => (self.path("pod"), "pod"),
        }
    }

    /// pea's state root: that of the namespace, or the sandbox's.
    fn pea_root(&self) -> PathBuf {
        match self.kind {
            Kind::Task => Path::new("/run/containerd/pea").join(self.namespace()),
            Kind::Sandbox => self.path("pea"),
        }
    }

    /// Each has its own, for a task's state goes by it.
    fn namespace(&self) -> String {
        format!("{NAMESPACE}-{}", self.id)
    }

    /// Follows `start` and all that comes of it while a client goes through the container's whole life.
    fn follow(&self, victim: Option<Victim>) -> Following {
        let (bundle, id) = self.home();
        let mut command = Command::new(binary());
        command.args(["-namespace", &self.namespace(), "-address", "", "-id", id, "start"]).current_dir(&bundle);
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: self.namespace(),
            socket_dir: Some(self.dir.path().display().to_string()),
            ..Default::default()
        };
        let mut following = Following::begin(&command, params.write_to_bytes().unwrap(), victim, Until::All);
        let address = BootstrapResult::parse_from_bytes(&following.output()).unwrap_or_default().address;
        let lived = run(self.live(&address));
        assert!(victim.is_some() || lived.is_ok(), "{lived:?}");
        following
    }

    /// What a client does from the beginning to the end, as far as it comes.
    async fn live(&self, address: &str) -> Result<(), Error> {
        let shim = Shim::connect(address).await?;
        let pod = self.make_sandbox(&shim).await?;
        self.run_container(&shim, pod).await?;
        match self.kind {
            Kind::Task => shim.shutdown().await,
            Kind::Sandbox => {
                shim.stop_sandbox("pod", std::time::Duration::ZERO).await?;
                shim.shutdown_sandbox("pod").await
            }
        }
    }

    /// The sandbox, if there is to be one, and the pid behind which its namespaces are.
    async fn make_sandbox(&self, shim: &Shim) -> Result<u32, Error> {
        if self.kind == Kind::Task {
            return Ok(0);
        }
        let options = SandboxOptions {
            hostname: "web".into(),
            namespaces: vec![Namespace::Ipc, Namespace::Network, Namespace::Uts],
            cgroup_parent: Some(format!("/{}", self.id).into()),
            pea_root: Some(self.pea_root()),
            ..SandboxOptions::default()
        };
        shim.create_sandbox("pod", &self.path("pod"), None, &options).await?;
        Ok(shim.start_sandbox("pod").await?.pid)
    }

    /// A shim that was killed, and what was its: a container that runs, or has ended as its client was told.
    fn leave_behind(&self, ended: bool) {
        let (bundle, id) = self.home();
        let address = Bootstrap::start(&binary(), &bundle, &self.namespace(), id, self.dir.path()).unwrap();
        run(async {
            let shim = Shim::connect(&address).await.unwrap();
            let pod = self.make_sandbox(&shim).await.unwrap();
            shim.create(&self.task(pod)).await.unwrap();
            shim.start(&self.id, None).await.unwrap();
            if ended {
                self.end_container(&shim).await.unwrap();
            }
        });
        kill(Pid::from_raw(self.shim().unwrap() as i32), Signal::SIGKILL).unwrap();
        eventually("the shim has ended", || self.shim().is_none());
    }

    /// Has the container's program end, and hears of it.
    async fn end_container(&self, shim: &Shim) -> Result<(), Error> {
        let mut input = File::options().read(true).write(true).open(self.path("input")).unwrap();
        input.write_all(b"end\n").unwrap();
        self.told.set(Some(shim.wait(&self.id, None).await?.status));
        Ok(())
    }

    async fn run_container(&self, shim: &Shim, pid: u32) -> Result<(), Error> {
        let id = &self.id;
        shim.create(&self.task(pid)).await?;
        shim.start(id, None).await?;
        shim.exec(id, "e", &shell("true"), &Stdio::default()).await?;
        shim.start(id, Some("e")).await?;
        shim.wait(id, Some("e")).await?;
        shim.delete(id, Some("e")).await?;
        self.end_container(shim).await?;
        shim.delete(id, None).await.map(drop)
    }

    fn task(&self, pod: u32) -> CreateTask {
        let joined = |file| (self.kind == Kind::Sandbox).then(|| format!("/proc/{pod}/ns/{file}"));
        let namespace = |kind: &str, path: Option<String>| match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        };
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "cwd": "/", "args": ["sh", "-c", format!("read word; exit {CODE}")],
                "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"], "capabilities": {}
            },
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "namespaces": [
                    namespace("mount", None), namespace("pid", None), namespace("ipc", joined("ipc")),
                    namespace("uts", joined("uts")), namespace("network", joined("net"))
                ],
                "cgroupsPath": format!("/{0}/{0}", self.id)
            }
        });
        fs::write(self.path("c/config.json"), config.to_string()).unwrap();
        let place = |name: &str, option: &str| format!("{option}={}", self.path(name).display());
        let options = vec![place("busybox", "lowerdir"), place("upper", "upperdir"), place("work", "workdir")];
        let output = format!("file://{}?format=cri", self.path("log").display());
        CreateTask {
            id: self.id.clone(),
            bundle: self.path("c"),
            rootfs: vec![Mount { kind: "overlay".into(), source: "overlay".into(), options }],
            stdio: Stdio {
                stdin: self.path("input").display().to_string(),
                stdout: output.clone(),
                stderr: output,
                terminal: false,
            },
            ..CreateTask::default()
        }
    }

    /// The shim that signed the lock, if it lives.
    fn shim(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.home().0.join("shim.lock")).ok()?.trim().parse().ok()?;
        alive(pid).then_some(pid)
    }

    /// `delete` for every bundle, as containerd does for each shim that it has lost; twice, in one order and the other.
    fn delete(&self, victim: Option<Victim>) {
        let mut bundles = vec![(self.path("c"), self.id.as_str())];
        if self.kind == Kind::Sandbox {
            bundles.push(self.home());
            // It does not say in which order.
            bundles.rotate_left(victim.map_or(0, |victim| victim.call % 2));
        }
        for (bundle, id) in bundles.iter().chain(bundles.iter().rev()) {
            let deleted = delete(&binary(), bundle, &self.namespace(), id);
            let exit = deleted.unwrap_or_else(|error| panic!("{victim:?}: delete of {id}: {error}"));
            let known = [Some(137), Some(CODE)].contains(&Some(exit.status));
            let expected = self.told.get().is_none_or(|told| told == exit.status || bundle.ends_with("pod"));
            assert!(known && expected, "{victim:?}: {exit:?} was told as {:?}", self.told);
        }
    }

    fn nothing_left(&self, victim: Option<Victim>) {
        assert_eq!(mounts_below(self.dir.path()), Vec::<String>::new(), "{victim:?}");
        assert_eq!(cgroups_named(&self.id), Vec::<PathBuf>::new(), "{victim:?}");
        let names = |directory: &Path| -> Vec<String> {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != "@seccomp").collect()
        };
        assert_eq!(names(&self.pea_root()), Vec::<String>::new(), "{victim:?} left state of pea's");
        let sockets: Vec<String> = names(self.dir.path()).into_iter().filter(|name| name.ends_with(".sock")).collect();
        assert_eq!(sockets, Vec::<String>::new(), "{victim:?}");
        let tables = ["/proc/thread-self/mountinfo", "/proc/thread-self/net/unix"];
        for table in tables {
            assert!(!fs::read_to_string(table).unwrap().contains(&self.id), "{victim:?} left something in {table}");
        }
        assert_eq!(names(&self.path("pod/tasks")), Vec::<String>::new(), "{victim:?} left records of tasks");
    }

    /// Whether the same id works again, with all that belongs to it.
    fn again(&self, victim: Option<Victim>) {
        let (bundle, id) = self.home();
        let address = Bootstrap::start(&binary(), &bundle, &self.namespace(), id, self.dir.path());
        let address = address.unwrap_or_else(|error| panic!("{victim:?}: start again: {error}"));
        let lived = run(self.live(&address));
        assert!(lived.is_ok(), "{victim:?}: the same id again: {lived:?}");
        assert_eq!(self.told.get(), Some(CODE));
        eventually("the shim has ended", || self.shim().is_none());
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(shim) = self.shim() {
            let _ = kill(Pid::from_raw(shim as i32), Signal::SIGKILL);
        }
        for (bundle, id) in [(self.path("c"), self.id.as_str()), self.home()] {
            let _ = delete(&binary(), &bundle, &self.namespace(), id);
        }
        if self.kind == Kind::Task {
            let _ = fs::remove_dir_all(self.pea_root());
        }
    }
}

/// How many system calls lie between two that are tried.
fn stride(usual: usize) -> usize {
    std::env::var("PEA_KILL_EVERY").map_or(usual, |every| every.parse().expect("a number"))
}

/// Every victim, from what was seen of processes that nobody killed. The numbers vary a little from one time to the next.
fn victims(whole: &Trace, stride: usize) -> Vec<Victim> {
    let of = |(process, calls): (usize, usize)| {
        (1 + process % stride..=calls + 5).step_by(stride).map(move |call| Victim { process, call })
    };
    whole.processes.iter().map(|seen| seen.calls).enumerate().flat_map(of).collect()
}

/// A whole life with that victim, and what is to be said of it afterwards.
fn with_victim(kind: Kind, victim: Option<Victim>) -> Trace {
    let life = Life::new(kind);
    let following = life.follow(victim);
    if let Some(shim) = life.shim() {
        // Another one died, of which it has told its client; and now it dies too.
        let _ = kill(Pid::from_raw(shim as i32), Signal::SIGKILL);
        // containerd clears up when the connection has broken off.
        eventually("the shim has ended", || life.shim().is_none());
    }
    life.delete(victim);
    let trace = following.end();
    life.nothing_left(victim);
    life.again(victim);
    life.delete(victim);
    life.nothing_left(victim);
    trace
}

/// `delete` with that victim, of a shim that died while its container ran or after it had ended; and then without.
fn delete_with_victim(kind: Kind, ended: bool, victim: Option<Victim>) -> Trace {
    let life = Life::new(kind);
    life.leave_behind(ended);
    let (bundle, id) = if ended { (life.path("c"), life.id.as_str()) } else { life.home() };
    let mut command = Command::new(binary());
    command.args(["-namespace", &life.namespace(), "-address", "", "-id", id, "-bundle"]);
    let trace = follow(command.arg(&bundle).arg("delete").current_dir(&bundle), victim);
    life.delete(victim);
    eventually("all that was followed has ended", || trace.living().is_empty());
    life.nothing_left(victim);
    life.again(victim);
    life.delete(victim);
    trace
}

fn walk(kind: Kind, usual: usize) {
    let whole = with_victim(kind, None);
    let (mut tried, mut killed) = (0, 0);
    for victim in victims(&whole, stride(usual)) {
        tried += 1;
        killed += usize::from(with_victim(kind, Some(victim)).killed);
    }
    let calls: Vec<usize> = whole.processes.iter().map(|seen| seen.calls).collect();
    println!("{kind:?}: system calls {calls:?}, tried {tried}, killed {killed}");
    assert!(killed > 0, "nothing was ever killed");
}

fn walk_delete(kind: Kind, ended: bool, usual: usize) {
    let whole = delete_with_victim(kind, ended, None);
    let victims = victims(&whole, stride(usual));
    let killed = victims.iter().filter(|victim| delete_with_victim(kind, ended, Some(**victim)).killed).count();
    println!("delete of {kind:?}, ended {ended}: {:?}, killed {killed}", whole.processes.iter().map(|seen| seen.calls));
    assert!(killed > 0, "nothing was ever killed");
}

#[test]
fn the_delete_of_a_task_that_ran() {
    walk_delete(Kind::Task, false, 43);
}

#[test]
fn the_delete_of_a_task_that_had_ended() {
    walk_delete(Kind::Task, true, 41);
}

#[test]
fn the_delete_of_a_sandbox() {
    walk_delete(Kind::Sandbox, false, 47);
}

#[test]
fn a_task_and_its_shim() {
    walk(Kind::Task, 97);
}

#[test]
fn a_sandbox_and_its_task() {
    walk(Kind::Sandbox, 89);
}
