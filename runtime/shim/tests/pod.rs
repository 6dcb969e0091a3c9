//! The shim under our own client, as peapod drives it: a pod with and without processes of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::time::Duration;

use pea_shim::client::{Error, Stdio, TaskStatus};
use pea_shim::sandbox::Namespace;
use support::pod::{Pod, fifos, process, records, run};
use support::{alive, open_files, status_field};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

fn namespace(pid: u32, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().display().to_string()
}

#[test]
fn two_containers_share_the_pods_namespaces_and_nothing_else() {
    run(async {
        let pod = Pod::start().await;
        let one = pod.start_container("one", &["sleep", "1000"], Stdio::default()).await;
        let two = pod.start_container("two", &["sleep", "1000"], Stdio::default()).await;
        for shared in ["ipc", "net", "uts"] {
            assert_eq!(namespace(one, shared), namespace(two, shared), "{shared}");
            assert_eq!(namespace(one, shared), namespace(pod.pid, shared), "{shared}");
            assert_ne!(namespace(one, shared), namespace(std::process::id(), shared), "{shared}");
        }
        for own in ["mnt", "pid"] {
            assert_ne!(namespace(one, own), namespace(two, own), "{own}");
        }
        assert_eq!(pod.pid, pod.shim_pid, "the pod is its shim: no pause process");
        assert_eq!(status_field(pod.shim_pid, "Threads"), "1");
        pod.end().await;
    });
}

#[test]
fn the_pods_hostname_is_seen_inside_and_the_nodes_is_left_alone() {
    run(async {
        let before = nix::unistd::gethostname().unwrap();
        let pod = Pod::start().await;
        let (stdio, log) = pod.log("name");
        pod.start_container("name", &["hostname"], stdio).await;
        assert_eq!(pod.finish("name").await.status, 0);
        assert_eq!(records(&log), ["stdout F web"]);
        assert_eq!(nix::unistd::gethostname().unwrap(), before);
        pod.end().await;
    });
}

#[test]
fn a_shared_pid_namespace_has_a_tiny_init_that_reaps() {
    run(async {
        let pod = Pod::with(&[Namespace::Ipc, Namespace::Network, Namespace::Pid, Namespace::Uts]).await;
        assert_ne!(pod.pid, pod.shim_pid);
        assert_eq!(status_field(pod.pid, "Name"), "peapod-init");
        assert_eq!(status_field(pod.pid, "Threads"), "1");
        support::eventually("it has closed all its files", || open_files(pod.pid) == 0);
        // An orphan in the container: its parent ends at once, and so does it, a little later.
        let script = "(sh -c 'sleep 0.1' &); exec sleep 1000";
        let one = pod.start_container("one", &["sh", "-c", script], Stdio::default()).await;
        let two = pod.start_container("two", &["sleep", "1000"], Stdio::default()).await;
        assert_eq!(namespace(one, "pid"), namespace(two, "pid"));
        assert_eq!(namespace(one, "pid"), namespace(pod.pid, "pid"));
        let children = format!("/proc/{0}/task/{0}/children", pod.pid);
        support::eventually("the orphan is reaped", || fs::read_to_string(&children).unwrap().trim().is_empty());

        // The end of one container's init takes its other processes along, although they are in a common namespace.
        let id = pod.container_id("one");
        pod.shim.exec(&id, "bystander", &process(&["sleep", "1000"]), &Stdio::default()).await.unwrap();
        let bystander = pod.shim.start(&id, Some("bystander")).await.unwrap();
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 137);
        assert!(!alive(bystander), "an exec outlived its container");
        assert!(alive(two), "the other container went along");
        pod.end().await;
        assert!(!alive(two));
    });
}

#[test]
fn the_log_is_complete_when_the_container_is_deleted() {
    run(async {
        let pod = Pod::start().await;
        let (stdio, log) = pod.log("lines");
        let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; printf end";
        pod.start_container("lines", &["sh", "-c", script], stdio).await;
        assert_eq!(pod.finish("lines").await.status, 0);
        let records = records(&log);
        let expected: Vec<String> = (0..5000).map(|n| format!("stdout F line {n}")).collect();
        let stdout: Vec<&String> = records.iter().filter(|record| record.starts_with("stdout")).collect();
        assert_eq!(stdout.len(), 5001);
        assert!(expected.iter().eq(stdout.iter().take(5000).copied()));
        assert_eq!(stdout[5000], "stdout F end");
        assert!(records.contains(&"stderr F oops".to_owned()));
        pod.end().await;
    });
}

#[test]
fn a_plain_file_gets_the_bytes_as_they_are() {
    run(async {
        let pod = Pod::start().await;
        let file = pod.dir.path().join("raw");
        fs::write(&file, "before\n").unwrap();
        let stdout = format!("file://{}", file.display());
        pod.start_container("raw", &["printf", "a\\000b"], Stdio { stdout, ..Stdio::default() }).await;
        pod.finish("raw").await;
        assert_eq!(fs::read(&file).unwrap(), b"before\na\0b");
        pod.end().await;
    });
}

#[test]
fn exit_codes_and_signals_are_told_apart_to_every_waiter_before_and_after() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("exits");
        pod.create("exits", &["sh", "-c", "exit 33"], Stdio::default()).await.unwrap();
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                let (shim, id) = (pod.shim.clone(), id.clone());
                tokio::spawn(async move { shim.wait(&id, None).await.unwrap() })
            })
            .collect();
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Created);
        pod.shim.start(&id, None).await.unwrap();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap().status, 33);
        }
        let state = pod.shim.state(&id, None).await.unwrap();
        assert_eq!((state.status, state.exit.unwrap().status), (TaskStatus::Stopped, 33));
        assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 33);
        let late = pod.shim.kill(&id, None, libc::SIGTERM as u32, false).await;
        assert!(matches!(late, Err(Error::NotFound(_))), "{late:?}");
        pod.finish("exits").await;
        assert!(matches!(pod.shim.state(&id, None).await, Err(Error::NotFound(_))));

        pod.start_container("killed", &["sleep", "1000"], Stdio::default()).await;
        let id = pod.container_id("killed");
        pod.shim.kill(&id, None, libc::SIGKILL as u32, true).await.unwrap();
        assert_eq!(pod.finish("killed").await.status, 128 + 9);
        pod.end().await;
    });
}

#[test]
fn a_real_time_signal_and_a_wrong_one_do_no_harm() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.exec(&id, "e", &process(&["sleep", "1000"]), &Stdio::default()).await.unwrap();
        pod.shim.start(&id, Some("e")).await.unwrap();
        let wrong = pod.shim.kill(&id, Some("e"), 4711, false).await;
        assert!(matches!(wrong, Err(Error::InvalidArgument(_))), "{wrong:?}");
        pod.shim.kill(&id, Some("e"), 34, false).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 128 + 34);
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Running);
        pod.end().await;
    });
}

#[test]
fn what_the_state_forbids_is_refused() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let again = pod.create("c", &["true"], Stdio::default()).await;
        assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
        assert!(matches!(pod.shim.start(&id, None).await, Err(Error::FailedPrecondition(_))));
        assert!(matches!(pod.shim.delete(&id, None).await, Err(Error::FailedPrecondition(_))));
        assert!(matches!(pod.shim.state("nobody", None).await, Err(Error::NotFound(_))));
        assert!(matches!(pod.shim.start(&id, Some("nothing")).await, Err(Error::NotFound(_))));
        assert!(alive(pod.shim.connect_task(&id).await.unwrap().1), "the refused second create hurt the first");
        pod.end().await;
    });
}

#[test]
fn a_create_that_fails_is_undone_and_the_id_is_free_again() {
    run(async {
        let pod = Pod::start().await;
        let failed = pod.create("c", &["/no/such/program"], Stdio::default()).await;
        assert!(failed.unwrap_err().to_string().contains("/no/such/program"));
        assert_eq!(support::mounts_below(pod.dir.path()), Vec::<String>::new());
        assert_eq!(fs::read_dir(pod.dir.path().join("pea")).unwrap().count(), 0);
        pod.start_container("c", &["true"], Stdio::default()).await;
        assert_eq!(pod.finish("c").await.status, 0);
        pod.end().await;
    });
}

/// As containerd does when the machine is busy: it opens its FIFOs beside the start, and a short command is quicker.
#[test]
fn a_reader_that_comes_after_the_end_gets_all_and_sees_the_end() {
    run(async {
        let pod = Pod::start().await;
        for name in ["before-the-delete", "during-the-delete"] {
            let stdout = fifos(&pod, &[name]).remove(0);
            pod.start_container(name, &["echo", "words"], Stdio { stdout: stdout.clone(), ..Stdio::default() }).await;
            let id = pod.container_id(name);
            assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 0);
            let mut delete = std::pin::pin!(pod.shim.delete(&id, None));
            if name == "during-the-delete" {
                let early = tokio::time::timeout(Duration::from_millis(200), &mut delete).await;
                assert!(early.is_err(), "deleted before anybody could have read its output: {early:?}");
            }
            let reader = std::thread::spawn(move || fs::read_to_string(stdout).unwrap());
            let begin = std::time::Instant::now();
            support::eventually("the reader has seen the end", || reader.is_finished());
            assert_eq!(reader.join().unwrap(), "words\n", "{name}");
            delete.await.unwrap();
            assert!(begin.elapsed() < Duration::from_secs(1), "{name}: the delete has missed the reader");
        }
        pod.end().await;
    });
}

/// Clients differ in what comes first after the end: the rest of the output, or the delete.
#[test]
fn output_still_under_way_at_the_end_waits_for_a_slow_reader() {
    run(async {
        let pod = Pod::start().await;
        let whole = b"0123456789\n".repeat(200_000);
        for (name, delete_first) in [("delete-first", true), ("read-first", false)] {
            let stdout = fifos(&pod, &[name]).remove(0);
            let mut reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
            let script = ["sh", "-c", "yes 0123456789 | head -n 200000"];
            pod.start_container(name, &script, Stdio { stdout, ..Stdio::default() }).await;
            // More is left than the FIFO holds, less than the FIFO and the process's pipe hold.
            let mut seen = vec![0; whole.len() - 120_000];
            reader.read_exact(&mut seen).await.unwrap();
            let id = pod.container_id(name);
            assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 0);
            let mut delete = std::pin::pin!(pod.shim.delete(&id, None));
            if delete_first {
                let early = tokio::time::timeout(Duration::from_millis(300), &mut delete).await;
                assert!(early.is_err(), "deleted before its output was handed on: {early:?}");
                let (deleted, read) = tokio::join!(delete, reader.read_to_end(&mut seen));
                deleted.unwrap();
                read.unwrap();
            } else {
                reader.read_to_end(&mut seen).await.unwrap();
                delete.await.unwrap();
            }
            assert!(seen == whole, "{name}: {} of {} bytes", seen.len(), whole.len());
        }
        pod.end().await;
    });
}

#[test]
fn a_create_that_hangs_holds_nobody_up_and_can_be_killed() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("other", &["sleep", "1000"], Stdio::default()).await;
        let (shim, id) = (pod.shim.clone(), pod.container_id("stuck"));
        let hook = serde_json::json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "86399"]}]});
        let creating = pod.create_with("stuck", &["true"], Stdio::default(), |config| config["hooks"] = hook);
        let meanwhile = async {
            loop {
                match shim.state(&id, None).await {
                    Ok(state) => break assert_eq!((state.status, state.pid), (TaskStatus::Created, 0)),
                    Err(Error::NotFound(_)) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
            let other = pod.container_id("other");
            shim.exec(&other, "e", &process(&["true"]), &Stdio::default()).await.unwrap();
            shim.start(&other, Some("e")).await.unwrap();
            assert_eq!(shim.wait(&other, Some("e")).await.unwrap().status, 0);
            shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        };
        let (created, ()) = tokio::join!(creating, meanwhile);
        assert!(created.unwrap_err().to_string().contains("killed"));
        assert!(matches!(pod.shim.state(&pod.container_id("stuck"), None).await, Err(Error::NotFound(_))));
        let hooks = || support::processes(|words| words.iter().any(|word| word == "86399"));
        support::eventually("the hook has ended with the create", || hooks().is_empty());
        pod.end().await;
    });
}

#[test]
fn waiting_for_the_sandbox_ends_with_its_stop() {
    run(async {
        let pod = Pod::start().await;
        let waiting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), pod.id.clone());
            async move { shim.wait_sandbox(&id).await }
        });
        let one = pod.start_container("one", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.stop_sandbox(&pod.id, Duration::ZERO).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().status, 0);
        assert!(!alive(one));
        assert_eq!(pod.shim.wait(&pod.container_id("one"), None).await.unwrap().status, 137);
        pod.end().await;
    });
}
