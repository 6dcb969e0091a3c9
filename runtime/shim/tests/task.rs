//! The verbs of the Task API that are more than create, start, wait and delete, under our own client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pea_shim::client::{Error, Stdio, TaskStatus};
use serde_json::json;
use support::pod::{Pod, exec_to_end, process, program, run, shell};
use support::wire::Heard;
use support::{alive, cgroups_named, controls, eventually, status_field};

/// What a file of the container's cgroup says, by its name in v1 and in v2.
fn cgroup_file(pod: &Pod, container: &str, names: [&str; 2]) -> String {
    let pods = cgroups_named(&pod.id);
    let files = pods.iter().flat_map(|pod| names.map(|name| pod.join(container).join(name)));
    let mut texts = files.filter_map(|file| fs::read_to_string(file).ok());
    texts.next().unwrap_or_else(|| panic!("none of {names:?} in {pods:?}")).trim().to_owned()
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        let ticks = pod.dir.path().join("busybox/ticks");
        fs::write(&ticks, "").unwrap();
        let change = |config: &mut serde_json::Value| {
            let mount = json!({"destination": "/ticks", "source": ticks, "options": ["bind"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        };
        let script = ["sh", "-c", "while :; do echo tick >> /ticks; sleep 0.01; done"];
        pod.create_with("c", &script, Stdio::default(), change).await.unwrap();
        let early = pod.shim.pause(&id).await;
        assert!(matches!(early, Err(Error::FailedPrecondition(_))), "{early:?}");
        pod.shim.start(&id, None).await.unwrap();
        let length = || fs::metadata(&ticks).unwrap().len();
        eventually("it ticks", || length() > 0);
        pod.shim.pause(&id).await.unwrap();
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Paused);
        assert_eq!(cgroup_file(&pod, "c", ["freezer.state", "cgroup.freeze"]).replace('1', "FROZEN"), "FROZEN");
        assert!(pod.shim.pause(&id).await.is_err(), "paused twice");
        let still = length();
        pod.shim.exec(&id, "e", &shell("true"), &Stdio::default()).await.unwrap();
        assert!(pod.shim.start(&id, Some("e")).await.is_err(), "an exec began in a paused container");
        assert_eq!(length(), still);
        pod.shim.resume(&id).await.unwrap();
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Running);
        eventually("it ticks again", || length() > still);
        assert!(pod.shim.resume(&id).await.is_err(), "resumed twice");
        pod.end().await;
    });
}

#[test]
fn a_paused_container_can_be_killed() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.pause(&id).await.unwrap();
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);
        pod.end().await;
    });
}

#[test]
fn a_pod_with_a_paused_container_can_be_stopped() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.pause(&pod.container_id("c")).await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_container_whose_memory_cannot_be_watched_runs_all_the_same() {
    let memory = Path::new("/sys/fs/cgroup/memory");
    if !memory.is_dir() {
        return testkit::skip("what is made to fail here is cgroup v1's");
    }
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    run(async {
        let pod = Pod::start().await;
        let cgroup = memory.join(&pod.id).join("c");
        fs::create_dir_all(&cgroup).unwrap();
        let (event_control, other) = (cgroup.join("cgroup.event_control"), pod.dir.path().join("other"));
        fs::write(&other, "").unwrap();
        mount(Some(&other), &event_control, none, MsFlags::MS_BIND, none).unwrap();
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &event_control, none, read_only, none).unwrap();
        pod.start_container("c", &["sh", "-c", "exit 6"], Stdio::default()).await;
        assert_eq!(pod.finish("c").await.status, 6);
        pod.end().await;
    });
}

#[test]
fn a_kill_for_want_of_memory_is_told_at_once_also_where_no_inotify_instance_is_left() {
    if !controls("memory") {
        return testkit::skip("there is no memory controller");
    }
    support::without_inotify();
    run(async {
        let pod = Pod::telling().await;
        let (heard, _server) = Heard::listen(&pod.dir.path().join("events")).await;
        let limit = |config: &mut serde_json::Value| {
            config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        };
        // The shell lives on, so what tells of it is not its end.
        let greedy = "(echo 1000 > /proc/self/oom_score_adj; exec tail -n 1 /dev/zero); exec sleep 1000";
        pod.create_with("c", &["sh", "-c", greedy], Stdio::default(), limit).await.unwrap();
        pod.shim.start(&pod.container_id("c"), None).await.unwrap();
        heard.until(3).await;
        assert_eq!(heard.topics()[2], "/tasks/oom");
        assert_eq!(pod.shim.state(&pod.container_id("c"), None).await.unwrap().status, TaskStatus::Running);
        pod.end().await;
    });
}

#[test]
fn a_limit_is_updated_while_the_container_runs() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let resources = serde_json::from_value(json!({"pids": {"limit": 77}})).unwrap();
        let updated = pod.shim.update(&id, &resources).await;
        if !controls("pids") {
            assert!(updated.unwrap_err().to_string().contains("no pids cgroup controller"));
            testkit::skip("updated limits want the pids controller");
            return pod.end().await;
        }
        updated.unwrap();
        assert_eq!(cgroup_file(&pod, "c", ["pids.max", "pids.max"]), "77");
        let foolish = serde_json::from_value(json!({"cpu": {"cpus": "4096"}})).unwrap();
        let refused = pod.shim.update(&id, &foolish).await.unwrap_err();
        assert!(refused.to_string().contains("cpus"), "{refused}");
        pod.end().await;
    });
}

#[test]
fn a_checkpoint_without_a_working_criu_says_so_and_the_container_goes_on() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        let init = pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        match pod.shim.checkpoint(&id, &pod.dir.path().join("images"), false).await {
            Ok(()) => assert!(pod.dir.path().join("images").is_dir()),
            Err(error) => assert!(error.to_string().contains("criu"), "{error}"),
        }
        assert!(alive(init), "the container did not outlive its checkpoint");
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Running);
        pod.end().await;
    });
}

#[test]
fn a_real_time_signal_reaches_an_exec_and_an_init() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        let script = "trap 'exit 9' 37; touch /ready; while :; do sleep 0.01; done";
        pod.start_container("c", &["sh", "-c", &script.replace("ready", "init")], Stdio::default()).await;
        pod.shim.exec(&id, "e", &shell(script), &Stdio::default()).await.unwrap();
        pod.shim.start(&id, Some("e")).await.unwrap();
        let there = |name: &str| pod.bundle("c").join("rootfs").join(name).exists();
        eventually("both have set their traps", || there("ready") && there("init"));
        for exec in [Some("e"), None] {
            pod.shim.kill(&id, exec, 37, false).await.unwrap();
            assert_eq!(pod.shim.wait(&id, exec).await.unwrap().status, 9, "{exec:?}");
            let late = pod.shim.kill(&id, exec, 37, false).await;
            assert!(matches!(late, Err(Error::NotFound(_))), "{late:?}");
        }
        let none = pod.shim.kill(&id, None, 65, false).await;
        assert!(matches!(none, Err(Error::InvalidArgument(_))), "{none:?}");
        pod.end().await;
    });
}

#[test]
fn a_signal_to_all_reaches_execs_and_what_they_have_started() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sh", "-c", "trap '' USR1; while :; do sleep 1; done"], Stdio::default()).await;
        pod.shim.exec(&id, "e", &shell("sleep 1000 & wait"), &Stdio::default()).await.unwrap();
        pod.shim.start(&id, Some("e")).await.unwrap();
        eventually("the shell of the exec waits", || {
            let sleepers = support::processes(|words| words == ["sleep", "1000", ""]);
            sleepers
                .iter()
                .any(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().contains(&pod.id))
        });
        pod.shim.kill(&id, None, libc::SIGUSR1 as u32, true).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 128 + 10);
        pod.end().await;
    });
}

fn logged_by(scheme: &str, logger: &Path, file: &Path) -> Stdio {
    let address = format!("{scheme}://{}?file={}", logger.display(), file.display());
    Stdio { stdout: address.clone(), stderr: address, ..Stdio::default() }
}

/// Whatever its scheme asks for, it says that it is ready; then it copies both streams until they end.
const LOGGER: &str = "printf r >&5; exec 5>&-\n\
    /bin/cat <&4 > $2.err &\n/bin/cat <&3 > $2.out\nwait; echo $CONTAINER_ID $CONTAINER_NAMESPACE $# $PATH > $2.who";

#[test]
fn a_logger_gets_both_streams_of_a_container_and_of_an_exec() {
    run(async {
        let pod = Pod::start().await;
        let logger = program(&pod, "logger", LOGGER);
        let read = |file: &Path, end: &str| fs::read_to_string(file.with_extension(end)).unwrap();
        for scheme in ["binary", "binary-v2"] {
            let file = pod.dir.path().join(scheme);
            let script = ["sh", "-c", "echo out; echo err >&2; seq 20000"];
            pod.start_container(scheme, &script, logged_by(scheme, &logger, &file)).await;
            pod.finish(scheme).await;
            assert!(read(&file, "out").starts_with("out\n1\n") && read(&file, "out").ends_with("\n20000\n"));
            assert_eq!(read(&file, "err"), "err\n");
            let who = read(&file, "who");
            assert!(who.starts_with(&format!("{} test 2", pod.container_id(scheme))), "{who}");
        }
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (id, file) = (pod.container_id("c"), pod.dir.path().join("exec"));
        let mut stdio = logged_by("binary", &logger, &file);
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &shell("echo out"), &stdio).await, 0);
        assert_eq!(read(&file, "out"), "out\n");
        assert!(read(&file, "who").starts_with("e test"));
        stdio.terminal = true;
        assert_eq!(exec_to_end(&pod.shim, &id, "t", &process(&["tty"]), &stdio).await, 0);
        assert_eq!(read(&file, "out"), "/dev/pts/0\r\n");
        let children = format!("/proc/{0}/task/{0}/children", pod.shim_pid);
        eventually("no logger is left", || fs::read_to_string(&children).unwrap().split_whitespace().count() == 1);
        assert_eq!(status_field(pod.shim_pid, "Threads"), "1");
        pod.end().await;
    });
}

#[test]
fn a_logger_that_fails_fails_the_create_and_is_named() {
    run(async {
        let pod = Pod::start().await;
        let file = pod.dir.path().join("file");
        let silent = program(&pod, "silent", "exec 5>&-; exec /bin/cat <&3");
        let absent = pod.dir.path().join("absent");
        for (scheme, logger) in [("binary-v2", &silent), ("binary", &absent)] {
            let made = pod.create("c", &["true"], logged_by(scheme, logger, &file)).await.unwrap_err();
            assert!(made.to_string().contains(logger.to_str().unwrap()), "{made}");
        }
        // Not being ready is no failure in the older scheme.
        pod.create("c", &["true"], logged_by("binary", &silent, &file)).await.unwrap();
        pod.end().await;
    });
}

#[test]
fn a_logger_that_does_not_end_with_its_input_is_asked_to() {
    run(async {
        let pod = Pod::start().await;
        let file = pod.dir.path().join("file");
        let lazy =
            program(&pod, "lazy", "trap 'echo asked > $2; exit' TERM; exec 5>&-; while :; do /bin/sleep 0.05; done");
        pod.start_container("c", &["true"], logged_by("binary", &lazy, &file)).await;
        let begin = Instant::now();
        pod.finish("c").await;
        assert!(begin.elapsed() < Duration::from_secs(6), "the delete waited {:?} for a logger", begin.elapsed());
        eventually("it has been asked", || fs::read_to_string(&file).is_ok_and(|text| text == "asked\n"));
        pod.end().await;
    });
}

#[test]
fn a_reader_that_has_stalled_holds_up_neither_the_exit_nor_for_long_the_delete() {
    run(async {
        let pod = Pod::start().await;
        let stdout = pod.dir.path().join("fifo").display().to_string();
        nix::unistd::mkfifo(stdout.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let script = ["sh", "-c", "seq 15000; exit 3"];
        pod.start_container("c", &script, Stdio { stdout, ..Stdio::default() }).await;
        let id = pod.container_id("c");
        let begin = Instant::now();
        assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 3);
        assert!(begin.elapsed() < Duration::from_secs(2), "the exit came after {:?}", begin.elapsed());
        let begin = Instant::now();
        pod.shim.delete(&id, None).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "the delete took {:?}", begin.elapsed());
        pod.end().await;
    });
}
