//! The shim where cgroup v2 is alone and has hardly a controller: all that needs none works, and what needs one says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::StatsRequest;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::ttrpc::{asynchronous::Client, context};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use pea_shim::client::{Stdio, TaskStatus, delete};
use serde_json::json;
use support::pod::{Pod, binary, exec_to_end, run, shell};
use support::{alive, controls, eventually};

const ROOT: &str = "/sys/fs/cgroup";

/// Gives the calling thread, and whom it starts, a file system of v2 and no other.
fn enter_unified() {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    umount2(ROOT, MntFlags::MNT_DETACH).unwrap();
    mount(Some("none"), ROOT, Some("cgroup2"), MsFlags::empty(), none).unwrap();
}

fn cgroup(pod: &Pod, container: &str) -> PathBuf {
    Path::new(ROOT).join(&pod.id).join(container)
}

fn file(pod: &Pod, container: &str, name: &str) -> String {
    fs::read_to_string(cgroup(pod, container).join(name)).unwrap().trim().to_owned()
}

async fn stats(pod: &Pod, id: &str) -> Metrics {
    let client = TaskClient::new(Client::connect(&pod.address).await.unwrap());
    let request = StatsRequest { id: id.into(), ..Default::default() };
    let any = client.stats(context::Context::default(), &request).await.unwrap().stats.unwrap();
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    Metrics::parse_from_bytes(&any.value).unwrap()
}

#[test]
fn a_container_is_entered_frozen_counted_and_killed_without_controllers() {
    enter_unified();
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        let init = pod.start_container("c", &["sh", "-c", "sleep 1000 & wait"], Stdio::default()).await;
        eventually("both processes are there", || file(&pod, "c", "cgroup.procs").lines().count() == 2);
        assert_eq!(pod.shim.pids(&id).await.unwrap().len(), 2);
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &shell("exit 5"), &Stdio::default()).await, 5);

        let used = stats(&pod, &id).await;
        assert_eq!(used.pids.current, 2, "counted by hand where there is no controller for it");
        // cpu.stat is there without the controller (cgroup-v2.rst).
        assert!(used.cpu.usage_usec > 0, "{used:?}");
        assert_eq!(used.memory.usage > 0, controls("memory"), "{used:?}");

        pod.shim.pause(&id).await.unwrap();
        assert_eq!(pod.shim.state(&id, None).await.unwrap().status, TaskStatus::Paused);
        assert!(file(&pod, "c", "cgroup.events").contains("frozen 1"));
        pod.shim.resume(&id).await.unwrap();
        assert!(file(&pod, "c", "cgroup.events").contains("frozen 0"));

        let resources = serde_json::from_value(json!({"memory": {"limit": 64 << 20}})).unwrap();
        let updated = pod.shim.update(&id, &resources).await;
        if !controls("memory") {
            let refused = updated.unwrap_err().to_string();
            assert!(refused.contains("linux.resources.memory.limit") && refused.contains("no memory"), "{refused}");
        }
        pod.shim.kill(&id, None, libc::SIGKILL as u32, true).await.unwrap();
        assert_eq!(pod.finish("c").await.status, 137);
        assert!(!alive(init) && !cgroup(&pod, "c").exists());

        if !controls("memory") {
            let limit = |config: &mut serde_json::Value| config["linux"]["resources"] = json!({"memory": {"limit": 1}});
            let refused = pod.create_with("d", &["true"], Stdio::default(), limit).await.unwrap_err().to_string();
            assert!(refused.contains("linux.resources.memory.limit"), "{refused}");
            assert!(!cgroup(&pod, "d").exists());
        }
        pod.end().await;
    });
}

#[test]
fn what_a_killed_shim_leaves_is_cleared_away() {
    enter_unified();
    run(async {
        let pod = Pod::start().await;
        let init = pod.start_container("c", &["sh", "-c", "trap '' TERM; sleep 1000 & wait"], Stdio::default()).await;
        pod.shim.pause(&pod.container_id("c")).await.unwrap();
        pod.signal_shim(Signal::SIGKILL);
        delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap();
        assert!(!alive(init));
        pod.nothing_left();
    });
}
