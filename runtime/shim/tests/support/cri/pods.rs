//! Pods and containers by CRI's calls, as kubelet makes them.

use std::fs;

use super::grpc::Status;
use super::message::Message;
use super::{EXITED, IMAGE, Node};

/// A pod that runs.
pub struct Pod {
    pub id: String,
    pub config: Message,
}

/// pid: CONTAINER, the others: POD.
pub fn own_processes() -> Message {
    Message::new().number(2, 1)
}

impl Node {
    /// Runs a pod. `more` adds to its `PodSandboxConfig`, and to the part of it that is for Linux.
    pub async fn run_pod(
        &self,
        name: &str,
        more: impl FnOnce(Message, Message) -> (Message, Message),
    ) -> Result<Pod, Status> {
        self.run_pod_by("", name, more).await
    }

    /// The same, by one of the runtimes in the configuration.
    pub async fn run_pod_by(
        &self,
        runtime: &str,
        name: &str,
        more: impl FnOnce(Message, Message) -> (Message, Message),
    ) -> Result<Pod, Status> {
        let metadata = Message::new().text(1, name).text(2, &format!("uid-{name}")).text(3, "default");
        let logs = self.dir.path().join("logs").display().to_string();
        let config = Message::new().message(1, metadata).text(2, name).text(3, &logs);
        let (config, linux) = more(config, Message::new().text(1, &self.cgroup()));
        let config = config.message(8, linux);
        let reply = self.call("RunPodSandbox", &Message::new().message(1, config.clone()).text(2, runtime)).await?;
        Ok(Pod { id: reply.text(&[1]), config })
    }

    /// A pod whose containers have pid namespaces of their own, as is Kubernetes' default.
    pub async fn pod(&self, name: &str) -> Pod {
        let own = |config, linux: Message| (config, linux.message(2, Message::new().message(1, own_processes())));
        self.run_pod(name, own).await.unwrap_or_else(|status| panic!("pod {name}: {status:?}"))
    }

    /// Creates a container. `more` adds to its `ContainerConfig`.
    pub async fn create(
        &self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        more: impl FnOnce(Message) -> Message,
    ) -> Result<String, Status> {
        let config = Message::new()
            .message(1, Message::new().text(1, name))
            .message(2, Message::new().text(1, IMAGE))
            .texts(3, command)
            .text(11, &format!("{name}.log"));
        let request = Message::new().text(1, &pod.id).message(2, more(config)).message(3, pod.config.clone());
        Ok(self.call("CreateContainer", &request).await?.text(&[1]))
    }

    /// Creates and starts a container.
    pub async fn container(&self, pod: &Pod, name: &str, command: &[&str]) -> String {
        self.container_with(pod, name, command, |config| config).await
    }

    pub async fn container_with(
        &self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        more: impl FnOnce(Message) -> Message,
    ) -> String {
        // As with kubelet, its processes are in a pid namespace of its own.
        self.container_in(pod, name, command, own_processes(), more).await
    }

    /// The same, in these namespaces (a `NamespaceOption`).
    pub async fn container_in(
        &self,
        pod: &Pod,
        name: &str,
        command: &[&str],
        namespaces: Message,
        more: impl FnOnce(Message) -> Message,
    ) -> String {
        let linux = Message::new().message(2, Message::new().message(3, namespaces));
        let created = self.create(pod, name, command, |config| more(config.message(15, linux))).await;
        let id = created.unwrap_or_else(|status| panic!("container {name}: {status:?}"));
        self.of("StartContainer", &id).await;
        id
    }

    /// A container's state, exit code and reason.
    pub async fn status(&self, id: &str) -> (u64, u64, String) {
        let status = self.of("ContainerStatus", id).await;
        (status.number(&[1, 3]), status.number(&[1, 7]), status.text(&[1, 10]))
    }

    pub async fn until_exited(&self, id: &str) -> (u64, String) {
        self.until("the container has exited", async || self.status(id).await.0 == EXITED).await;
        let (_, code, reason) = self.status(id).await;
        (code, reason)
    }

    /// Runs a command as probes do: exit code, output, errors.
    pub async fn exec(&self, id: &str, command: &[&str]) -> (u64, String, String) {
        let request = Message::new().text(1, id).texts(2, command).number(3, 20);
        let done = self.call("ExecSync", &request).await.unwrap_or_else(|status| panic!("{command:?}: {status:?}"));
        (done.number(&[3]), done.text(&[1]), done.text(&[2]))
    }

    /// A container's log without times and streams.
    pub fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join("logs").join(format!("{name}.log"))).unwrap_or_default();
        let lines = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    pub async fn remove(&self, pod: &Pod) {
        self.of("StopPodSandbox", &pod.id).await;
        self.of("RemovePodSandbox", &pod.id).await;
    }

    /// Removes a pod whose shim has died, as kubelet does: again, for until containerd has cleared up it answers that the
    /// connection is broken.
    pub async fn remove_lost(&self, pod: &Pod) {
        for call in ["StopPodSandbox", "RemovePodSandbox"] {
            self.until(call, async || self.call(call, &Message::new().text(1, &pod.id)).await.is_ok()).await;
        }
    }

    /// Removes all pods there are.
    pub async fn remove_all(&self) {
        loop {
            // Of several the last one.
            let id = self.call("ListPodSandbox", &Message::new()).await.unwrap().text(&[1, 1]);
            if id.is_empty() {
                return;
            }
            self.of("StopPodSandbox", &id).await;
            self.of("RemovePodSandbox", &id).await;
        }
    }
}
