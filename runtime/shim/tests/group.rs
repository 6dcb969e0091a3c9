//! Tasks that share a shim without a sandbox: the bundle it was started in is its first task's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;

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
        pod.prepare("one", &["sleep", "1000"], false, |_| {});
        let (id, bundle) = (pod.container_id("one"), pod.bundle("one"));
        let address = Bootstrap::start(&binary(), &bundle, &pod.id, &id, pod.dir.path()).unwrap();
        let shim = Shim::connect(&address).await.unwrap();
        let shim_pid = shim.connect_task("nobody").await.unwrap().0;
        let mut group = Self { pod, shim, shim_pid, tasks: [0; 2] };
        group.tasks = [group.task("one").await, group.task("two").await];
        group
    }

    /// Starts a task of the group, and returns its init.
    async fn task(&self, name: &str) -> u32 {
        let rootfs = self.pod.prepare(name, &["sleep", "1000"], false, |_| {});
        let (id, bundle) = (self.pod.container_id(name), self.pod.bundle(name));
        let task = CreateTask { id, bundle, rootfs, stdio: Stdio::default(), ..CreateTask::default() };
        let pid = self.shim.create(&task).await.unwrap();
        self.shim.start(&task.id, None).await.unwrap();
        pid
    }

    /// Ends a task, as containerd does while the shim lives: with the `delete` of its bundle after that of the task.
    async fn end_task(&self, name: &str) {
        let id = self.pod.container_id(name);
        self.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        self.shim.wait(&id, None).await.unwrap();
        self.shim.delete(&id, None).await.unwrap();
        self.delete(name);
    }

    fn delete(&self, name: &str) {
        let exit = delete(&binary(), &self.pod.bundle(name), &self.pod.id, &self.pod.container_id(name)).unwrap();
        assert_eq!(exit.status, 137);
    }

    /// Ends the tasks one after the other, the first without harm to the second.
    async fn live_to_the_end(self) {
        self.end_task("one").await;
        assert!(alive(self.tasks[1]) && alive(self.shim_pid));
        self.end_task("two").await;
        self.shim.shutdown().await.unwrap();
        kill(Pid::from_raw(self.shim_pid as i32), Signal::SIGTERM).unwrap();
        self.end().await;
    }

    /// That nothing is left of the group, nor then of the pod.
    async fn end(self) {
        eventually("the tasks' shim has ended", || !alive(self.shim_pid));
        assert!(self.tasks.iter().all(|pid| !alive(*pid)));
        let root = std::path::Path::new("/run/containerd/pea").join(&self.pod.id);
        fs::remove_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
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
        group.live_to_the_end().await;
    });
}

#[test]
fn a_shim_whose_socket_was_removed_is_not_taken_for_dead() {
    run(async {
        let group = Group::start().await;
        let socket = fs::read_to_string(group.pod.bundle("one").join("address")).unwrap();
        fs::remove_file(socket.strip_prefix("unix://").unwrap()).unwrap();
        group.live_to_the_end().await;
    });
}

#[test]
fn a_shim_that_stood_still_while_its_tasks_were_cleared_away_ends_with_the_last() {
    run(async {
        for all in [true, false] {
            let group = Group::start().await;
            let signal = |signal| kill(Pid::from_raw(group.shim_pid as i32), signal).unwrap();
            signal(Signal::SIGSTOP);
            group.delete("one");
            if all {
                group.delete("two");
            }
            assert!(alive(group.shim_pid));
            signal(Signal::SIGCONT);
            if !all {
                group.end_task("two").await;
                group.shim.shutdown().await.unwrap();
            }
            group.end().await;
        }
    });
}

#[test]
fn a_first_task_that_is_gone_leaves_no_bundle_behind_for_those_that_come_after_it() {
    run(async {
        let group = Group::start().await;
        group.end_task("one").await;
        fs::remove_dir_all(group.pod.bundle("one")).unwrap();
        let three = group.task("three").await;
        // containerd makes it anew for the next task of that name, and refuses one that is there.
        assert!(!group.pod.bundle("one").exists());
        group.end_task("three").await;
        assert!(!alive(three));
        group.end_task("two").await;
        group.shim.shutdown().await.unwrap();
        group.end().await;
    });
}
