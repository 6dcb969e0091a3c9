//! What a careless client or a wild container may do to a shim: the pod's others must not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pea_shim::client::{Bootstrap, CreateTask, Error, Exit, Mount, Shim, Stdio, delete};
use pea_shim::sandbox::{Namespace, SandboxOptions};
use support::pod::{Pod, binary, exec_to_end, process, program, run, shell, start_with_events};
use support::{alive, open_files, status_field};

/// An answer within the time a client would call it one.
async fn soon<T>(what: &str, answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), answer).await.unwrap_or_else(|_| panic!("no answer: {what}"))
}

#[test]
fn a_container_that_floods_its_log_holds_nobody_up() {
    run(async {
        let pod = Pod::start().await;
        let (stdio, _) = pod.log("flood");
        pod.start_container("flood", &["sh", "-c", "yes & exec yes"], stdio).await;
        pod.start_container("other", &["sleep", "1000"], Stdio::default()).await;
        let id = pod.container_id("other");
        for n in 0..10 {
            let name = format!("e{n}");
            let exec = process(&["true"]);
            assert_eq!(soon("exec", exec_to_end(&pod.shim, &id, &name, &exec, &Stdio::default())).await, 0);
        }
        soon("kill", pod.shim.kill(&pod.container_id("flood"), None, libc::SIGKILL as u32, true)).await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_log_file_that_is_a_fifo_nobody_reads_holds_nobody_up() {
    run(async {
        let pod = Pod::start().await;
        let path = pod.dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        for query in ["", "?format=cri"] {
            let stdio = Stdio { stdout: format!("file://{}{query}", path.display()), ..Stdio::default() };
            let made = soon("create", pod.create("odd", &["true"], stdio)).await;
            assert!(matches!(made, Err(Error::InvalidArgument(_))), "{made:?}");
        }
        soon("state", pod.shim.state(&pod.container_id("c"), None)).await.unwrap();
        pod.end().await;
    });
}

#[test]
fn whoever_waits_for_an_exec_that_never_ran_learns_of_the_end_of_its_container() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.exec(&id, "e", &shell("true"), &Stdio::default()).await.unwrap();
        let waiting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), id.clone());
            async move { shim.wait(&id, Some("e")).await }
        });
        pod.shim.state(&id, Some("e")).await.unwrap();
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        pod.finish("c").await;
        let waited = soon("the wait", waiting).await.unwrap();
        assert!(matches!(waited, Err(Error::NotFound(_))), "{waited:?}");
        pod.end().await;
    });
}

#[test]
fn a_create_under_an_id_that_is_taken_elsewhere_does_not_touch_the_other_one() {
    run(async {
        let pod = Pod::start().await;
        let init = pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let other = testkit::scratch();
        let address = Bootstrap::start(&binary(), other.path(), "test", "other", other.path()).unwrap();
        let shim = Shim::connect(&address).await.unwrap();
        let options = SandboxOptions { pea_root: Some(pod.dir.path().join("pea")), ..Default::default() };
        shim.create_sandbox("other", other.path(), None, &options).await.unwrap();
        let bundle = other.path().join("task");
        fs::create_dir(&bundle).unwrap();
        fs::copy(pod.bundle("c").join("config.json"), bundle.join("config.json")).unwrap();
        let id = pod.container_id("c");
        let made = shim.create(&CreateTask { id: id.clone(), bundle: bundle.clone(), ..Default::default() }).await;
        assert!(matches!(made, Err(Error::AlreadyExists(_))), "{made:?}");
        delete(&binary(), &bundle, "test", &id).unwrap();
        assert!(alive(init), "the other pod's container was cleared away");
        shim.stop_sandbox("other", Duration::ZERO).await.unwrap();
        shim.shutdown_sandbox("other").await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_pod_that_was_stopped_takes_no_new_containers() {
    run(async {
        let pod = Pod::start().await;
        pod.shim.stop_sandbox(&pod.id, Duration::ZERO).await.unwrap();
        let made = pod.create("late", &["true"], Stdio::default()).await;
        assert!(matches!(made, Err(Error::FailedPrecondition(_))), "{made:?}");
        pod.end().await;
    });
}

#[test]
fn a_pod_that_is_being_stopped_takes_no_new_containers() {
    run(async {
        let pod = Pod::start().await;
        let gate = pod.dir.path().join("gate");
        let change = |config: &mut serde_json::Value| config["hooks"]["poststart"] = gated(&gate);
        let init = pod.create_with("slow", &["sleep", "1000"], Stdio::default(), change).await.unwrap();
        let id = pod.container_id("slow");
        let starting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), id.clone());
            async move { shim.start(&id, None).await }
        });
        pod.shim.state(&id, None).await.unwrap();
        let words = gate.display().to_string();
        support::eventually("its hook waits", || {
            !support::processes(|line| line.join(" ").contains(&words)).is_empty()
        });
        // The end of this container is told with that of its start, and the stop waits for it.
        let stopping = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), pod.id.clone());
            async move { shim.stop_sandbox(&id, Duration::ZERO).await }
        });
        pod.shim.state(&id, None).await.unwrap();
        support::eventually("the stop is under way", || !alive(init));
        let made = pod.create("late", &["sleep", "1000"], Stdio::default()).await;
        assert!(matches!(&made, Err(Error::FailedPrecondition(why)) if why.contains("being stopped")), "{made:?}");
        assert!(!stopping.is_finished(), "too late to see anything");
        fs::write(&gate, "").unwrap();
        stopping.await.unwrap().unwrap();
        let _ = starting.await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_start_hook_that_hangs_holds_up_its_own_container_only_and_ends_with_it() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("other", &["sleep", "1000"], Stdio::default()).await;
        let hook = serde_json::json!({"poststart": [{"path": "/bin/sleep", "args": ["sleep", "86397"]}]});
        let change = |config: &mut serde_json::Value| config["hooks"] = hook;
        pod.create_with("stuck", &["sleep", "1000"], Stdio::default(), change).await.unwrap();
        let id = pod.container_id("stuck");
        let hooks = || support::processes(|words| words.iter().any(|word| word == "86397"));
        let starting = pod.shim.start(&id, None);
        let meanwhile = async {
            while hooks().is_empty() {
                soon("state", pod.shim.state(&pod.container_id("other"), None)).await.unwrap();
            }
            soon("kill", pod.shim.kill(&id, None, libc::SIGKILL as u32, true)).await.unwrap();
            assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 137);
        };
        let (started, ()) = tokio::join!(starting, meanwhile);
        assert!(started.unwrap_err().to_string().contains("killed"));
        support::eventually("the hook has ended with the start", || hooks().is_empty());
        pod.finish("stuck").await;
        pod.end().await;
    });
}

#[test]
fn the_end_of_a_container_does_not_wait_for_an_exec_that_is_not_up_yet() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let id = pod.container_id("c");
        // A logger that never says it is ready is waited for, ten seconds long.
        let logger = program(&pod, "logger", "exec sleep 1000");
        let stdio = Stdio { stdout: format!("binary-v2://{}", logger.display()), ..Stdio::default() };
        pod.shim.exec(&id, "e", &process(&["true"]), &stdio).await.unwrap();
        let starting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), id.clone());
            async move { shim.start(&id, Some("e")).await }
        });
        let children = format!("/proc/{0}/task/{0}/children", pod.shim_pid);
        while fs::read_to_string(&children).unwrap().split_whitespace().count() < 2 {
            pod.shim.state(&id, None).await.unwrap();
        }
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        assert_eq!(soon("the end", pod.shim.wait(&id, None)).await.unwrap().status, 137);
        assert!(starting.await.unwrap().is_err());
        pod.end().await;
    });
}

#[test]
fn a_delete_that_takes_its_time_holds_nobody_up() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("other", &["sleep", "1000"], Stdio::default()).await;
        let gate = pod.dir.path().join("gate");
        let change = |config: &mut serde_json::Value| config["hooks"]["poststop"] = gated(&gate);
        pod.create_with("slow", &["true"], Stdio::default(), change).await.unwrap();
        let id = pod.container_id("slow");
        pod.shim.start(&id, None).await.unwrap();
        pod.shim.wait(&id, None).await.unwrap();
        let deleting = pod.shim.delete(&id, None);
        let meanwhile = async {
            for _ in 0..100 {
                soon("state", pod.shim.state(&pod.container_id("other"), None)).await.unwrap();
            }
            fs::write(&gate, "").unwrap();
        };
        let (deleted, ()) = tokio::join!(deleting, meanwhile);
        deleted.unwrap();
        pod.end().await;
    });
}

#[test]
fn containers_that_come_and_go_leave_the_shim_as_it_was() {
    run(async {
        let pod = Pod::start().await;
        let round = async |n: u32| {
            let name = format!("c{n}");
            pod.start_container(&name, &["true"], pod.log("c").0).await;
            pod.finish(&name).await;
            assert!(pod.create(&format!("f{n}"), &["/no/such/program"], pod.log("f").0).await.is_err());
        };
        round(0).await;
        let files = open_files(pod.shim_pid);
        for n in 1..=20 {
            round(n).await;
        }
        assert_eq!(open_files(pod.shim_pid), files);
        assert_eq!(status_field(pod.shim_pid, "Threads"), "1");
        let children = format!("/proc/{0}/task/{0}/children", pod.shim_pid);
        support::eventually("no child is left", || fs::read_to_string(&children).unwrap().trim().is_empty());
        pod.end().await;
    });
}

#[test]
fn a_shim_at_its_end_takes_nothing_in_and_leaves_its_successor_alone() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("c", &["true"], Stdio::default()).await;
        pod.finish("c").await;
        let dir = testkit::scratch();
        for part in ["first", "second", "task", "task/rootfs"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        // A containerd that hangs: it accepts and never answers, so the last events keep the shim for a while.
        let events = dir.path().join("events");
        let _hung = std::os::unix::net::UnixListener::bind(&events).unwrap();
        let address = start_with_events(&dir.path().join("first"), "same", dir.path(), &events);
        let shim = Shim::connect(&address).await.unwrap();
        let old = shim.connect_task("nobody").await.unwrap().0;
        let options = SandboxOptions { pea_root: Some(dir.path().join("pea")), ..Default::default() };
        shim.create_sandbox("same", dir.path(), None, &options).await.unwrap();
        fs::copy(pod.bundle("c").join("config.json"), dir.path().join("task/config.json")).unwrap();
        let rootfs = Mount {
            kind: "bind".into(),
            source: pod.dir.path().join("busybox").display().to_string(),
            options: vec!["rbind".into(), "ro".into()],
        };
        let (id, bundle) = ("c".to_owned(), dir.path().join("task"));
        let task = CreateTask { id, bundle, rootfs: vec![rootfs], ..Default::default() };
        shim.create(&task).await.unwrap();
        shim.shutdown_sandbox("same").await.unwrap();

        let late = shim.create(&task).await;
        assert!(matches!(late, Err(Error::FailedPrecondition(_))), "{late:?}");
        let socket = Path::new(address.strip_prefix("unix://").unwrap());
        support::eventually("the socket is gone", || !socket.exists());
        assert!(alive(old), "too late to see anything: the shim is gone already");
        assert_eq!(start_with_events(&dir.path().join("second"), "same", dir.path(), &events), address);
        support::eventually("the old shim has ended", || !alive(old));
        let successor = Shim::connect(&address).await.unwrap();
        successor.shutdown_sandbox("same").await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_cgroup_parent_that_holds_more_than_the_pod_is_refused() {
    run(async {
        let dir = testkit::scratch();
        let address = Bootstrap::start(&binary(), dir.path(), "test", "root", dir.path()).unwrap();
        let shim = Shim::connect(&address).await.unwrap();
        for parent in ["/", "", "relative", "/a/../.."] {
            let options = SandboxOptions { cgroup_parent: Some(parent.into()), ..Default::default() };
            let made = shim.create_sandbox("root", dir.path(), None, &options).await;
            assert!(matches!(made, Err(Error::InvalidArgument(_))), "{parent:?}: {made:?}");
        }
        shim.shutdown_sandbox("root").await.unwrap();
    });
}

#[test]
fn of_two_creations_of_one_id_one_is_refused_and_the_other_not_hurt() {
    run(async {
        let pod = Pod::start().await;
        let (id, bundle) = (pod.container_id("c"), pod.bundle("c"));
        let rootfs = pod.prepare("c", &["sleep", "1000"], false, |_| {});
        let task = CreateTask { id: id.clone(), bundle, rootfs, ..Default::default() };
        let (one, two) = tokio::join!(pod.shim.create(&task), pod.shim.create(&task));
        let (made, refused) = if one.is_ok() { (one, two) } else { (two, one) };
        assert!(matches!(refused, Err(Error::AlreadyExists(_))), "{refused:?}");
        assert_eq!(pod.shim.start(&id, None).await.unwrap(), made.unwrap());
        assert_eq!(fs::read_dir(pod.dir.path().join("pea")).unwrap().count(), 1, "not where the sandbox says");
        pod.end().await;
    });
}

/// A hook that ends when the gate is there, and not later than the directory that it is in.
fn gated(gate: &Path) -> serde_json::Value {
    let (directory, gate) = (gate.parent().unwrap().display(), gate.display());
    let wait = format!("while [ -d {directory} ] && ! [ -e {gate} ]; do sleep 0.01; done");
    serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", wait], "env": ["PATH=/bin"]}])
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_create_leaves_it_whole() {
    run(async {
        let pod = Pod::start().await;
        let gate = pod.dir.path().join("gate");
        let change = |config: &mut serde_json::Value| config["hooks"]["createRuntime"] = gated(&gate);
        let rootfs = pod.prepare("c", &["sleep", "1000"], false, change);
        let task = CreateTask { id: pod.container_id("c"), bundle: pod.bundle("c"), rootfs, ..Default::default() };
        let hasty = Shim::connect(&pod.address).await.unwrap();
        let id = task.id.clone();
        let create = tokio::time::timeout(Duration::from_millis(300), hasty.create(&task)).await;
        assert!(create.is_err(), "created before its hook ended: {create:?}");
        drop(hasty);
        // The connection is closed in the kernel, but the shim has to see it: its next answers come after that.
        for _ in 0..10 {
            assert_eq!(pod.shim.state(&id, None).await.unwrap().pid, 0);
        }
        fs::write(&gate, "").unwrap();
        let end = std::time::Instant::now() + support::DEADLINE;
        while pod.shim.state(&id, None).await.unwrap().pid == 0 {
            assert!(std::time::Instant::now() < end, "the container stays half-made");
        }
        assert!(pod.shim.start(&id, None).await.is_ok());
        pod.end().await;
    });
}

/// The delete of a container, held up by a hook.
struct HeldDelete {
    /// The container's id.
    id: String,
    /// The hook waits for this file.
    gate: PathBuf,
    /// The process that does the work for the shim.
    helper: u32,
    answer: tokio::task::JoinHandle<Result<Exit, Error>>,
}

impl HeldDelete {
    /// Of a container that has ended, the only one of the pod.
    async fn begin(pod: &Pod) -> Self {
        let gate = pod.dir.path().join("gate");
        let change = |config: &mut serde_json::Value| config["hooks"]["poststop"] = gated(&gate);
        pod.create_with("c", &["true"], pod.log("c").0, change).await.unwrap();
        let id = pod.container_id("c");
        pod.shim.start(&id, None).await.unwrap();
        pod.shim.wait(&id, None).await.unwrap();
        let (shim, of) = (pod.shim.clone(), id.clone());
        let answer = tokio::spawn(async move { shim.delete(&of, None).await });
        pod.shim.state(&id, None).await.unwrap();
        Self { id, gate, helper: only_child(pod), answer }
    }
}

/// The shim's only child.
fn only_child(pod: &Pod) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", pod.shim_pid);
    let mut pids = Vec::new();
    support::eventually("there is one child", || {
        let text = fs::read_to_string(&children).unwrap();
        pids = text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()).collect();
        pids.len() == 1
    });
    pids[0]
}

#[test]
fn a_helper_has_its_pipe_and_the_lock_and_one_that_is_killed_is_a_failure_to_be_repeated() {
    run(async {
        let pod = Pod::start().await;
        let HeldDelete { id, gate, helper, answer } = HeldDelete::begin(&pod).await;
        let held = || -> Vec<String> {
            let fds = fs::read_dir(format!("/proc/{helper}/fd")).unwrap().flatten();
            fds.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect()
        };
        support::eventually("it has closed what is not its own", || held().len() <= 6);
        assert!(held().iter().any(|file| file.ends_with("shim.lock")), "{:?}", held());
        assert!(!held().iter().any(|file| file.starts_with("socket:")), "{:?}", held());
        kill(Pid::from_raw(helper as i32), Signal::SIGKILL).unwrap();
        let failed = answer.await.unwrap().unwrap_err();
        assert!(failed.to_string().contains("left no report"), "{failed}");
        fs::write(&gate, "").unwrap();
        pod.shim.delete(&id, None).await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_helper_ends_with_its_shim() {
    run(async {
        let pod = Pod::start().await;
        let HeldDelete { gate, helper, answer, .. } = HeldDelete::begin(&pod).await;
        pod.signal_shim(Signal::SIGKILL);
        support::eventually("the helper has ended", || !alive(helper));
        assert!(matches!(answer.await.unwrap(), Err(Error::Closed(_))));
        fs::write(&gate, "").unwrap();
        delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap();
        pod.nothing_left();
    });
}

/// Gives a container the capabilities with which it may look into the init of its pod, and more.
fn tracing(config: &mut serde_json::Value) {
    let all = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE"];
    let capabilities = ["bounding", "permitted", "effective"].map(|set| (set.to_owned(), all.into()));
    config["process"]["capabilities"] = capabilities.into_iter().collect::<serde_json::Map<_, _>>().into();
}

#[test]
fn a_container_that_may_trace_the_pods_init_finds_nothing_of_the_nodes_there() {
    run(async {
        let pod = Pod::with(&[Namespace::Ipc, Namespace::Pid]).await;
        let look = [
            "cat /proc/1/comm",
            "ls -A /proc/1/root/ /proc/1/cwd/ /proc/1/root/.. /proc/1/cwd/../..",
            "ls /proc/1/fd/ && echo no descriptors",
            "wc -l < /proc/1/mounts",
            "nsenter -t 1 -m /bin/true 2>/dev/null && echo entered",
            "grep -E '^(Cap(Prm|Eff)|NoNewPrivs)' /proc/1/status",
            "echo end",
        ];
        let (stdio, log) = pod.log("c");
        pod.create_with("c", &["sh", "-c", &look.join("; ")], stdio, tracing).await.unwrap();
        pod.shim.start(&pod.container_id("c"), None).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 0);
        let log = fs::read_to_string(&log).unwrap();
        let lines = log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap()).filter(|line| !line.is_empty());
        let seen: Vec<&str> = lines.filter(|line| !line.ends_with(':')).collect();
        let none = "0000000000000000";
        let rights = [format!("CapPrm:\t{none}"), format!("CapEff:\t{none}"), "NoNewPrivs:\t1".to_owned()];
        let expected =
            ["peapod-init", "no descriptors", "1"].into_iter().chain(rights.iter().map(String::as_str)).chain(["end"]);
        assert_eq!(seen, expected.collect::<Vec<_>>());
        pod.end().await;
    });
}

#[test]
fn a_container_that_may_trace_the_pods_init_cannot_keep_its_shim_from_being_ended() {
    run(async {
        let pod = Pod::with(&[Namespace::Ipc, Namespace::Pid]).await;
        // What would name another process in the shim's lock, if the init had it.
        let script = "for file in /proc/1/fd/*; do echo 1 > $file; done 2>/dev/null; exec sleep 1000";
        pod.create_with("c", &["sh", "-c", script], Stdio::default(), tracing).await.unwrap();
        let id = pod.container_id("c");
        let init = pod.shim.start(&id, None).await.unwrap();
        support::eventually("it has tried", || {
            fs::read(format!("/proc/{init}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
        });
        delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap();
        pod.nothing_left();
    });
}

#[test]
fn nobody_is_killed_for_standing_in_a_lock_that_he_does_not_hold() {
    run(async {
        let pod = Pod::start().await;
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let lock = pod.sandbox_bundle().join("shim.lock");
        let truth = fs::read(&lock).unwrap();
        fs::write(&lock, format!("{}\n", other.id())).unwrap();
        let refused = delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap_err();
        assert!(refused.to_string().contains("shim.lock"), "{refused}");
        assert!(other.try_wait().unwrap().is_none(), "somebody else was killed");
        fs::write(&lock, truth).unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        pod.end().await;
    });
}
