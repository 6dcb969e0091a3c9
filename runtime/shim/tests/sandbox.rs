//! The sandbox API as it is on the wire: a pod's life, what it is asked for, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::ttrpc::Code;
use containerd_shim_protos::ttrpc::context::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pea_shim::client::{Bootstrap, Error, Shim, Stdio};
use pea_shim::sandbox::{Dns, Namespace, PodFiles, SandboxOptions};
use serde_json::{Value, json};
use support::pod::{Pod, binary, run, shell};
use support::wire::{client, refusal};
use support::{alive, eventually, mounts_below};

/// What a request is about.
macro_rules! about {
    ($kind:ident, $id:expr) => {
        api::$kind { sandbox_id: $id.to_owned(), ..Default::default() }
    };
}

fn now() -> Context {
    Context::default()
}

async fn sandboxes(address: &str) -> SandboxClient {
    SandboxClient::new(client(address).await)
}

/// A shim without a sandbox, in a directory of its own.
async fn idle(dir: &Path) -> (String, u32) {
    let address = Bootstrap::start(&binary(), dir, "test", "s", dir).unwrap();
    let pid = Shim::connect(&address).await.unwrap().connect_task("nobody").await.unwrap().0;
    (address, pid)
}

#[test]
fn a_sandbox_is_ready_until_it_is_stopped_and_there_until_it_is_shut_down() {
    run(async {
        let pod = Pod::start().await;
        let sandbox = sandboxes(&pod.address).await;
        let status = sandbox.sandbox_status(now(), &about!(SandboxStatusRequest, pod.id)).await.unwrap();
        assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", pod.pid));
        assert_eq!((status.sandbox_id.as_str(), status.exited_at.is_some()), (pod.id.as_str(), false));
        let started = sandbox.start_sandbox(now(), &about!(StartSandboxRequest, pod.id)).await.unwrap();
        assert_eq!((started.pid, &started.created_at), (pod.pid, &status.created_at));
        let created = jiff::Timestamp::from_second(started.created_at.seconds).unwrap();
        assert!(jiff::Timestamp::now().duration_since(created) < jiff::SignedDuration::from_mins(1), "{created}");
        for _ in 0..2 {
            sandbox.stop_sandbox(now(), &about!(StopSandboxRequest, pod.id)).await.unwrap();
        }
        let waited = sandbox.wait_sandbox(now(), &about!(WaitSandboxRequest, pod.id)).await.unwrap();
        assert_eq!((waited.exit_status, waited.exited_at.is_some()), (0, true));
        let status = sandbox.sandbox_status(now(), &about!(SandboxStatusRequest, pod.id)).await.unwrap();
        assert_eq!((status.state.as_str(), status.exited_at), ("SANDBOX_NOTREADY", waited.exited_at));
        let again = sandbox.start_sandbox(now(), &about!(StartSandboxRequest, pod.id)).await;
        assert_eq!(refusal(again).0, Code::FAILED_PRECONDITION);
        pod.end().await;
    });
}

#[test]
fn a_sandbox_of_another_name_is_not_found_and_a_second_one_is_refused() {
    run(async {
        let pod = Pod::start().await;
        let sandbox = sandboxes(&pod.address).await;
        let codes = [
            refusal(sandbox.start_sandbox(now(), &about!(StartSandboxRequest, "other")).await).0,
            refusal(sandbox.stop_sandbox(now(), &about!(StopSandboxRequest, "other")).await).0,
            refusal(sandbox.wait_sandbox(now(), &about!(WaitSandboxRequest, "other")).await).0,
            refusal(sandbox.sandbox_status(now(), &about!(SandboxStatusRequest, "other")).await).0,
            refusal(sandbox.shutdown_sandbox(now(), &about!(ShutdownSandboxRequest, "other")).await).0,
        ];
        assert_eq!(codes, [Code::NOT_FOUND; 5]);
        let second = sandbox.create_sandbox(now(), &about!(CreateSandboxRequest, "second")).await;
        assert_eq!(refusal(second).0, Code::ALREADY_EXISTS);
        let odd = api::CreateSandboxRequest {
            options: Some(containerd_shim_protos::protobuf::well_known_types::any::Any {
                type_url: "example.Sandbox".into(),
                ..Default::default()
            })
            .into(),
            ..about!(CreateSandboxRequest, "third")
        };
        let dir = testkit::scratch();
        let (address, pid) = idle(dir.path()).await;
        let other = sandboxes(&address).await;
        let (code, why) = refusal(other.create_sandbox(now(), &odd).await);
        assert!(code == Code::UNIMPLEMENTED && why.contains("example.Sandbox"), "{why}");

        sandbox.ping_sandbox(now(), &about!(PingRequest, pod.id)).await.unwrap();
        let platform = sandbox.platform(now(), &about!(PlatformRequest, pod.id)).await.unwrap().platform;
        let machine = nix::sys::utsname::uname().unwrap();
        let names = [("x86_64", "amd64"), ("aarch64", "arm64")];
        let known = names.iter().find(|(kernels, _)| machine.machine().to_str() == Some(kernels));
        assert_eq!(platform.os, "linux");
        assert!(known.is_none_or(|(_, name)| platform.architecture == *name), "{}", platform.architecture);

        // A shim whose sandbox was never made is shut down by any name.
        other.shutdown_sandbox(now(), &about!(ShutdownSandboxRequest, "s")).await.unwrap();
        drop(other);
        eventually("the idle shim has ended", || !alive(pid));
        pod.end().await;
    });
}

#[test]
fn a_network_that_is_given_parameters_and_files_reach_the_containers() {
    run(async {
        // The namespace of this thread, which plays the one that CNI has made.
        testkit::enter_node();
        let thread = nix::unistd::gettid();
        let netns = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        let pod = Pod::start().await;
        let dir = testkit::scratch();
        let bundle = dir.path();
        let (address, pid) = idle(bundle).await;
        let shim = Shim::connect(&address).await.unwrap();
        let dns = Dns { servers: vec!["10.0.0.53".into()], ..Dns::default() };
        let options = SandboxOptions {
            hostname: "db-0".into(),
            namespaces: vec![Namespace::Ipc, Namespace::Network, Namespace::Uts],
            pea_root: Some(bundle.join("pea")),
            sysctls: BTreeMap::from([
                ("kernel.shmmni".into(), "1234".into()),
                ("net.ipv4.ip_unprivileged_port_start".into(), "77".into()),
            ]),
            files: Some(PodFiles { hostname: String::new(), dns, private_shm: true }),
            ..SandboxOptions::default()
        };
        shim.create_sandbox("s", bundle, Some(Path::new(&netns)), &options).await.unwrap();
        assert_eq!(shim.start_sandbox("s").await.unwrap().pid, pid);
        let link = |path: String| fs::read_link(path).unwrap();
        assert_eq!(link(format!("/proc/{pid}/ns/net")), link(netns));
        assert_ne!(link(format!("/proc/{pid}/ns/uts")), link("/proc/self/ns/uts".into()));
        let own = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        assert_eq!(own, "77\n", "the parameter of the namespace that was given");
        assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), "1234\n", "the node's own was set");
        let kept: SandboxOptions = serde_json::from_slice(&fs::read(bundle.join("sandbox.json")).unwrap()).unwrap();
        assert_eq!(kept, options);
        let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
        assert_eq!(
            fs::read_to_string(bundle.join("etc/hostname")).unwrap(),
            format!("{name}\n"),
            "empty is the node's"
        );
        assert_eq!(fs::read_to_string(bundle.join("etc/resolv.conf")).unwrap(), "nameserver 10.0.0.53\n");
        assert_eq!(fs::read(bundle.join("etc/hosts")).unwrap(), fs::read("/etc/hosts").unwrap());
        let mounts = mounts_below(bundle);
        assert!(mounts.len() == 2 && mounts[0].contains("/etc") && mounts[1].contains("/shm"), "{mounts:?}");
        // A container may write to them; the node's /run is not to be full of it.
        let filled = std::io::copy(&mut std::io::repeat(7), &mut fs::File::create(bundle.join("etc/hosts")).unwrap());
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        assert!(fs::metadata(bundle.join("etc/hosts")).unwrap().len() < 1 << 25);
        shim.stop_sandbox("s", Duration::ZERO).await.unwrap();
        shim.shutdown_sandbox("s").await.unwrap();
        assert_eq!(mounts_below(bundle), Vec::<String>::new());
        assert!(!bundle.join("sandbox.json").exists());
        eventually("the shim has ended", || !alive(pid));
        pod.end().await;
    });
}

#[test]
fn the_end_of_a_pods_init_is_the_end_of_the_pod() {
    run(async {
        for (signal, status) in [(Signal::SIGKILL, 137), (Signal::SIGTERM, 0)] {
            let pod = Pod::with(&[Namespace::Pid]).await;
            let one = pod.start_container("one", &["sleep", "1000"], Stdio::default()).await;
            eventually("it has closed all its files", || support::open_files(pod.pid) == 0);
            // Others change nothing.
            kill(Pid::from_raw(pod.pid as i32), Signal::SIGHUP).unwrap();
            assert!(alive(pod.pid));
            let waiting = tokio::spawn({
                let (shim, id) = (pod.shim.clone(), pod.id.clone());
                async move { shim.wait_sandbox(&id).await }
            });
            pod.shim.start_sandbox(&pod.id).await.unwrap();
            kill(Pid::from_raw(pod.pid as i32), signal).unwrap();
            assert_eq!(waiting.await.unwrap().unwrap().status, status);
            assert_eq!(pod.shim.wait(&pod.container_id("one"), None).await.unwrap().status, 137);
            assert!(!alive(one));
            let late = pod.create("two", &["true"], Stdio::default()).await;
            assert!(matches!(late, Err(Error::FailedPrecondition(_))), "{late:?}");
            // What is told first stays: a stop does not change how it ended.
            pod.shim.stop_sandbox(&pod.id, Duration::ZERO).await.unwrap();
            assert_eq!(pod.shim.wait_sandbox(&pod.id).await.unwrap().status, status);
            pod.end().await;
        }
    });
}

#[test]
fn a_pod_that_is_shut_down_as_it_stands_leaves_nothing_and_nobody_waiting() {
    run(async {
        let pod = Pod::with(&[Namespace::Ipc, Namespace::Pid]).await;
        let (stdio, log) = pod.log("last");
        let script = ["sh", "-c", "trap 'seq 1000; exit 0' TERM; echo ready; while :; do sleep 0.01; done"];
        let one = pod.start_container("one", &script, stdio).await;
        let id = pod.container_id("one");
        pod.shim.exec(&id, "never", &shell("true"), &Stdio::default()).await.unwrap();
        let waiting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), id.clone());
            async move { shim.wait(&id, Some("never")).await }
        });
        eventually("it runs", || fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")));
        pod.shim.state(&id, Some("never")).await.unwrap();
        pod.shim.shutdown_sandbox(&pod.id).await.unwrap();
        let waited = waiting.await.unwrap();
        assert!(matches!(waited, Err(Error::NotFound(_) | Error::Closed(_))), "{waited:?}");
        assert!(!alive(one));
        assert!(!pod.sandbox_bundle().join("sandbox.json").exists());
        assert_eq!(fs::read_dir(pod.sandbox_bundle().join("tasks")).unwrap().count(), 0);
        pod.nothing_left();
    });
}

/// A hook that writes its namespaces to a file. The paths are those of the node, and of busybox as well.
fn hook(file: &str) -> Value {
    let script = format!("for n in ipc net uts mnt; do readlink /proc/self/ns/$n; done > {file}");
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
}

/// The namespaces of a process: IPC, network, UTS, mount.
fn namespaces_of(process: &str) -> Vec<String> {
    let link = |name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap();
    ["ipc", "net", "uts", "mnt"].map(|name| link(name).display().to_string()).into()
}

#[test]
fn hooks_of_the_runtime_are_told_on_the_node_and_those_of_the_container_in_the_pod() {
    run(async {
        let pod = Pod::start().await;
        let dir = pod.dir.path().to_owned();
        let kinds = ["prestart", "createRuntime", "poststart", "poststop", "createContainer"];
        let hooks = |config: &mut Value| {
            for kind in kinds {
                config["hooks"][kind] = hook(dir.join(kind).to_str().unwrap());
            }
            config["hooks"]["startContainer"] = hook("/told");
        };
        pod.create_with("c", &["true"], Stdio::default(), hooks).await.unwrap();
        pod.shim.start(&pod.container_id("c"), None).await.unwrap();
        pod.finish("c").await;
        let told =
            |file: &Path| -> Vec<String> { fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect() };
        let (node, pods) = (namespaces_of("thread-self"), namespaces_of(&pod.shim_pid.to_string()));
        assert!(node[..3].iter().zip(&pods).all(|(node, pod)| node != pod), "the pod has nothing of its own");
        for kind in &kinds[..4] {
            assert_eq!(told(&dir.join(kind)), node, "{kind}");
        }
        for file in [dir.join("createContainer"), pod.bundle("c").join("upper/told")] {
            let told = told(&file);
            assert_eq!(told[..3], pods[..3], "{}", file.display());
            assert_ne!(told[3], node[3], "{}", file.display());
        }
        pod.end().await;
    });
}

#[test]
fn what_a_container_does_not_ask_for_is_the_nodes_and_not_the_pods() {
    run(async {
        let pod = Pod::start().await;
        let (stdio, log) = pod.log("c");
        let script = ["sh", "-c", "for n in ipc net uts; do readlink /proc/self/ns/$n; done"];
        let only_mounts = |config: &mut Value| config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        pod.create_with("c", &script, stdio, only_mounts).await.unwrap();
        pod.shim.start(&pod.container_id("c"), None).await.unwrap();
        pod.finish("c").await;
        let log = fs::read_to_string(log).unwrap();
        let seen: Vec<&str> = log.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(seen, namespaces_of("thread-self")[..3]);
        pod.end().await;
    });
}

#[test]
fn a_network_device_that_a_container_is_given_is_one_of_the_nodes() {
    run(async {
        testkit::enter_node();
        let ip = |words: &str| testkit::attempt(Command::new("ip").args(words.split(' ')));
        if !ip("link add pea0 type veth peer name pea1").status.success() {
            return testkit::skip("no veth devices on this machine");
        }
        let pod = Pod::start().await;
        let (stdio, log) = pod.log("c");
        let give = |config: &mut Value| config["linux"]["netDevices"] = json!({"pea0": {"name": "net0"}});
        pod.create_with("c", &["cat", "/proc/net/dev"], stdio, give).await.unwrap();
        pod.shim.start(&pod.container_id("c"), None).await.unwrap();
        pod.finish("c").await;
        let devices = fs::read_to_string(log).unwrap();
        assert!(devices.contains("net0:"), "{devices}");
        assert!(!ip("link show pea0").status.success(), "it is still here");
        pod.end().await;
    });
}
