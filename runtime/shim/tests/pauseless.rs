//! Pods without a pause container: containerd from 2.1 with `sandboxer = "shim"`, driven through CRI.
//!
//! What pods do in any case is the matter of cri.rs, which can be run so too (`PEA_SANDBOXER=shim`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use support::cri::message::Message;
use support::cri::{Node, serves_pauseless_fully, version};
use support::pod::run;
use support::{alive, shims_below, status_field};

/// CRI's NamespaceMode.
const NODE: u64 = 2;

/// What a command says in a container.
async fn said(node: &Node, id: &str, command: &str) -> String {
    let (code, output, errors) = node.exec(id, &["sh", "-c", command]).await;
    assert_eq!((code, errors.as_str()), (0, ""), "{command}");
    output
}

fn namespaces(network: u64, pid: u64, ipc: u64) -> Message {
    Message::new().number(1, network).number(2, pid).number(3, ipc)
}

#[test]
fn a_pod_is_its_shim_and_its_files_are_there() {
    run(async {
        let Some(node) = Node::pauseless().await else { return };
        let dns = Message::new().text(1, "10.0.0.53").text(2, "cluster.local").text(3, "ndots:5");
        let security = Message::new().message(1, namespaces(0, 1, 0));
        let more = |config: Message, linux: Message| {
            (config.message(4, dns), linux.message(2, security).entry(3, "net.core.somaxconn", "99"))
        };
        let pod = node.run_pod("files", more).await.unwrap();
        let shims = shims_below(node.dir.path());
        assert_eq!(shims.len(), 1);
        let shim = shims[0];
        let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
        assert_eq!(children, "", "more than the shim runs for an empty pod");
        assert_eq!(status_field(shim, "Threads"), "1");

        let id = node.container(&pod, "c", &["sleep", "1000"]).await;
        assert_eq!(said(&node, &id, "hostname; cat /etc/hostname").await, "files\nfiles\n");
        assert_eq!(
            said(&node, &id, "cat /etc/resolv.conf").await,
            "search cluster.local\nnameserver 10.0.0.53\noptions ndots:5\n"
        );
        assert!(said(&node, &id, "cat /etc/hosts").await.contains("localhost"));
        assert_eq!(said(&node, &id, "cat /proc/sys/net/core/somaxconn").await, "99\n");
        let other = node.container(&pod, "d", &["sleep", "1000"]).await;
        said(&node, &id, "echo words > /dev/shm/common").await;
        assert_eq!(said(&node, &other, "cat /dev/shm/common").await, "words\n");
        assert!(said(&node, &id, "grep ' /dev/shm ' /proc/mounts").await.contains("size=65536k"));
        assert_eq!(
            said(&node, &id, "ps -o comm > /tmp/list; wc -l < /tmp/list").await,
            "4\n",
            "processes of its own: a heading, sleep, the shell, ps"
        );
        node.remove(&pod).await;
        assert!(!alive(shim));
        node.clean().await;
    });
}

#[test]
fn a_common_pid_namespace_has_an_init_and_ends_with_the_pod() {
    run(async {
        let Some(node) = Node::pauseless().await else { return };
        let security = Message::new().message(1, namespaces(0, 0, 0));
        let pod = node.run_pod("shared", |config, linux| (config, linux.message(2, security))).await.unwrap();
        let shared = namespaces(0, 0, 0);
        let one = node.container_in(&pod, "one", &["sleep", "1001"], shared.clone(), |config| config).await;
        let two = node.container_in(&pod, "two", &["sleep", "1002"], shared, |config| config).await;
        let seen = said(&node, &one, "ps -o args").await;
        assert!(seen.contains("sleep 1001") && seen.contains("sleep 1002") && !seen.contains("containerd\n"), "{seen}");
        assert_eq!(said(&node, &two, "cat /proc/1/comm").await, "peapod-init\n");
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn a_pod_in_the_nodes_network_has_its_name_and_addresses_too() {
    run(async {
        if !serves_pauseless_fully(&version()) {
            return testkit::skip("containerd 2.1.9 itself crashes over a pod in the node's network; 2.4 does not");
        }
        let Some(node) = Node::pauseless().await else { return };
        let security = Message::new().message(1, namespaces(NODE, 1, 0));
        let pod = node.run_pod("", |config, linux| (config, linux.message(2, security))).await.unwrap();
        let id = node.container_in(&pod, "c", &["sleep", "1000"], namespaces(NODE, 1, 0), |config| config).await;
        assert_eq!(node.kept_by_pea(), [id.as_str()], "the runtime's options were not handed on");
        for namespace in ["net", "uts"] {
            let own = std::fs::read_link(format!("/proc/thread-self/ns/{namespace}")).unwrap();
            let theirs = said(&node, &id, &format!("readlink /proc/self/ns/{namespace}")).await;
            assert_eq!(theirs.trim(), own.to_str().unwrap());
        }
        let addresses = node.of("PodSandboxStatus", &pod.id).await.text(&[1, 5, 1]);
        assert_eq!(addresses, "", "the node's addresses are not told as the pod's");
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn a_pod_in_the_nodes_ipc_namespace_has_the_nodes_memory() {
    run(async {
        let Some(node) = Node::pauseless().await else { return };
        let security = Message::new().message(1, namespaces(0, 1, NODE));
        let pod = node.run_pod("host", |config, linux| (config, linux.message(2, security))).await.unwrap();
        let id = node.container_in(&pod, "c", &["sleep", "1000"], namespaces(0, 1, NODE), |config| config).await;
        let own = |namespace: &str| std::fs::read_link(format!("/proc/thread-self/ns/{namespace}")).unwrap();
        assert_eq!(said(&node, &id, "readlink /proc/self/ns/ipc").await.trim(), own("ipc").to_str().unwrap());
        assert_ne!(said(&node, &id, "readlink /proc/self/ns/net").await.trim(), own("net").to_str().unwrap());
        let name = node.cgroup().replace('/', "of-");
        said(&node, &id, &format!("echo words > /dev/shm/{name}")).await;
        assert_eq!(std::fs::read_to_string(format!("/dev/shm/{name}")).unwrap(), "words\n");
        std::fs::remove_file(format!("/dev/shm/{name}")).unwrap();
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn what_a_pod_cannot_have_without_a_pause_container_is_refused_and_nothing_is_left() {
    run(async {
        let Some(node) = Node::pauseless().await else { return };
        let sysctl = |config: Message, linux: Message| (config, linux.entry(3, "kernel.panic", "1"));
        let refused = node.run_pod("sysctl", sysctl).await;
        assert!(refused.is_err_and(|status| status.message.contains("kernel.panic")));
        node.clean().await;
    });
}
