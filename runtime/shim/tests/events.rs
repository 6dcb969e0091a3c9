//! Events as containerd hears them: what they say, their order, and those it does not take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use containerd_shim_protos::api;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::Message;
use pea_shim::client::{Error, Stdio};
use support::pod::{Pod, process, run, shell};
use support::wire::{Heard, about, create, exec, now, tasks};

#[test]
fn events_say_what_has_happened_to_whom_and_when() {
    run(async {
        let pod = Pod::telling().await;
        let (heard, _server) = Heard::listen(&pod.dir.path().join("events")).await;
        let task = tasks(&pod).await;
        let (stdio, _) = pod.log("log");
        let request = create(&pod, "c", &["sleep", "1000"], stdio, |_| {});
        let id = pod.container_id("c");
        let pid = task.create(now(), &request).await.unwrap().pid;
        task.start(now(), &about!(StartRequest, id)).await.unwrap();
        task.pause(now(), &about!(PauseRequest, id)).await.unwrap();
        task.resume(now(), &about!(ResumeRequest, id)).await.unwrap();
        task.exec(now(), &exec(&id, "e", &["sh", "-c", "exit 3"])).await.unwrap();
        let exec_pid = task.start(now(), &about!(StartRequest, id, "e")).await.unwrap().pid;
        let ended = task.wait(now(), &about!(WaitRequest, id, "e")).await.unwrap();
        task.delete(now(), &about!(DeleteRequest, id, "e")).await.unwrap();
        task.kill(now(), &api::KillRequest { signal: 9, ..about!(KillRequest, id) }).await.unwrap();
        let killed = task.wait(now(), &about!(WaitRequest, id)).await.unwrap();
        task.delete(now(), &about!(DeleteRequest, id)).await.unwrap();

        let events = heard.until(9).await;
        for envelope in &events {
            assert_eq!(envelope.namespace, "test");
            assert!(envelope.timestamp.seconds > 0);
        }
        let mut events = events.into_iter().map(|envelope| (envelope.topic, envelope.event.unwrap()));
        let mut next = |topic: &str, kind: &str| {
            let (told, any) = events.next().unwrap();
            assert_eq!((told.as_str(), any.type_url.as_str()), (topic, kind));
            any.value
        };
        let created = next("/tasks/create", "containerd.events.TaskCreate");
        let created = event::TaskCreate::parse_from_bytes(&created).unwrap();
        assert_eq!((created.container_id, created.bundle, created.pid), (id.clone(), request.bundle, pid));
        assert_eq!((created.io.stdout.clone(), created.rootfs), (request.stdout, request.rootfs));
        let started = event::TaskStart::parse_from_bytes(&next("/tasks/start", "containerd.events.TaskStart")).unwrap();
        assert_eq!((started.container_id, started.pid), (id.clone(), pid));
        let paused = next("/tasks/paused", "containerd.events.TaskPaused");
        assert_eq!(event::TaskPaused::parse_from_bytes(&paused).unwrap().container_id, id);
        let resumed = next("/tasks/resumed", "containerd.events.TaskResumed");
        assert_eq!(event::TaskResumed::parse_from_bytes(&resumed).unwrap().container_id, id);
        let added = next("/tasks/exec-added", "containerd.events.TaskExecAdded");
        let added = event::TaskExecAdded::parse_from_bytes(&added).unwrap();
        assert_eq!((added.container_id, added.exec_id), (id.clone(), "e".to_owned()));
        let started = next("/tasks/exec-started", "containerd.events.TaskExecStarted");
        let started = event::TaskExecStarted::parse_from_bytes(&started).unwrap();
        assert_eq!((started.container_id, started.exec_id, started.pid), (id.clone(), "e".to_owned(), exec_pid));
        // The end of an exec has its id, the end of an init the container's; a delete is told of an init alone.
        for (of, pid, status, at) in [("e", exec_pid, 3, ended.exited_at), (&id, pid, 137, killed.exited_at.clone())] {
            let exit = event::TaskExit::parse_from_bytes(&next("/tasks/exit", "containerd.events.TaskExit")).unwrap();
            assert_eq!((exit.container_id.as_str(), exit.id.as_str()), (id.as_str(), of));
            assert_eq!((exit.pid, exit.exit_status, exit.exited_at), (pid, status, at));
        }
        let deleted = next("/tasks/delete", "containerd.events.TaskDelete");
        let deleted = event::TaskDelete::parse_from_bytes(&deleted).unwrap();
        assert_eq!((deleted.container_id, deleted.pid, deleted.exit_status), (id, pid, 137));
        assert_eq!((deleted.id.as_str(), deleted.exited_at), ("", killed.exited_at));
        pod.end().await;
    });
}

#[test]
fn an_exec_that_cannot_start_says_why_and_ends_for_whoever_waits() {
    run(async {
        let pod = Pod::telling().await;
        let (heard, _server) = Heard::listen(&pod.dir.path().join("events")).await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        pod.shim.exec(&id, "e", &process(&["/no/such/program"]), &Stdio::default()).await.unwrap();
        let waiting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), id.clone());
            async move { shim.wait(&id, Some("e")).await }
        });
        let refused = pod.shim.start(&id, Some("e")).await;
        assert!(matches!(&refused, Err(Error::NotFound(why)) if why.contains("/no/such/program")), "{refused:?}");
        assert_eq!(waiting.await.unwrap().unwrap().status, 255);
        let again = pod.shim.start(&id, Some("e")).await;
        assert!(matches!(again, Err(Error::FailedPrecondition(_))), "{again:?}");
        pod.shim.delete(&id, Some("e")).await.unwrap();
        // Its id is free again, and what follows tells nothing of the failure.
        pod.shim.exec(&id, "e", &shell("exit 2"), &Stdio::default()).await.unwrap();
        pod.shim.start(&id, Some("e")).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 2);
        pod.shim.delete(&id, Some("e")).await.unwrap();
        heard.until(6).await;
        let names = ["create", "start", "exec-added", "exec-added", "exec-started", "exit"]
            .map(|name| format!("/tasks/{name}"));
        assert_eq!(heard.topics(), names);
        pod.end().await;
    });
}

#[test]
fn events_wait_in_order_for_a_containerd_that_is_away() {
    run(async {
        let pod = Pod::telling().await;
        let path = pod.dir.path().join("events");
        let (first, mut server) = Heard::listen(&path).await;
        pod.start_container("one", &["true"], Stdio::default()).await;
        pod.finish("one").await;
        first.until(4).await;
        server.shutdown().await.unwrap();
        drop(server);
        fs::remove_file(&path).unwrap();
        pod.start_container("two", &["true"], Stdio::default()).await;
        pod.finish("two").await;
        let (second, _server) = Heard::listen(&path).await;
        second.until(4).await;
        assert_eq!(second.topics(), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
        pod.end().await;
    });
}

#[test]
fn an_event_that_containerd_refuses_is_not_told_again_and_keeps_no_other() {
    run(async {
        let pod = Pod::telling().await;
        let (heard, _server) = Heard::listen(&pod.dir.path().join("events")).await;
        heard.refused.store(1, std::sync::atomic::Ordering::Relaxed);
        pod.start_container("c", &["true"], Stdio::default()).await;
        pod.finish("c").await;
        heard.until(3).await;
        assert_eq!(heard.topics(), ["/tasks/start", "/tasks/exit", "/tasks/delete"]);
        pod.end().await;
    });
}
