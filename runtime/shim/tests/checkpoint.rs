//! Containers from checkpoints: with a program that pretends to be CRIU, and with CRIU where it works.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pea_shim::client::{CreateTask, Error, Stdio, TaskStatus};
use pea_shim::sandbox::Namespace;
use serde_json::{Value, json};
use support::cri::message::Message as CriMessage;
use support::cri::{Node, serves_pauseless, version};
use support::pod::{Pod, exec_to_end, run, shell};
use support::{alive, eventually};

/// What the init's streams were called when it was dumped.
const STREAMS: [&str; 3] = ["pipe:[71]", "pipe:[72]", "pipe:[73]"];

/// `criu restore` as far as can be seen from outside: a process that outlives it, and its pid. What it does is in the images.
/// (Where it hangs, the pid is its own.)
/// Its streams are those it inherits by the names that they have in the images.
const PRETENDER: &str = r#"#!/bin/sh
for word; do case $before in --images-dir) images=$word;; --pidfile) pid=$word;; --work-dir) work=$word;; esac; before=$word; done
echo "$@" > $images/words
test ! -e $images/fails || { echo "(1) Error (x.c:7): no way" > $work/restore.log; exit 1; }
test ! -e $images/hangs || { echo $$ > $pid; exec sleep 1000; }
exec 3<&0
/bin/sh $images/program <&3 3<&- &
echo $! > $pid
"#;

/// A pod, and in it the images of a container that is this program for the shell.
async fn pod_with_images(program: &str) -> (Pod, PathBuf) {
    let pod = Pod::start().await;
    let images = pod.dir.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("program"), program).unwrap();
    fs::write(images.join("descriptors.json"), json!(STREAMS).to_string()).unwrap();
    let pretender = pod.dir.path().join("criu");
    fs::write(&pretender, PRETENDER).unwrap();
    fs::set_permissions(&pretender, fs::Permissions::from_mode(0o755)).unwrap();
    (pod, images)
}

/// Creates a container from those images.
async fn create(pod: &Pod, name: &str, stdio: Stdio, images: PathBuf) -> Result<u32, Error> {
    let (id, bundle) = (pod.container_id(name), pod.bundle(name));
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::write(bundle.join("config.json"), pod.config(name, &["sh"], stdio.terminal).to_string()).unwrap();
    let (checkpoint, criu) = (Some(images), Some(pod.dir.path().join("criu")));
    pod.shim.create(&CreateTask { id, bundle, stdio, checkpoint, criu, ..CreateTask::default() }).await
}

#[test]
fn a_container_comes_from_its_checkpoint_when_it_is_started_with_its_streams_and_its_exit() {
    run(async {
        let (pod, images) = pod_with_images("read word; echo got $word; exit 7").await;
        let (mut stdio, log) = pod.log("c");
        let input = pod.dir.path().join("input");
        nix::unistd::mkfifo(&input, nix::sys::stat::Mode::S_IRWXU).unwrap();
        stdio.stdin = input.display().to_string();
        assert_eq!(create(&pod, "c", stdio, images.clone()).await.unwrap(), 0, "there is no process yet");
        let id = pod.container_id("c");
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Created);
        assert!(!images.join("words").exists(), "restored before it was started");
        let pid = pod.shim.start(&id, None).await.unwrap();
        let state = pod.shim.state(&id, None).await.unwrap();
        assert_eq!((state.status, state.pid), (TaskStatus::Running, pid));
        assert_eq!(pod.shim.pids(&id).await.unwrap().iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
        let words = fs::read_to_string(images.join("words")).unwrap();
        for (number, name) in STREAMS.iter().enumerate() {
            assert!(words.contains(&format!("--inherit-fd fd[{number}]:{name}")), "{words}");
        }
        fs::write(input, "words\n").unwrap();
        assert_eq!(pod.finish("c").await.status, 7);
        assert!(fs::read_to_string(log).unwrap().ends_with("stdout F got words\n"));
        pod.end().await;
    });
}

#[test]
fn a_restore_that_fails_says_why_and_leaves_a_container_to_delete() {
    run(async {
        let (pod, images) = pod_with_images("exec sleep 1000").await;
        let absent = create(&pod, "c", Stdio::default(), images.join("absent")).await.unwrap_err();
        assert!(matches!(absent, Error::NotFound(_)) && absent.to_string().contains("absent"), "{absent}");
        fs::write(images.join("fails"), "").unwrap();
        create(&pod, "c", Stdio::default(), images.clone()).await.unwrap();
        let id = pod.container_id("c");
        let failed = pod.shim.start(&id, None).await.unwrap_err();
        assert!(failed.to_string().contains("criu restore failed: Error (x.c:7): no way"), "{failed}");
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Stopped);
        assert_eq!(pod.finish("c").await.status, 255);
        // The log that the message names is in the bundle, where nobody removes it before it was read.
        assert!(pod.bundle("c").join("criu/restore.log").exists());
        fs::remove_file(images.join("fails")).unwrap();
        create(&pod, "c", Stdio::default(), images).await.unwrap();
        pod.shim.start(&id, None).await.unwrap();
        pod.shim.kill(&id, None, 15, false).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 128 + 15);
        pod.end().await;
    });
}

#[test]
fn a_container_from_a_checkpoint_can_be_deleted_before_its_start_and_killed_during_it() {
    run(async {
        let (pod, images) = pod_with_images("exec sleep 1000").await;
        create(&pod, "c", Stdio::default(), images.clone()).await.unwrap();
        let id = pod.container_id("c");
        assert!(pod.shim.kill(&id, None, 15, false).await.is_err(), "a signal to nobody was delivered");
        assert_eq!(pod.shim.delete(&id, None).await.unwrap().status, 137);

        fs::write(images.join("hangs"), "").unwrap();
        create(&pod, "c", Stdio::default(), images.clone()).await.unwrap();
        let start = pod.shim.start(&id, None);
        let kill = async {
            let file = pod.dir.path().join("pea").join(&id).join("restored.pid");
            let read = || fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
            while read().is_none() {
                tokio::task::yield_now().await;
            }
            let criu = read().unwrap();
            pod.shim.kill(&id, None, 9, false).await.unwrap();
            criu
        };
        let (started, criu) = tokio::join!(start, kill);
        assert!(started.is_err(), "a killed container was started");
        assert_ne!(pod.finish("c").await.status, 0);
        eventually("CRIU has ended", || !alive(criu));
        pod.end().await;
    });
}

#[test]
fn criu_works_on_the_node_and_not_in_the_pod() {
    run(async {
        let (pod, images) = pod_with_images("exec sleep 1000").await;
        let namespaces = "for n in ipc net uts; do readlink /proc/self/ns/$n; done";
        let text = format!("#!/bin/sh\n{namespaces} > {}/$1\n", pod.dir.path().display());
        fs::write(pod.dir.path().join("criu"), PRETENDER.replace("#!/bin/sh\n", &text)).unwrap();
        create(&pod, "c", Stdio::default(), images.clone()).await.unwrap();
        let id = pod.container_id("c");
        pod.shim.start(&id, None).await.unwrap();
        // It makes no images, and nobody asks for them.
        let _ = pod.shim.checkpoint(&id, &pod.dir.path().join("dumped"), false).await;
        let of = |process: &str| -> String {
            let link = |name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap();
            ["ipc", "net", "uts"].map(|name| format!("{}\n", link(name).display())).concat()
        };
        assert_ne!(of("thread-self"), of(&pod.shim_pid.to_string()));
        for verb in ["restore", "dump"] {
            assert_eq!(fs::read_to_string(pod.dir.path().join(verb)).unwrap(), of("thread-self"), "{verb}");
        }
        pod.shim.kill(&id, None, 9, false).await.unwrap();
        pod.finish("c").await;
        pod.end().await;
    });
}

/// A CRIU that works on this kernel: `$CRIU`, or the machine's.
fn criu() -> Option<PathBuf> {
    testkit::enter_node();
    let program = std::env::var("CRIU").unwrap_or_else(|_| "criu".to_owned());
    let works = Command::new(&program).arg("check").output().is_ok_and(|done| done.status.success());
    if !works {
        testkit::skip("CRIU is not installed or does not work on this kernel (criu check; $CRIU names another)");
    }
    works.then(|| program.into())
}

/// A pod, and a container of it that can be checkpointed and restored.
struct Subject {
    pod: Pod,
    id: String,
    stdio: Stdio,
}

impl Subject {
    async fn new(namespaces: &[Namespace], criu: &Path, script: &str, stdio: impl FnOnce(&Pod) -> Stdio) -> Self {
        let pod = Pod::with(namespaces).await;
        let place = pod.dir.path().join("criu");
        fs::write(&place, format!("#!/bin/sh\nexec {} \"$@\"\n", criu.display())).unwrap();
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        let stdio = stdio(&pod);
        let bundle = pod.bundle("c");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        testkit::busybox_rootfs(&bundle.join("rootfs"));
        let subject = Self { id: pod.container_id("c"), stdio, pod };
        subject.configure(subject.pod.config("c", &["sh", "-c", script], subject.stdio.terminal));
        subject
    }

    fn configure(&self, config: Value) {
        fs::write(self.pod.bundle("c").join("config.json"), config.to_string()).unwrap();
    }

    async fn create(&self, checkpoint: Option<&Path>) -> Result<u32, Error> {
        let (id, bundle, stdio) = (self.id.clone(), self.pod.bundle("c"), self.stdio.clone());
        let (checkpoint, criu) = (checkpoint.map(Path::to_owned), Some(self.pod.dir.path().join("criu")));
        self.pod.shim.create(&CreateTask { id, bundle, stdio, checkpoint, criu, ..CreateTask::default() }).await
    }

    async fn start(&self) -> Result<u32, Error> {
        self.pod.shim.start(&self.id, None).await
    }

    /// What a counter has counted to.
    fn counted(&self) -> Option<u32> {
        fs::read_to_string(self.pod.bundle("c").join("rootfs/n")).ok().and_then(|n| n.trim().parse::<u32>().ok())
    }
}

const COUNTER: &str = "n=0; while :; do n=$((n + 1)); echo $n; echo $n > /n; sleep 0.05; done";

#[test]
fn a_counter_goes_on_where_its_checkpoint_has_left_it() {
    let Some(criu) = criu() else { return };
    for namespaces in [&[][..], &[Namespace::Ipc, Namespace::Network, Namespace::Uts]] {
        run(async {
            let mut log = PathBuf::new();
            let logged = |pod: &Pod| {
                let (stdio, file) = pod.log("c");
                log = file;
                stdio
            };
            let subject = Subject::new(namespaces, &criu, COUNTER, logged).await;
            let (pod, id) = (&subject.pod, subject.id.as_str());
            subject.create(None).await.unwrap();
            subject.start().await.unwrap();
            eventually("it counts", || subject.counted() > Some(5));
            let images = pod.dir.path().join("images");
            // As containerd's client does.
            pod.shim.pause(id).await.unwrap();
            pod.shim.checkpoint(id, &images, false).await.unwrap();
            assert_eq!(pod.shim.state(id, None).await.unwrap().status, TaskStatus::Paused);
            pod.shim.resume(id).await.unwrap();
            let before = subject.counted();
            eventually("it goes on", || subject.counted() > before);
            fs::remove_dir_all(&images).unwrap();
            pod.shim.checkpoint(id, &images, true).await.unwrap();
            assert_eq!(pod.finish("c").await.status, 137);

            let left = subject.counted();
            subject.create(Some(&images)).await.unwrap();
            assert_eq!(subject.counted(), left);
            let pid = subject.start().await.unwrap();
            eventually("it counts on", || subject.counted() > left);
            assert_eq!(exec_to_end(&pod.shim, id, "e", &shell("test -e /n"), &Stdio::default()).await, 0);
            let pids = pod.shim.pids(id).await.unwrap();
            assert!(pids.iter().any(|process| process.pid == pid), "{pids:?}");
            let of = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            for name in ["ipc", "net", "uts"] {
                assert_eq!(of(pid, name), of(pod.shim_pid, name), "it has come back somewhere else");
            }
            pod.shim.kill(id, None, 9, false).await.unwrap();
            assert_eq!(pod.finish("c").await.status, 137);
            let text = fs::read_to_string(&log).unwrap();
            let lines: Vec<u32> = text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
            assert_eq!(lines, (1..=lines.len() as u32).collect::<Vec<_>>(), "output was lost or doubled");
            assert!(lines.last() > left.as_ref(), "nothing was heard of it since");
            subject.pod.end().await;
        });
    }
}

#[test]
fn a_container_with_a_terminal_comes_back_with_a_new_one() {
    let Some(criu) = criu() else { return };
    run(async {
        let log = |pod: &Pod| pod.dir.path().join("output");
        let fifo = |pod: &Pod| pod.dir.path().join("input");
        let streams = |pod: &Pod| {
            nix::unistd::mkfifo(&fifo(pod), nix::sys::stat::Mode::S_IRWXU).unwrap();
            let stdout = format!("file://{}", log(pod).display());
            Stdio { stdin: fifo(pod).display().to_string(), stdout, terminal: true, ..Stdio::default() }
        };
        let script = "n=0; while read word; do n=$((n + 1)); echo $n:$word:$(stty size); done";
        let subject = Subject::new(&[Namespace::Ipc, Namespace::Network], &criu, script, streams).await;
        let (pod, id) = (&subject.pod, subject.id.as_str());
        let said = |words: &str| fs::read_to_string(log(pod)).is_ok_and(|text| text.contains(words));
        let images = pod.dir.path().join("images");
        subject.create(None).await.unwrap();
        subject.start().await.unwrap();
        pod.shim.resize(id, None, 100, 30).await.unwrap();
        fs::write(fifo(pod), "one\n").unwrap();
        until(|| said("1:one:30 100\r\n")).await;
        pod.shim.checkpoint(id, &images, true).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);

        subject.create(Some(&images)).await.unwrap();
        subject.start().await.unwrap();
        fs::write(fifo(pod), "two\n").unwrap();
        until(|| said("2:two:30 100\r\n")).await;
        pod.shim.resize(id, None, 90, 20).await.unwrap();
        fs::write(fifo(pod), "three\n").unwrap();
        until(|| said("3:three:20 90\r\n")).await;
        pod.shim.kill(id, None, 9, false).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);
        // Images of one without a terminal cannot be served one.
        subject.configure(pod.config("c", &["sh"], false));
        let plain = subject.create(Some(&images)).await;
        assert!(plain.is_ok(), "a create only prepares");
        let refused = subject.start().await.unwrap_err();
        assert!(refused.to_string().contains("process.terminal is not true"), "{refused}");
        assert_eq!(pod.finish("c").await.status, 255);
        subject.pod.end().await;
    });
}

/// Waits while this program's other tasks go on.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn hooks_of_the_runtime_are_told_of_a_restored_container_on_the_node() {
    let Some(criu) = criu() else { return };
    run(async {
        let all = [Namespace::Ipc, Namespace::Network, Namespace::Uts];
        let subject = Subject::new(&all, &criu, COUNTER, |pod| pod.log("c").0).await;
        let (pod, id) = (&subject.pod, subject.id.as_str());
        let images = pod.dir.path().join("images");
        subject.create(None).await.unwrap();
        subject.start().await.unwrap();
        eventually("it counts", || subject.counted() > Some(5));
        pod.shim.checkpoint(id, &images, true).await.unwrap();
        pod.finish("c").await;

        let told = pod.dir.path().join("told");
        let hook = |kind: &str| {
            // What it says of errors is the node's to hear, and not in the container's output.
            let seen = "/proc/self/ns/net /proc/self/ns/mnt /proc/self/fd/2";
            let script = format!("echo {kind} $(readlink {seen}) >> {}", told.display());
            (kind.to_owned(), json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]))
        };
        let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
        let mut config = pod.config("c", &["sh"], false);
        config["hooks"] = kinds.iter().map(|kind| hook(kind)).collect();
        subject.configure(config.clone());
        subject.create(Some(&images)).await.unwrap();
        assert!(!told.exists(), "told before it is restored");
        subject.start().await.unwrap();
        pod.shim.kill(id, None, 9, false).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);
        let link = |name: &str| fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap().display().to_string();
        let log = fs::read_link(format!("/proc/{}/fd/2", pod.shim_pid)).unwrap();
        let expected: Vec<String> = ["prestart", "createRuntime", "poststop"]
            .map(|kind| format!("{kind} {} {} {}", link("net"), link("mnt"), log.display()))
            .into();
        assert_eq!(fs::read_to_string(&told).unwrap().lines().collect::<Vec<_>>(), expected);

        config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
        subject.configure(config);
        subject.create(Some(&images)).await.unwrap();
        let refused = subject.start().await.unwrap_err().to_string();
        assert!(refused.contains("createRuntime hook failed with exit code 1: /bin/false"), "{refused}");
        assert_eq!(pod.finish("c").await.status, 255);
        subject.pod.end().await;
    });
}

/// Puts CRIU where containerd and its shims find it.
fn put_criu(dir: &std::path::Path, criu: &std::path::Path) {
    let place = dir.join("shims/criu");
    fs::write(&place, format!("#!/bin/sh\nexec {} \"$@\"\n", criu.display())).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
}

/// As kubelet does for its checkpoint API. (A container of the archive would have its image pulled from a registry first.)
#[test]
fn a_container_of_a_pod_is_checkpointed_through_cri_and_goes_on() {
    let Some(criu) = criu() else { return };
    if !serves_pauseless(&version()) {
        return testkit::skip("checkpoints through CRI need containerd 2.1");
    }
    run(async {
        let node = Node::start_with(|dir| put_criu(dir, &criu)).await;
        let pod = node.pod("counts").await;
        let count = "n=0; while :; do n=$((n + 1)); echo $n; echo $n > /n; sleep 0.05; done";
        let id = node.container(&pod, "counter", &["sh", "-c", count]).await;
        let counted = async |id: &str| node.exec(id, &["cat", "/n"]).await.1.trim().parse::<u32>().unwrap_or(0);
        node.until("it counts", async || counted(&id).await > 5).await;
        let archive = node.dir.path().join("checkpoint.tar");
        let request = CriMessage::new().text(1, &id).text(2, archive.to_str().unwrap());
        node.call("CheckpointContainer", &request).await.unwrap();
        let before = counted(&id).await;
        node.until("it goes on", async || counted(&id).await > before).await;
        let inside = testkit::output(Command::new("tar").arg("-tf").arg(&archive));
        for name in ["checkpoint/pstree.img", "checkpoint/pea-checkpoint.json", "spec.dump"] {
            assert!(inside.lines().any(|line| line == name), "{name} is not in the archive: {inside}");
        }
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn what_waits_to_be_restored_can_be_killed_and_does_not_keep_its_pod_from_stopping() {
    run(async {
        for all in [None, Some(false), Some(true)] {
            let (pod, images) = pod_with_images("sleep 1000").await;
            create(&pod, "c", Stdio::default(), images).await.unwrap();
            let id = pod.container_id("c");
            if let Some(all) = all {
                pod.shim.kill(&id, None, libc::SIGKILL as u32, all).await.unwrap();
                assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 137);
                assert!(matches!(pod.shim.start(&id, None).await, Err(Error::FailedPrecondition(_))));
            }
            pod.end().await;
        }
    });
}
