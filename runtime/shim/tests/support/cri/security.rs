//! What CRI can be asked for of a pod's and a container's security.

use super::message::{Message, Reply};
use super::{Node, Pod, own_processes};

/// CRI's NamespaceMode.
pub const POD: u64 = 0;
pub const CONTAINER: u64 = 1;
pub const NODE: u64 = 2;
pub const TARGET: u64 = 3;

/// Where root of a pod with users of its own is on the node, and how many ids follow.
pub const FIRST: u32 = 200_000;
pub const IDS: u32 = 65_536;

pub fn namespaces(network: u64, pid: u64, ipc: u64) -> Message {
    Message::new().number(1, network).number(2, pid).number(3, ipc)
}

/// An `IDMapping`.
pub fn mapping() -> Message {
    Message::new().number(1, FIRST.into()).number(3, IDS.into())
}

/// The same, with users of the pod's own.
pub fn with_users(namespaces: Message) -> Message {
    namespaces.message(5, Message::new().message(2, mapping()).message(3, mapping()))
}

/// What a pod and its containers are asked for.
pub struct Wanted {
    /// A `NamespaceOption`.
    pub namespaces: Message,
    /// The rest of a `LinuxSandboxSecurityContext`.
    pub security: Message,
    /// The rest of a `LinuxPodSandboxConfig`.
    pub linux: Message,
    /// The rest of a `PodSandboxConfig`.
    pub config: Message,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { namespaces: own_processes(), security: Message::new(), linux: Message::new(), config: Message::new() }
    }
}

/// What one container is asked for.
#[derive(Clone, Default)]
pub struct Asked {
    /// The rest of a `LinuxContainerSecurityContext`, beside its namespaces.
    pub security: Message,
    /// A `LinuxContainerResources`.
    pub resources: Message,
    /// The rest of a `ContainerConfig`.
    pub config: Message,
}

impl Node {
    /// Runs a pod by a runtime of the configuration.
    pub async fn wanted(&self, runtime: &str, name: &str, wanted: Wanted) -> Pod {
        let Wanted { namespaces, security, linux, config: rest } = wanted;
        let more = |config: Message, common: Message| {
            (config.and(&rest), common.and(&linux).message(2, security.message(1, namespaces)))
        };
        let pod = self.run_pod_by(runtime, name, more).await;
        pod.unwrap_or_else(|status| panic!("pod {name} by {runtime:?}: {status:?}"))
    }

    /// Creates and starts a container in these namespaces.
    pub async fn asked(&self, pod: &Pod, name: &str, command: &[&str], namespaces: Message, asked: &Asked) -> String {
        let security = asked.security.clone().message(3, namespaces);
        let linux = Message::new().message(1, asked.resources.clone()).message(2, security);
        let created = self.create(pod, name, command, |config| config.and(&asked.config).message(15, linux)).await;
        let id = created.unwrap_or_else(|status| panic!("container {name}: {status:?}"));
        let started = self.call("StartContainer", &Message::new().text(1, &id)).await;
        started.unwrap_or_else(|status| panic!("start container {name}: {status:?}"));
        id
    }

    /// What a command says in a container; it must succeed and complain of nothing.
    pub async fn says(&self, id: &str, command: &str) -> String {
        let (code, output, errors) = self.exec(id, &["sh", "-c", command]).await;
        assert_eq!((code, errors.as_str()), (0, ""), "{command}: {output}");
        output
    }

    /// The runtimes of `wanted` that this containerd has.
    pub fn runtimes(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        let version = super::version();
        let has = |name: &str| match name {
            "pauseless" => super::serves_pauseless(&version),
            // Before, it takes no notice of a path.
            "by-path" => super::serves_users(&version),
            _ => true,
        };
        wanted.iter().copied().filter(|name| has(name)).collect()
    }
}

impl Reply {
    /// Every message of that number.
    pub fn each(&self, number: u64) -> Vec<Reply> {
        super::message::messages(&self.0, number)
    }
}
