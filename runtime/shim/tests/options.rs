//! The runtime options of a creation: what they change, and which are refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use containerd_shim_protos::ttrpc::Code;
use pea_shim::client::Stdio;
use support::pod::{Pod, run};
use support::wire::{about, create, now, refusal, tasks, toml};

/// Behaviour: the runtime's name in either type of options is refused with the reason, before anything is made.
#[test]
fn options_that_cannot_be_served_are_refused_with_the_reason() {
    run(async {
        let pod = Pod::start().await;
        let task = tasks(&pod).await;
        let crun = oci::Options { binary_name: "crun".into(), ..Default::default() }.write_to_bytes().unwrap();
        let runc = Any { type_url: "containerd.runc.v1.Options".into(), value: crun, ..Default::default() };
        let other = Any { type_url: "example.Options".into(), ..Default::default() };
        for (options, reason) in [
            (runc, "BinaryName = \"crun\": this shim is its own runtime"),
            (toml("BinaryName = \"/usr/bin/crun\""), "BinaryName = \"/usr/bin/crun\": this shim is its own runtime"),
            (toml("SystemdCgruop = true"), "SystemdCgruop"),
            (toml("Root = 5"), "Root"),
            (other, "example.Options"),
        ] {
            let request = create(&pod, "c", &["true"], Stdio::default(), |_| {});
            let request = api::CreateTaskRequest { options: Some(options).into(), ..request };
            let (code, message) = refusal(task.create(now(), &request).await);
            assert_eq!(code, Code::INVALID_ARGUMENT, "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(!pod.bundle("c").join("task.json").exists(), "{reason}");
        }
        pod.end().await;
    });
}

/// What a container says that was created with these options, as its own user.
async fn said(pod: &Pod, name: &str, options: &str, script: &str, user: u32) -> String {
    let task = tasks(pod).await;
    let stdout = pod.dir.path().join(format!("{name}.fifo"));
    nix::unistd::mkfifo(&stdout, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let stdio = Stdio { stdout: stdout.display().to_string(), ..Stdio::default() };
    let reader = std::thread::spawn(move || fs::read_to_string(stdout).unwrap());
    let request = create(pod, name, &["sh", "-c", script], stdio, |config| {
        config["process"]["user"] = serde_json::json!({"uid": user, "gid": user});
    });
    let request = api::CreateTaskRequest { options: Some(toml(options)).into(), ..request };
    task.create(now(), &request).await.unwrap();
    task.start(now(), &about!(StartRequest, pod.container_id(name))).await.unwrap();
    pod.finish(name).await;
    support::eventually("the reader has seen the end", || reader.is_finished());
    reader.join().unwrap()
}

#[test]
fn pipes_belong_to_whom_the_options_say() {
    run(async {
        let pod = Pod::start().await;
        let script = "stat -L -c %u:%g /proc/self/fd/1; echo again > /proc/self/fd/1 || echo refused";
        assert_eq!(said(&pod, "its", "IoUid = 7\nIoGid = 8", script, 7).await, "7:8\nagain\n");
        // The runtime makes a stream its process's own, as runc does; the group is left.
        assert_eq!(said(&pod, "another", "IoUid = 9\nIoGid = 8", script, 7).await, "7:8\nagain\n");
        assert_eq!(said(&pod, "roots", "", script, 7).await, "7:0\nagain\n");
        assert_eq!(said(&pod, "x", "IoUid = 9\nIoGid = 8", script, 0).await, "0:8\nagain\n");
        pod.end().await;
    });
}

#[test]
fn a_container_without_a_pivot_and_one_without_a_keyring_of_its_own_are_made() {
    run(async {
        let pod = Pod::start().await;
        // Without pivot_root the old root is hidden and not unmounted: its mounts are still the namespace's.
        let mounts = "grep -c . /proc/self/mountinfo; ls /";
        let pivoted = said(&pod, "pivoted", "", mounts, 0).await;
        let moved = said(&pod, "moved", "NoPivotRoot = true", mounts, 0).await;
        let entries = |said: &str| said.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(entries(&pivoted), entries(&moved));

        if !std::path::Path::new("/proc/keys").exists() {
            return testkit::skip("this kernel has no keyrings");
        }
        // As the machine lists them (keyrings(7)): nobody but the container can have one of that name.
        let task = tasks(&pod).await;
        for (name, options, own) in [("own", "", true), ("shared", "NoNewKeyring = true", false)] {
            let request = create(&pod, name, &["true"], Stdio::default(), |_| {});
            let keyring = format!("_ses.{}: ", request.id);
            let request = api::CreateTaskRequest { options: Some(toml(options)).into(), ..request };
            task.create(now(), &request).await.unwrap();
            assert_eq!(fs::read_to_string("/proc/keys").unwrap().contains(&keyring), own, "{name}");
        }
        pod.end().await;
    });
}
