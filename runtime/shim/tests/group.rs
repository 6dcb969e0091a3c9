//! Tasks that share a shim without a sandbox: the bundle it was started in is its first task's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pea_shim::client::{Bootstrap, CreateTask, Shim, Stdio, delete};
use support::pod::{Pod, binary, run};
use support::{alive, eventually};

/// A shim with two tasks, beside a pod in whose directory their bundles are and whose namespaces they join.
struct Group {
    pod: Pod,
    shim: Shim,
    shim_pid: u32,
    /// The inits of both.
    tasks: [u32; 2],
}

impl Group {
    async fn start() -> Self {
        let pod = Pod::start().await;
        let roots = ["one", "two"].map(|name| pod.prepare(name, &["sleep", "1000"], false, |_| {}));
        let (id, bundle) = (pod.container_id("one"), pod.bundle("one"));
        let address = Bootstrap::start(&binary(), &bundle, &pod.id, &id, pod.dir.path()).unwrap();
        let shim = Shim::connect(&address).await.unwrap();
        let shim_pid = shim.connect_task("nobody").await.unwrap().0;
        let mut tasks = [0; 2];
        for ((name, rootfs), pid) in ["one", "two"].into_iter().zip(roots).zip(&mut tasks) {
            let (id, bundle) = (pod.container_id(name), pod.bundle(name));
            let task = CreateTask { id, bundle, rootfs, stdio: Stdio::default(), ..CreateTask::default() };
            *pid = shim.create(&task).await.unwrap();
            shim.start(&task.id, None).await.unwrap();
        }
        Self { pod, shim, shim_pid, tasks }
    }

    fn delete(&self, name: &str) {
        let exit = delete(&binary(), &self.pod.bundle(name), &self.pod.id, &self.pod.container_id(name)).unwrap();
        assert_eq!(exit.status, 137);
    }

    /// That nothing is left of the group, nor then of the pod.
    async fn end(self) {
        eventually("the tasks' shim has ended", || !alive(self.shim_pid));
        assert!(self.tasks.iter().all(|pid| !alive(*pid)));
        let root = std::path::Path::new("/run/containerd/pea").join(&self.pod.id);
        std::fs::remove_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        self.pod.end().await;
    }
}

#[test]
fn the_delete_of_a_killed_shims_first_task_clears_up_after_the_others() {
    run(async {
        let group = Group::start().await;
        kill(Pid::from_raw(group.shim_pid as i32), Signal::SIGKILL).unwrap();
        // Not waited for: containerd, too, comes as soon as the connection is gone.
        group.delete("one");
        assert!(group.tasks.iter().all(|pid| !alive(*pid)));
        // containerd 1.x asks for that of each.
        group.delete("two");
        group.delete("one");
        group.end().await;
    });
}

#[test]
fn the_delete_of_the_first_task_leaves_the_others_to_a_shim_that_lives() {
    run(async {
        let group = Group::start().await;
        let [one, two] = ["one", "two"].map(|name| group.pod.container_id(name));
        group.shim.kill(&one, None, libc::SIGKILL as u32, false).await.unwrap();
        group.shim.wait(&one, None).await.unwrap();
        group.shim.delete(&one, None).await.unwrap();
        group.delete("one");
        assert!(alive(group.tasks[1]) && alive(group.shim_pid));
        group.shim.kill(&two, None, libc::SIGKILL as u32, false).await.unwrap();
        group.shim.wait(&two, None).await.unwrap();
        group.shim.delete(&two, None).await.unwrap();
        group.shim.shutdown().await.unwrap();
        kill(Pid::from_raw(group.shim_pid as i32), Signal::SIGTERM).unwrap();
        group.end().await;
    });
}
