//! The Task API as it is on the wire: versions, codes, and requests that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::ttrpc::Code;
use containerd_shim_protos::types::task::Status;
use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use pea_shim::client::{Error, Shim, Stdio};
use support::pod::{Pod, process, run, shell};
use support::wire::{self, V2, V3, about, call, create, exec, now, refusal, tasks, toml};
use support::{alive, mounts_below};

/// The refusals of every request about that process, by the request's name.
async fn refusals(pod: &Pod, id: &str, exec_id: &str) -> Vec<(&'static str, Code)> {
    let task = tasks(pod).await;
    vec![
        ("state", refusal(task.state(now(), &about!(StateRequest, id, exec_id)).await).0),
        ("start", refusal(task.start(now(), &about!(StartRequest, id, exec_id)).await).0),
        ("delete", refusal(task.delete(now(), &about!(DeleteRequest, id, exec_id)).await).0),
        ("pids", refusal(task.pids(now(), &about!(PidsRequest, id)).await).0),
        ("pause", refusal(task.pause(now(), &about!(PauseRequest, id)).await).0),
        ("resume", refusal(task.resume(now(), &about!(ResumeRequest, id)).await).0),
        ("checkpoint", refusal(task.checkpoint(now(), &about!(CheckpointTaskRequest, id)).await).0),
        ("kill", refusal(task.kill(now(), &about!(KillRequest, id, exec_id)).await).0),
        ("exec", refusal(task.exec(now(), &wire::exec(id, "e", &["true"])).await).0),
        ("resize", refusal(task.resize_pty(now(), &about!(ResizePtyRequest, id, exec_id)).await).0),
        ("close", refusal(task.close_io(now(), &about!(CloseIORequest, id, exec_id)).await).0),
        ("update", refusal(task.update(now(), &about!(UpdateTaskRequest, id)).await).0),
        ("wait", refusal(task.wait(now(), &about!(WaitRequest, id, exec_id)).await).0),
        ("stats", refusal(task.stats(now(), &about!(StatsRequest, id)).await).0),
    ]
}

#[test]
fn both_versions_of_the_task_api_are_served_on_one_connection() {
    run(async {
        let pod = Pod::start().await;
        let client = wire::client(&pod.address).await;
        let request = create(&pod, "c", &["sh", "-c", "exit 5"], Stdio::default(), |_| {});
        let id = pod.container_id("c");
        let created: api::CreateTaskResponse = call(&client, V2, "Create", &request).await.unwrap();
        let started: api::StartResponse = call(&client, V3, "Start", &about!(StartRequest, id)).await.unwrap();
        assert_eq!(created.pid, started.pid);
        for service in [V3, V2] {
            let waited: api::WaitResponse = call(&client, service, "Wait", &about!(WaitRequest, id)).await.unwrap();
            assert_eq!(waited.exit_status, 5, "{service}");
            let state: api::StateResponse = call(&client, service, "State", &about!(StateRequest, id)).await.unwrap();
            assert_eq!(state.status.enum_value(), Ok(Status::STOPPED), "{service}");
        }
        let deleted: api::DeleteResponse = call(&client, V2, "Delete", &about!(DeleteRequest, id)).await.unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (created.pid, 5));
        pod.end().await;
    });
}

#[test]
fn the_state_of_a_process_has_all_that_it_was_asked_for() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        let (stdio, log) = pod.log("out");
        let request = create(&pod, "c", &["sleep", "1000"], stdio, |_| {});
        let id = pod.container_id("c");
        let pid = task.create(now(), &request).await.unwrap().pid;
        let state = task.state(now(), &about!(StateRequest, id)).await.unwrap();
        assert_eq!((state.id.as_str(), state.bundle.as_str(), state.pid), (id.as_str(), request.bundle.as_str(), pid));
        assert_eq!((state.stdout.as_str(), state.stderr.as_str()), (request.stdout.as_str(), request.stderr.as_str()));
        assert_eq!((state.stdin.as_str(), state.terminal, state.exec_id.as_str()), ("", false, ""));
        assert!(state.exited_at.is_none());
        task.start(now(), &about!(StartRequest, id)).await.unwrap();

        let stdin = pod.dir.path().join("in").display().to_string();
        nix::unistd::mkfifo(stdin.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut request = exec(&id, "e", &["sh", "-c", "exit 4"]);
        (request.terminal, request.stdin, request.stdout) = (true, stdin.clone(), format!("file://{}", log.display()));
        task.exec(now(), &request).await.unwrap();
        let state = task.state(now(), &about!(StateRequest, id, "e")).await.unwrap();
        assert_eq!((state.status.enum_value(), state.pid), (Ok(Status::CREATED), 0));
        task.start(now(), &about!(StartRequest, id, "e")).await.unwrap();
        let waited = task.wait(now(), &about!(WaitRequest, id, "e")).await.unwrap();
        let state = task.state(now(), &about!(StateRequest, id, "e")).await.unwrap();
        assert_eq!((state.exec_id.as_str(), state.terminal, state.stdin), ("e", true, stdin));
        assert_eq!((state.exit_status, state.exited_at.clone()), (4, waited.exited_at.clone()));
        let at = waited.exited_at.unwrap();
        let told = jiff::Timestamp::new(at.seconds, at.nanos).unwrap();
        let ago = jiff::Timestamp::now().duration_since(told);
        assert!(ago >= jiff::SignedDuration::ZERO && ago < jiff::SignedDuration::from_secs(30), "it ended {ago:?} ago");
        assert_ne!(at.nanos, 0, "a moment to the second only");
        let deleted = task.delete(now(), &about!(DeleteRequest, id, "e")).await.unwrap();
        assert_eq!((deleted.pid, deleted.exit_status, deleted.exited_at), (state.pid, 4, state.exited_at));
        let connected = task.connect(now(), &about!(ConnectRequest, id)).await.unwrap();
        assert_eq!((connected.shim_pid, connected.task_pid), (pod.shim_pid, pid));
        pod.end().await;
    });
}

#[test]
fn what_is_not_there_is_not_found_whatever_is_asked_of_it() {
    run(async {
        let pod = Pod::start().await;
        for (id, exec_id) in [("nobody", ""), ("", ""), ("../x", "e"), ("nobody", "../../e")] {
            for (name, code) in refusals(&pod, id, exec_id).await {
                assert_eq!(code, Code::NOT_FOUND, "{name} of {id:?}, {exec_id:?}");
            }
        }
        pod.start_container("c", &["true"], Stdio::default()).await;
        pod.finish("c").await;
        for (name, code) in refusals(&pod, &pod.container_id("c"), "").await {
            assert_eq!(code, Code::NOT_FOUND, "{name} of a container that was deleted");
        }
        pod.end().await;
    });
}

#[test]
fn what_the_phase_does_not_allow_is_refused_by_its_code() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        let id = pod.container_id("c");
        task.create(now(), &create(&pod, "c", &["sleep", "1000"], Stdio::default(), |_| {})).await.unwrap();
        let early = |what: &str, (code, message): (Code, String)| {
            assert_eq!(code, Code::FAILED_PRECONDITION, "{what}: {message}");
            assert!(message.contains(&id), "{what}: {message}");
        };
        early("pause", refusal(task.pause(now(), &about!(PauseRequest, id)).await));
        early("resume", refusal(task.resume(now(), &about!(ResumeRequest, id)).await));
        let images = pod.dir.path().join("images").display().to_string();
        let checkpoint = api::CheckpointTaskRequest { path: images, ..about!(CheckpointTaskRequest, id) };
        early("checkpoint", refusal(task.checkpoint(now(), &checkpoint).await));
        task.start(now(), &about!(StartRequest, id)).await.unwrap();
        early("start", refusal(task.start(now(), &about!(StartRequest, id)).await));
        early("delete", refusal(task.delete(now(), &about!(DeleteRequest, id)).await));
        task.exec(now(), &exec(&id, "e", &["sleep", "1000"])).await.unwrap();
        early("kill of an exec not started", refusal(task.kill(now(), &about!(KillRequest, id, "e")).await));
        early(
            "resize of an exec not started",
            refusal(task.resize_pty(now(), &about!(ResizePtyRequest, id, "e")).await),
        );
        task.start(now(), &about!(StartRequest, id, "e")).await.unwrap();
        early("start of an exec", refusal(task.start(now(), &about!(StartRequest, id, "e")).await));
        early("delete of an exec", refusal(task.delete(now(), &about!(DeleteRequest, id, "e")).await));

        let again = task.exec(now(), &exec(&id, "e", &["true"])).await;
        assert_eq!(refusal(again).0, Code::ALREADY_EXISTS);
        let again = task.create(now(), &create(&pod, "c", &["true"], Stdio::default(), |_| {})).await;
        assert_eq!(refusal(again).0, Code::ALREADY_EXISTS);

        task.kill(now(), &api::KillRequest { signal: 9, ..about!(KillRequest, id) }).await.unwrap();
        task.wait(now(), &about!(WaitRequest, id)).await.unwrap();
        early("exec after the end", refusal(task.exec(now(), &exec(&id, "late", &["true"])).await));
        early("pause after the end", refusal(task.pause(now(), &about!(PauseRequest, id)).await));
        for (exec_id, all) in [("", false), ("", true), ("e", false)] {
            let late =
                task.kill(now(), &api::KillRequest { signal: 15, all, ..about!(KillRequest, id, exec_id) }).await;
            let (code, message) = refusal(late);
            assert_eq!(code, Code::NOT_FOUND, "{message}");
            assert!(message.ends_with("process already finished"), "{message}");
        }
        pod.end().await;
    });
}

#[test]
fn a_request_with_something_missing_or_wrong_is_refused_and_named() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let id = pod.container_id("c");
        let wrong = |what: &str, (code, message): (Code, String), named: &str| {
            assert_eq!(code, Code::INVALID_ARGUMENT, "{what}: {message}");
            assert!(message.contains(named), "{what}: {message}");
        };
        wrong("no process", refusal(task.exec(now(), &about!(ExecProcessRequest, id, "e")).await), "process");
        wrong("no exec id", refusal(task.exec(now(), &exec(&id, "", &["true"])).await), "id");
        let mut odd = exec(&id, "odd", &["true"]);
        odd.spec.as_mut().unwrap().value = b"{\"args\": 5}".to_vec();
        wrong("an odd process", refusal(task.exec(now(), &odd).await), "process");
        wrong("no limits", refusal(task.update(now(), &about!(UpdateTaskRequest, id)).await), "resources");
        let resources = Any { value: b"5".to_vec(), ..Default::default() };
        let update = api::UpdateTaskRequest { resources: Some(resources).into(), ..about!(UpdateTaskRequest, id) };
        wrong("odd limits", refusal(task.update(now(), &update).await), "resources");
        for signal in [65, 4711, u32::MAX] {
            let kill = api::KillRequest { signal, ..about!(KillRequest, id) };
            wrong("a signal", refusal(task.kill(now(), &kill).await), "signal");
        }
        wrong("no directory", refusal(task.checkpoint(now(), &about!(CheckpointTaskRequest, id)).await), "directory");
        let mut request = create(&pod, "d", &["true"], Stdio::default(), |_| {});
        request.stdin = "file:///tmp/x".into();
        wrong("input from a file", refusal(task.create(now(), &request).await), "file:///tmp/x");
        request.stdin = String::new();
        request.stdout = "pipe:///bin/x".into();
        let (code, message) = refusal(task.create(now(), &request).await);
        assert_eq!(code, Code::UNIMPLEMENTED, "{message}");
        assert_eq!(mounts_below(&pod.bundle("d")), Vec::<String>::new());
        pod.end().await;
    });
}

#[test]
fn ids_that_are_no_names_are_refused_and_nothing_is_made_of_them() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        let long = "x".repeat(300);
        for id in ["", ".", "..", "../x", "a/b", "/", "a\0b", "ä", " ", ".hidden", long.as_str()] {
            let mut request = create(&pod, "c", &["true"], Stdio::default(), |_| {});
            request.id = id.to_owned();
            let (code, message) = refusal(task.create(now(), &request).await);
            assert_eq!(code, Code::INVALID_ARGUMENT, "{id:?}: {message}");
        }
        // The exec's id is the name of nothing.
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let id = pod.container_id("c");
        for exec_id in ["../x", "a/b", "ä", long.as_str()] {
            let status = support::pod::exec_to_end(&pod.shim, &id, exec_id, &shell("exit 3"), &Stdio::default()).await;
            assert_eq!(status, 3, "{exec_id:?}");
        }
        assert_eq!(fs::read_dir(pod.sandbox_bundle().join("tasks")).unwrap().count(), 1);
        pod.end().await;
    });
}

#[test]
fn a_bundle_that_is_none_is_refused_and_nothing_is_written_elsewhere() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        let dir = pod.dir.path();
        fs::write(dir.join("file"), "").unwrap();
        let absent = dir.join("absent").display().to_string();
        let file = dir.join("file").display().to_string();
        for (bundle, code) in [
            ("", Code::INVALID_ARGUMENT),
            ("containers/c", Code::INVALID_ARGUMENT),
            ("../tmp", Code::INVALID_ARGUMENT),
            (absent.as_str(), Code::NOT_FOUND),
            (file.as_str(), Code::INVALID_ARGUMENT),
        ] {
            let mut request = create(&pod, "c", &["true"], Stdio::default(), |_| {});
            request.bundle = bundle.to_owned();
            let (refused, message) = refusal(task.create(now(), &request).await);
            assert_eq!(refused, code, "{bundle:?}: {message}");
            assert!(message.contains(bundle), "{message}");
            assert!(!std::path::Path::new("/task.json").exists(), "{bundle:?} became the root");
            assert!(!pod.sandbox_bundle().join("tasks").exists(), "{bundle:?} has a record");
        }
        // A link to a bundle is as good as the bundle: /run is one on some machines.
        let request = create(&pod, "c", &["true"], Stdio::default(), |_| {});
        std::os::unix::fs::symlink(&request.bundle, dir.join("link")).unwrap();
        let linked = api::CreateTaskRequest { bundle: dir.join("link").display().to_string(), ..request };
        task.create(now(), &linked).await.unwrap();
        task.start(now(), &about!(StartRequest, pod.container_id("c"))).await.unwrap();
        pod.finish("c").await;
        assert_eq!(mounts_below(dir), Vec::<String>::new());
        pod.end().await;
    });
}

#[test]
fn whoever_waits_hears_of_the_end_whenever_he_asks() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let waiting = |exec: &'static str| {
            let (shim, id) = (pod.shim.clone(), id.clone());
            tokio::spawn(async move { shim.wait(&id, Some(exec)).await })
        };
        pod.shim.exec(&id, "e", &shell("exit 9"), &Stdio::default()).await.unwrap();
        // Before the start, from its very beginning on, and after the end.
        let before = waiting("e");
        pod.shim.state(&id, Some("e")).await.unwrap();
        let (started, beside) = tokio::join!(pod.shim.start(&id, Some("e")), pod.shim.wait(&id, Some("e")));
        started.unwrap();
        assert_eq!(beside.unwrap().status, 9);
        assert_eq!(before.await.unwrap().unwrap().status, 9);
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 9);
        // During the delete, of which the exec knows already, and after it.
        let (deleted, during) = tokio::join!(pod.shim.delete(&id, Some("e")), pod.shim.wait(&id, Some("e")));
        assert_eq!(deleted.unwrap().status, 9);
        assert!(matches!(&during, Ok(exit) if exit.status == 9) || matches!(during, Err(Error::NotFound(_))));
        let after = pod.shim.wait(&id, Some("e")).await;
        assert!(matches!(after, Err(Error::NotFound(_))), "{after:?}");
        // One that nobody starts, and that is deleted.
        pod.shim.exec(&id, "never", &shell("true"), &Stdio::default()).await.unwrap();
        let never = waiting("never");
        pod.shim.state(&id, Some("never")).await.unwrap();
        pod.shim.delete(&id, Some("never")).await.unwrap();
        assert!(matches!(never.await.unwrap(), Err(Error::NotFound(_))));
        pod.end().await;
    });
}

#[test]
fn a_shutdown_is_for_the_shim_that_has_nothing_to_look_after() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        task.shutdown(now(), &about!(ShutdownRequest, pod.container_id("c"))).await.unwrap();
        task.shutdown(now(), &api::ShutdownRequest { now: true, ..Default::default() }).await.unwrap();
        assert_eq!(pod.shim.pids(&pod.container_id("c")).await.unwrap().len(), 1);
        assert!(alive(pod.shim_pid));
        pod.end().await;

        // Of a shim without a sandbox the tasks decide.
        let pod = Pod::start().await;
        let dir = testkit::scratch();
        let binary = support::pod::binary();
        let address = pea_shim::client::Bootstrap::start(&binary, dir.path(), "test", "alone", dir.path()).unwrap();
        let client = wire::client(&address).await;
        let connected: api::ConnectResponse =
            call(&client, V2, "Connect", &about!(ConnectRequest, "alone")).await.unwrap();
        assert_eq!(connected.task_pid, 0);
        let task = TaskClient::new(client.clone());
        let root = toml(&format!("Root = \"{}\"", dir.path().join("state").display()));
        let request = create(&pod, "c", &["sleep", "1000"], Stdio::default(), |_| {});
        let request = api::CreateTaskRequest { options: Some(root).into(), ..request };
        let id = request.id.clone();
        task.create(now(), &request).await.unwrap();
        assert!(dir.path().join("state/test").join(&id).exists(), "not where the options say");
        task.shutdown(now(), &about!(ShutdownRequest, id)).await.unwrap();
        // One that was never started is ended by its delete.
        let deleted = task.delete(now(), &about!(DeleteRequest, id)).await.unwrap();
        assert_eq!(deleted.exit_status, 137);
        drop(task);
        let _: api::Empty = call(&client, V2, "Shutdown", &about!(ShutdownRequest, "alone")).await.unwrap();
        drop(client);
        support::eventually("the shim has ended", || !alive(connected.shim_pid));
        assert!(Shim::connect(&address).await.is_err());
        pod.end().await;
    });
}

#[test]
fn a_signal_is_for_the_one_process_it_is_sent_to_unless_it_is_for_all() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        let init = pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let mut pids = Vec::new();
        for exec in ["one", "two"] {
            pod.shim.exec(&id, exec, &process(&["sleep", "1000"]), &Stdio::default()).await.unwrap();
            pids.push(pod.shim.start(&id, Some(exec)).await.unwrap());
        }
        // `all` is of a container; of an exec there is only the one.
        pod.shim.kill(&id, Some("one"), libc::SIGTERM as u32, true).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("one")).await.unwrap().status, 128 + 15);
        assert!(alive(init) && alive(pids[1]), "a signal to an exec reached more than it");
        pod.shim.kill(&id, Some("two"), 64, false).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("two")).await.unwrap().status, 128 + 64);
        pod.shim.kill(&id, None, 0, false).await.unwrap();
        assert!(alive(init));
        pod.end().await;
    });
}

#[test]
fn statistics_come_in_the_form_of_the_cgroups_there_are() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sh", "-c", "i=0; while :; do i=$((i+1)); done"], Stdio::default()).await;
        let task = tasks(&pod).await;
        let (mut processor, mut memory, mut processes) = (0, 0, 0);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while processor == 0 && std::time::Instant::now() < end {
            let any = task.stats(now(), &about!(StatsRequest, id)).await.unwrap().stats.unwrap();
            match any.type_url.as_str() {
                "io.containerd.cgroups.v1.Metrics" => {
                    let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
                    processor = metrics.cpu.usage.total;
                    memory = metrics.memory.usage.usage;
                    processes = metrics.pids.current;
                }
                "io.containerd.cgroups.v2.Metrics" => {
                    let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
                    processor = metrics.cpu.usage_usec;
                    memory = metrics.memory.usage;
                    processes = metrics.pids.current;
                }
                other => panic!("{other}"),
            }
        }
        assert!(processor > 0 && memory > 0 && processes > 0, "{processor} {memory} {processes}");
        pod.end().await;
    });
}
