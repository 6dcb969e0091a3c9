//! What a pod uses, as containerd tells kubelet, beside a pod of runc's; and as the sandbox itself tells it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use support::cri::message::{Message, Reply};
use support::cri::security::{Asked, Wanted};
use support::cri::{Node, Pod, own_processes, sandboxer};
use support::pod::run;

/// A pod that has computed, sent and filled memory, with five processes of its containers.
async fn busy(node: &Node, handler: &str) -> Pod {
    let name = if handler.is_empty() { "default" } else { handler };
    let pod = node.wanted(handler, name, Wanted::default()).await;
    let own = own_processes;
    let work = "sleep 1000 & sleep 1000 & head -c 20000000 /dev/zero > /dev/shm/filled; ping -q -c 5 -i 0.1 -s 1400 10.88.0.1 > /dev/null; \
                i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000";
    node.asked(&pod, "work", &["sh", "-c", work], own(), &Asked::default()).await;
    node.asked(&pod, "idle", &["sh", "-c", "sleep 1000 & exec sleep 1000"], own(), &Asked::default()).await;
    node.until("the work is done", async || node.log("work").ends_with("done")).await;
    std::fs::remove_file(node.dir.path().join("logs/work.log")).unwrap();
    pod
}

/// What CRI tells of a pod: its `LinuxPodSandboxStats`.
async fn stats(node: &Node, pod: &Pod) -> Reply {
    let one = node.of("PodSandboxStats", &pod.id).await.bytes(&[1, 2]);
    let filter = Message::new().message(1, Message::new().text(1, &pod.id));
    let list = node.call("ListPodSandboxStats", &filter).await.unwrap().each(1);
    assert_eq!(list.iter().map(|stats| stats.text(&[1, 1])).collect::<Vec<_>>(), [pod.id.as_str()]);
    Reply(one)
}

#[test]
fn a_pods_usage_is_told_as_that_of_a_pod_of_runcs() {
    run(async {
        let node = Node::start().await;
        let handlers = node.runtimes(&["", "plain", "pauseless", "below"]);
        let peer = busy(&node, "runc").await;
        let peers = stats(&node, &peer).await;
        for handler in handlers {
            let pod = busy(&node, handler).await;
            let used = stats(&node, &pod).await;
            let near = |what: &str, path: &[u64], times: f64| {
                let (ours, theirs) = (used.number(path) as f64, peers.number(path) as f64);
                assert!(theirs > 0.0 && ours > 0.0, "{handler:?}: {what}: {ours}, runc's {theirs}");
                assert!(ours < theirs * times && theirs < ours * times, "{handler:?}: {what}: {ours}, runc's {theirs}");
            };
            near("processor time", &[1, 2, 1], 10.0);
            // Whoever reads a page of a program first is charged for it, and the shim built for tests is as large as what the
            // pod writes.
            near("working set", &[2, 2, 1], 4.0);
            near("usage", &[2, 4, 1], 4.0);
            near("bytes received", &[3, 2, 2, 1], 3.0);
            near("bytes sent", &[3, 2, 4, 1], 3.0);
            assert_eq!(used.text(&[3, 2, 1]), "eth0");
            assert_eq!(used.number(&[4, 2, 1]), peers.number(&[4, 2, 1]), "{handler:?}: processes");
            assert_eq!(used.number(&[4, 2, 1]), 5, "{handler:?}: processes");
            let names: Vec<String> = used.each(5).iter().map(|container| container.text(&[1, 2, 1])).collect();
            assert!(names.len() == 2 && names.contains(&"work".into()) && names.contains(&"idle".into()), "{names:?}");
            node.remove(&pod).await;
        }
        node.remove(&peer).await;
    });
}

/// The sandbox API's own figures, by containerd's service for them.
async fn metrics(node: &Node, pod: &str) -> Reply {
    let request = Message::new().text(1, pod).text(10, "shim");
    let reply = node.cri.call("containerd.services.sandbox.v1.Controller/Metrics", &request).await.unwrap();
    assert_eq!(reply.text(&[1, 2]), pod);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(since.abs_diff(reply.number(&[1, 1, 1])) < 60, "{} and {since}", reply.number(&[1, 1, 1]));
    reply
}

#[test]
fn a_sandbox_of_the_shims_tells_what_its_containers_use_together() {
    run(async {
        let Some(node) = Node::pauseless().await else { return };
        assert!(sandboxer() == "shim" || node.runtimes(&["pauseless"]).len() == 1);
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (kind, processes, processor, memory): (_, &[u64], &[u64], &[u64]) = match v2 {
            true => ("io.containerd.cgroups.v2.Metrics", &[1, 1], &[2, 1], &[4, 32]),
            false => ("io.containerd.cgroups.v1.Metrics", &[2, 1], &[3, 1, 1], &[4, 33, 2]),
        };
        let empty = node.wanted("", "empty", Wanted::default()).await;
        let told = metrics(&node, &empty.id).await;
        assert_eq!(told.text(&[1, 3, 1]), kind);
        assert_eq!(Reply(told.bytes(&[1, 3, 2])).number(processes), 0);
        node.remove(&empty).await;

        let pod = busy(&node, "").await;
        let told = metrics(&node, &pod.id).await;
        let used = Reply(told.bytes(&[1, 3, 2]));
        assert_eq!(used.number(processes), 5);
        assert!(used.number(processor) > 1_000, "{}", used.number(processor));
        // The file in the pod's memory is its containers'.
        assert!((20_000_000..60_000_000).contains(&used.number(memory)), "{}", used.number(memory));
        node.remove(&pod).await;
        node.clean().await;
        let gone = Message::new().text(1, &pod.id).text(10, "shim");
        assert!(node.cri.call("containerd.services.sandbox.v1.Controller/Metrics", &gone).await.is_err());
    });
}
