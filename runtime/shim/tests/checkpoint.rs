//! Containers from checkpoints: with a program that pretends to be CRIU, and with CRIU where it works.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use pea_shim::client::{CreateTask, Error, Stdio, TaskStatus};
use serde_json::json;
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
        let on_terminal = Stdio { terminal: true, ..Stdio::default() };
        let refused = create(&pod, "c", on_terminal, images.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("a container with a terminal cannot be restored"), "{refused}");
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

#[test]
fn a_counter_goes_on_where_its_checkpoint_has_left_it() {
    let Some(criu) = criu() else { return };
    run(async {
        let pod = Pod::with(&[]).await;
        fs::write(pod.dir.path().join("criu"), format!("#!/bin/sh\nexec {} \"$@\"\n", criu.display())).unwrap();
        fs::set_permissions(pod.dir.path().join("criu"), fs::Permissions::from_mode(0o755)).unwrap();
        let count = "n=0; while :; do n=$((n + 1)); echo $n; echo $n > /n; sleep 0.05; done";
        let (stdio, log) = pod.log("c");
        let id = pod.container_id("c");
        let images = pod.dir.path().join("images");
        let bundle = pod.bundle("c");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        testkit::busybox_rootfs(&bundle.join("rootfs"));
        fs::write(bundle.join("config.json"), pod.config("c", &["sh", "-c", count], false).to_string()).unwrap();
        let task = |checkpoint| {
            let (id, bundle, stdio) = (id.clone(), bundle.clone(), stdio.clone());
            let criu = Some(pod.dir.path().join("criu"));
            CreateTask { id, bundle, stdio, checkpoint, criu, ..CreateTask::default() }
        };
        pod.shim.create(&task(None)).await.unwrap();
        pod.shim.start(&id, None).await.unwrap();
        let counted = || fs::read_to_string(bundle.join("rootfs/n")).ok().and_then(|n| n.trim().parse::<u32>().ok());
        eventually("it counts", || counted() > Some(5));
        // As containerd's client does.
        pod.shim.pause(&id).await.unwrap();
        pod.shim.checkpoint(&id, &images, false).await.unwrap();
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Paused);
        pod.shim.resume(&id).await.unwrap();
        let before = counted();
        eventually("it goes on", || counted() > before);
        fs::remove_dir_all(&images).unwrap();
        pod.shim.checkpoint(&id, &images, true).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);

        let left = counted();
        pod.shim.create(&task(Some(images))).await.unwrap();
        assert_eq!(counted(), left);
        let pid = pod.shim.start(&id, None).await.unwrap();
        eventually("it counts on", || counted() > left);
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &shell("test -e /n"), &Stdio::default()).await, 0);
        let pids = pod.shim.pids(&id).await.unwrap();
        assert!(pids.iter().any(|process| process.pid == pid), "{pids:?}");
        pod.shim.kill(&id, None, 9, false).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);
        let text = fs::read_to_string(log).unwrap();
        let lines: Vec<u32> = text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(lines, (1..=lines.len() as u32).collect::<Vec<_>>(), "output was lost or doubled");
        pod.end().await;
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
