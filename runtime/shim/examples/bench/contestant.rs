//! Who is compared, and their pods.

use crate::support::cri::message::Message;
use crate::support::cri::{Node, Pod, own_processes, serves_pauseless, version};

/// Containerd's shim with a runtime, on one of the nodes.
pub struct Contestant {
    pub name: &'static str,
    /// Its name in containerd's configuration.
    runtime: &'static str,
    /// Whether its network is the reference plugins'.
    reference: bool,
    /// What it is, for people.
    pub is: &'static str,
}

pub const CONTESTANTS: [Contestant; 6] = [
    Contestant { name: "pea", runtime: "pea", reference: false, is: "containerd-shim-pea-v2, cni-bridge" },
    Contestant {
        name: "pauseless",
        runtime: "pauseless",
        reference: false,
        is: "the same without pause containers (sandboxer = \"shim\")",
    },
    Contestant {
        name: "runc",
        runtime: "runc",
        reference: true,
        is: "containerd-shim-runc-v2, runc, reference CNI plugins",
    },
    Contestant {
        name: "crun",
        runtime: "crun",
        reference: true,
        is: "containerd-shim-runc-v2, crun, reference CNI plugins",
    },
    Contestant { name: "runc, cni-bridge", runtime: "runc", reference: false, is: "the same with our plugin" },
    Contestant { name: "crun, cni-bridge", runtime: "crun", reference: false, is: "the same with our plugin" },
];

impl Contestant {
    /// Whether its whole life is measured; of the others only what the network has a part in.
    pub fn is_whole(&self) -> bool {
        self.reference || !self.name.contains(',')
    }
}

/// The two nodes.
pub struct Stack {
    pub ours: Node,
    pub reference: Node,
}

impl Stack {
    pub fn node(&self, contestant: &Contestant) -> &Node {
        if contestant.reference { &self.reference } else { &self.ours }
    }

    /// Those that work here.
    pub async fn working(&self) -> Vec<&'static Contestant> {
        let mut working = Vec::new();
        for contestant in &CONTESTANTS {
            if contestant.runtime == "pauseless" && !serves_pauseless(&version()) {
                println!("left out: pauseless (needs containerd 2.1: --sid)");
                continue;
            }
            match self.trial(contestant).await {
                Ok(()) => working.push(contestant),
                Err(why) => println!("left out: {}: {why}", contestant.name),
            }
        }
        working
    }

    async fn trial(&self, contestant: &Contestant) -> Result<(), String> {
        let pod = self.pod(contestant, "trial").await?;
        self.node(contestant).remove(&pod).await;
        Ok(())
    }

    pub async fn pod(&self, contestant: &Contestant, name: &str) -> Result<Pod, String> {
        let own = |config, linux: Message| (config, linux.message(2, Message::new().message(1, own_processes())));
        let name = format!("{}-{name}", contestant.runtime);
        let made = self.node(contestant).run_pod_by(contestant.runtime, &name, own).await;
        made.map_err(|status| status.message)
    }
}

/// A container that waits to be started.
pub async fn create(node: &Node, pod: &Pod, name: &str) -> String {
    let linux = Message::new().message(2, Message::new().message(3, own_processes()));
    node.create(pod, name, &["sleep", "1000000"], |config| config.message(15, linux)).await.unwrap()
}

/// Pods with some containers each.
#[derive(Default)]
pub struct Pods(Vec<Pod>);

impl Pods {
    /// Until there are so many, with one container each.
    pub async fn grow(&mut self, stack: &Stack, contestant: &Contestant, count: u32) {
        self.grow_by(stack, contestant, count, 1).await;
    }

    pub async fn grow_by(&mut self, stack: &Stack, contestant: &Contestant, count: u32, containers: u32) {
        let node = stack.node(contestant);
        while self.0.len() < count as usize {
            let pod = stack.pod(contestant, &format!("alive-{}", self.0.len())).await.unwrap();
            for container in 0..containers {
                let id = create(node, &pod, &format!("c{container}")).await;
                node.of("StartContainer", &id).await;
                node.exec(&id, &["true"]).await;
            }
            self.0.push(pod);
        }
    }

    pub async fn remove(self, stack: &Stack, contestant: &Contestant) {
        for pod in &self.0 {
            stack.node(contestant).remove(pod).await;
        }
    }
}
