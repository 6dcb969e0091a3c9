//! Runtime classes: which runtime a pod is run by, what containerd says it can do, and pea below containerd's own shim.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use support::cri::message::Message;
use support::cri::security::{Asked, Wanted};
use support::cri::{Node, own_processes, serves_pauseless, version};
use support::pod::run;
use support::shims_below;

/// The handlers of the configuration, the program that serves their pods, and how many processes hold an empty pod.
const HANDLERS: [(&str, &str, usize); 6] = [
    ("", "containerd-shim-pea-v2", 1),
    ("plain", "containerd-shim-pea-v2", 1),
    ("by-path", "containerd-shim-pea-v2", 1),
    ("pauseless", "containerd-shim-pea-v2", 0),
    ("below", "containerd-shim-runc-v2", 1),
    ("runc", "containerd-shim-runc-v2", 1),
];

#[test]
fn a_pod_is_run_by_the_runtime_it_asks_for() {
    run(async {
        let node = Node::start().await;
        let known = node.runtimes(&HANDLERS.map(|(name, _, _)| name));
        for (handler, program, held_by) in HANDLERS.into_iter().filter(|(name, _, _)| known.contains(name)) {
            let pod = node.wanted(handler, "class", Wanted::default()).await;
            let shims = shims_below(node.dir.path());
            assert_eq!(shims.len(), 1, "{handler:?}");
            let line = fs::read_to_string(format!("/proc/{}/cmdline", shims[0])).unwrap();
            assert!(line.split('\0').next().unwrap().ends_with(program), "{handler:?}: {line:?}");
            if support::cri::sandboxer() != "shim" || !handler.is_empty() {
                let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shims[0])).unwrap();
                assert_eq!(children.split_whitespace().count(), held_by, "{handler:?}: {children}");
            }
            let status = node.of("PodSandboxStatus", &pod.id).await;
            assert_eq!(status.text(&[1, 9]), handler, "what the pod says it is run by");
            node.remove(&pod).await;
            if handler != "runc" {
                // runc leaves the pod's cgroup to kubelet.
                node.clean().await;
            }
        }
        let unknown = node.run_pod_by("nobody", "class", |config, linux| (config, linux)).await;
        assert!(unknown.is_err_and(|status| status.message.contains("nobody")));
    });
}

#[test]
fn containerd_knows_what_pea_can_do() {
    run(async {
        if !serves_pauseless(&version()) {
            return testkit::skip("features of runtime handlers: containerd 2 tells them");
        }
        let node = Node::start().await;
        let status = node.call("Status", &Message::new()).await.unwrap();
        let mut told = Vec::new();
        for handler in status.each(3) {
            if ["by-path", "below"].contains(&handler.text(&[1]).as_str()) {
                let features = (handler.number(&[2, 1]), handler.number(&[2, 2]));
                assert_eq!(features, (1, 1), "{}: recursive read-only mounts, user namespaces", handler.text(&[1]));
                told.push(handler.text(&[1]));
            }
        }
        assert_eq!(told.len(), 2, "{told:?}");
    });
}

#[test]
fn pea_serves_pods_below_containerds_own_shim() {
    run(async {
        let node = Node::start().await;
        let pod = node.wanted("below", "below", Wanted::default()).await;
        let spin = ["sh", "-c", "i=0; while :; do i=$((i+1)); done"];
        let one = node.asked(&pod, "one", &spin, own_processes(), &Asked::default()).await;
        let two = node.asked(&pod, "two", &["sleep", "1000"], own_processes(), &Asked::default()).await;
        assert_eq!(shims_below(node.dir.path()).len(), 1, "a shim a pod");
        let kept = node.kept_by_pea();
        assert!(kept.contains(&one) && kept.contains(&two), "it is not pea that runs them: {kept:?}");
        assert_eq!(
            node.exec(&two, &["sh", "-c", "hostname; echo err >&2; exit 3"]).await,
            (3, "below\n".into(), "err\n".into())
        );
        for namespace in ["net", "ipc", "uts"] {
            let link = format!("readlink /proc/self/ns/{namespace}");
            assert_eq!(node.says(&one, &link).await, node.says(&two, &link).await, "{namespace}");
        }
        let slow = node.call("ExecSync", &Message::new().text(1, &two).texts(2, &["sleep", "1000"]).number(3, 1)).await;
        assert!(slow.unwrap_err().message.contains("timeout"), "a probe without end");
        let used = async || node.of("ContainerStats", &one).await;
        node.until("processor time is counted", async || used().await.number(&[1, 2, 2, 1]) > 10_000_000).await;
        assert!(used().await.number(&[1, 3, 2, 1]) > 0, "no working set");
        let update = Message::new().text(1, &two).message(2, Message::new().number(4, 32 << 20));
        node.call("UpdateContainerResources", &update).await.unwrap();
        let limit = Asked { resources: Message::new().number(4, 16 << 20), ..Asked::default() };
        let greedy = ["sh", "-c", "exec tail -n 1 /dev/zero"];
        let greedy = node.asked(&pod, "greedy", &greedy, own_processes(), &limit).await;
        assert_eq!(node.until_exited(&greedy).await, (137, "OOMKilled".into()));
        node.call("StopContainer", &Message::new().text(1, &one).number(2, 1)).await.unwrap();
        assert_eq!(node.until_exited(&one).await, (137, "Error".into()));
        let missing = node.create(&pod, "missing", &["/no/such/program"], |config| config).await.unwrap();
        let refused = node.call("StartContainer", &Message::new().text(1, &missing)).await.unwrap_err();
        assert!(refused.message.contains("/no/such/program"), "{refused:?}");
        node.remove(&pod).await;
        node.clean().await;
    });
}

/// A mount namespace of the test's own, with a mount below a directory.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new() -> Self {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let volume = Self(testkit::scratch());
        fs::create_dir(volume.0.path().join("below")).unwrap();
        mount(Some("none"), &volume.0.path().join("below"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        volume
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = umount2(&self.0.path().join("below"), MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_read_only_volume_is_so_in_its_depth_where_that_is_asked_for() {
    run(async {
        if !serves_pauseless(&version()) {
            return testkit::skip("recursive read-only mounts: containerd 2 has them");
        }
        let volume = Volume::new();
        let node = Node::start().await;
        let pod = node.wanted("by-path", "volumes", Wanted::default()).await;
        let read_only = |place: &str, recursive| {
            Message::new().text(1, place).text(2, volume.0.path().to_str().unwrap()).number(3, 1).number(8, recursive)
        };
        let config = Message::new().message(7, read_only("/shallow", 0)).message(7, read_only("/deep", 1));
        let asked = Asked { config, ..Asked::default() };
        let id = node.asked(&pod, "c", &["sleep", "1000"], own_processes(), &asked).await;
        for (file, code) in
            [("/shallow/file", 1), ("/shallow/below/file", 0), ("/deep/file", 1), ("/deep/below/file", 1)]
        {
            let (status, _, errors) = node.exec(&id, &["touch", file]).await;
            assert_eq!(status, code, "{file}");
            assert!(code == 0 || errors.contains("Read-only file system"), "{file}: {errors}");
        }
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn an_image_is_a_volume() {
    run(async {
        if !serves_pauseless(&version()) {
            return testkit::skip("volumes of images: containerd 2.1 has them");
        }
        let node = Node::start().await;
        for handler in ["plain", "pauseless"] {
            let pod = node.wanted(handler, "volumes", Wanted::default()).await;
            let image = Message::new().text(1, "localhost/pause:latest");
            let volume = Message::new().text(1, "/image").number(3, 1).message(9, image);
            let asked = Asked { config: Message::new().message(7, volume), ..Asked::default() };
            let id = node.asked(&pod, "c", &["sleep", "1000"], own_processes(), &asked).await;
            assert_eq!(node.says(&id, "/image/bin/busybox echo here").await, "here\n", "{handler}");
            let (code, _, errors) = node.exec(&id, &["touch", "/image/file"]).await;
            assert!(code == 1 && errors.contains("Read-only"), "{handler}: {code} {errors}");
            node.remove(&pod).await;
        }
        node.clean().await;
    });
}
