//! Processes executed in a container: with streams and terminals, many at once, and what is left of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use pea_shim::client::{Error, Stdio};
use support::pod::{Pod, exec_to_end, fifos, process, records, run, shell};
use support::{open_files, status_field};

#[test]
fn an_exec_over_fifos_reads_writes_and_ends_with_its_input() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let fifos = fifos(&pod, &["in", "out"]);
        let stdio = Stdio { stdin: fifos[0].clone(), stdout: fifos[1].clone(), ..Stdio::default() };
        pod.shim.exec(&id, "e", &shell("cat; echo end"), &stdio).await.unwrap();
        // Nobody has opened the FIFOs yet: neither the start nor the process may hang or fail for it.
        pod.shim.start(&id, Some("e")).await.unwrap();
        let reader = std::thread::spawn({
            let path = fifos[1].clone();
            move || fs::read_to_string(path).unwrap()
        });
        fs::write(&fifos[0], "words\n").unwrap();
        pod.shim.close_io(&id, Some("e")).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 0);
        pod.shim.delete(&id, Some("e")).await.unwrap();
        support::eventually("the reader has seen the end of the output", || reader.is_finished());
        assert_eq!(reader.join().unwrap(), "words\nend\n");
        pod.end().await;
    });
}

#[test]
fn a_terminal_has_the_size_it_is_given() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (mut stdio, log) = pod.log("tty");
        stdio.terminal = true;
        pod.shim
            .exec(
                &id,
                "e",
                &shell("tty; while ! stty size 2>/dev/null | grep -q '40 100'; do :; done; echo seen"),
                &stdio,
            )
            .await
            .unwrap();
        pod.shim.start(&id, Some("e")).await.unwrap();
        pod.shim.resize(&id, Some("e"), 100, 40).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 0);
        pod.shim.delete(&id, Some("e")).await.unwrap();
        // A terminal ends its lines with CR LF, of which the record's end is one.
        assert_eq!(records(&log), ["stdout F /dev/pts/0", "stdout F seen"]);
        let none = pod.shim.resize(&id, None, 1, 1).await;
        assert!(matches!(none, Err(Error::FailedPrecondition(_))), "{none:?}");
        pod.end().await;
    });
}

#[test]
fn what_a_short_lived_process_says_on_its_terminal_is_not_lost() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (mut stdio, log) = pod.log("tty");
        stdio.terminal = true;
        for n in 0..50 {
            let name = format!("e{n}");
            exec_to_end(&pod.shim, &id, &name, &process(&["tty"]), &stdio).await;
        }
        assert_eq!(records(&log), vec!["stdout F /dev/pts/0"; 50]);
        pod.end().await;
    });
}

#[test]
fn a_hundred_execs_leak_neither_descriptors_nor_threads_nor_zombies() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let exec = async |n: u32| {
            let (stdio, _) = pod.log("execs");
            let name = format!("e{n}");
            let script = shell(&format!("echo {n}; exit {n}"));
            assert_eq!(exec_to_end(&pod.shim, &id, &name, &script, &stdio).await, n);
        };
        exec(0).await;
        let files = open_files(pod.shim_pid);
        for n in 1..=100 {
            exec(n).await;
        }
        assert_eq!(open_files(pod.shim_pid), files);
        assert_eq!(status_field(pod.shim_pid, "Threads"), "1");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.shim_pid)).unwrap();
        assert_eq!(children.split_whitespace().count(), 1, "more than the container's init is the shim's child");
        assert_eq!(records(&pod.log("execs").1).len(), 101);
        let processes = pod.shim.pids(&id).await.unwrap();
        assert_eq!(processes.len(), 1, "{processes:?}");
        pod.end().await;
    });
}

#[test]
fn execs_side_by_side_end_each_with_its_own_status() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let execs = (0..20u32).map(|n| {
            let (shim, id, name) = (pod.shim.clone(), id.clone(), format!("e{n}"));
            tokio::spawn(async move {
                exec_to_end(&shim, &id, &name, &shell(&format!("exit {n}")), &Stdio::default()).await
            })
        });
        for (n, exec) in execs.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(exec.await.unwrap() as usize, n);
        }
        pod.end().await;
    });
}

#[test]
fn an_exec_is_named_among_the_processes() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        let init = pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.exec(&id, "e", &process(&["sleep", "1000"]), &Stdio::default()).await.unwrap();
        let exec = pod.shim.start(&id, Some("e")).await.unwrap();
        let mut processes = pod.shim.pids(&id).await.unwrap();
        processes.sort_by_key(|process| process.exec_id.is_some());
        let expected = [(init, None), (exec, Some("e".to_owned()))];
        assert!(processes.into_iter().map(|process| (process.pid, process.exec_id)).eq(expected));
        pod.end().await;
    });
}

#[test]
fn an_orphan_of_a_container_does_not_stay_a_zombie_of_the_shim() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        // The exec ends before what it has started: the orphan goes to the container's init, a sleep, which never reaps.
        let orphan = shell("sleep 0.1 & exit 0");
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &orphan, &Stdio::default()).await, 0);
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        pod.finish("c").await;
        let children = format!("/proc/{0}/task/{0}/children", pod.shim_pid);
        support::eventually("no child is left", || fs::read_to_string(&children).unwrap().trim().is_empty());
        pod.end().await;
    });
}
