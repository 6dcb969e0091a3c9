//! The machine is started anew: no process of before is there, nor what was in memory, but what containerd keeps on disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use support::cri::message::{Message, messages};
use support::cri::{EXITED, Node};
use support::pod::run;

#[test]
fn after_a_reboot_all_have_exited_and_are_removed_and_pods_of_the_same_names_take_their_place() {
    run(async {
        let mut node = Node::start().await;
        let mut ids = Vec::new();
        let mut pods = Vec::new();
        for n in 0..3 {
            let pod = node.pod(&format!("p{n}")).await;
            ids.push(node.container(&pod, &format!("c{n}"), &["sleep", "1000"]).await);
            pods.push(pod);
        }
        let ended = node.container(&pods[0], "ended", &["sh", "-c", "exit 7"]).await;
        assert_eq!(node.until_exited(&ended).await.0, 7);
        node.reboot().await;
        let listed = node.call("ListContainers", &Message::new()).await.unwrap();
        // `state`, of each.
        let states: Vec<u64> = messages(&listed.0, 1).iter().map(|container| container.number(&[6])).collect();
        assert_eq!(states, [EXITED; 4]);
        assert_eq!(node.status(&ended).await.1, 7);
        for pod in &pods {
            assert_eq!(node.of("PodSandboxStatus", &pod.id).await.number(&[1, 3]), 1, "a sandbox is ready");
        }
        for id in &ids[..1] {
            node.of("RemoveContainer", id).await;
        }
        for pod in &pods {
            node.remove(pod).await;
        }
        node.clean().await;
        for n in 0..3 {
            let pod = node.pod(&format!("p{n}")).await;
            let id = node.container(&pod, &format!("c{n}"), &["sleep", "1000"]).await;
            assert_eq!(node.exec(&id, &["hostname"]).await.1, format!("p{n}\n"));
            node.remove(&pod).await;
        }
        node.clean().await;
    });
}
