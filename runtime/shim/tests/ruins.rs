//! What a shim relies on is taken away under it: bundles, control groups, state, space on the disk. It says what is wrong,
//! tells how its processes end, and what can be removed is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use pea_shim::client::{Error, Stdio};
use support::containerd::Containerd;
use support::crowd::Holdings;
use support::pod::{Pod, exec_to_end, run, shell};
use support::{alive, cgroups_named, eventually, shims_with_id};

/// The container's cgroup in every hierarchy that has one.
fn cgroups(pod: &Pod, name: &str) -> Vec<PathBuf> {
    let all = cgroups_named(&pod.id).into_iter().map(|parent| parent.join(name));
    all.filter(|cgroup| cgroup.is_dir()).collect()
}

fn said<T: std::fmt::Debug>(refused: Result<T, Error>) -> String {
    refused.unwrap_err().to_string()
}

async fn kill(pod: &Pod, name: &str) {
    pod.shim.kill(&pod.container_id(name), None, libc::SIGKILL as u32, false).await.unwrap();
}

#[test]
fn a_container_without_its_bundle_and_its_files_ends_and_is_deleted() {
    run(async {
        let pod = Pod::start().await;
        let before = Holdings::of(pod.shim_pid);
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        // All but what is mounted on: that is emptied too, and so is what it is made of.
        for entry in fs::read_dir(pod.bundle("c")).unwrap().flatten() {
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        }
        assert!(!pod.bundle("c").join("config.json").exists() && !pod.bundle("c").join("upper").exists());
        kill(&pod, "c").await;
        assert_eq!(pod.finish("c").await.status, 137);
        assert_eq!(Holdings::of(pod.shim_pid), before);
        pod.end().await;
    });
}

#[test]
fn a_container_whose_processes_were_moved_and_whose_cgroup_was_removed_ends_and_is_deleted() {
    run(async {
        let pod = Pod::start().await;
        let init = pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let id = pod.container_id("c");
        for cgroup in cgroups(&pod, "c") {
            let root = cgroup.ancestors().find(|above| !above.join("cgroup.procs").exists()).unwrap();
            let root = cgroup.ancestors().take_while(|above| *above != root).last().unwrap();
            fs::write(root.join("cgroup.procs"), init.to_string()).unwrap();
            fs::remove_dir(&cgroup).unwrap();
        }
        assert_eq!(cgroups(&pod, "c"), Vec::<PathBuf>::new());
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &shell("exit 3"), &Stdio::default()).await, 3);
        kill(&pod, "c").await;
        assert_eq!(pod.finish("c").await.status, 137);
        assert!(!alive(init));
        pod.end().await;
    });
}

#[test]
fn a_container_whose_state_was_removed_ends_and_is_deleted() {
    run(async {
        let pod = Pod::start().await;
        let init = pod.start_container("c", &["sh", "-c", "sleep 1000 & sleep 1001"], Stdio::default()).await;
        let id = pod.container_id("c");
        fs::remove_dir_all(pod.dir.path().join("pea")).unwrap();
        pod.shim.exec(&id, "e", &shell("exit 3"), &Stdio::default()).await.unwrap();
        let refused = said(pod.shim.start(&id, Some("e")).await);
        assert!(refused.contains("does not exist"), "{refused}");
        kill(&pod, "c").await;
        assert_eq!(pod.finish("c").await.status, 137);
        assert!(!alive(init));
        pod.end().await;
    });
}

/// A small file system in memory, full to the last byte.
struct Full(PathBuf);

impl Full {
    fn at(place: &Path, options: &str) -> Self {
        mount(Some("full"), place, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        let full = Self(place.to_owned());
        full.fill();
        full
    }

    fn fill(&self) {
        let _ = fs::write(self.0.join("filler"), vec![0; 1 << 20]);
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = umount(&self.0);
    }
}

#[test]
fn without_space_for_the_state_there_is_no_container_and_nothing_of_one() {
    run(async {
        let pod = Pod::start().await;
        let before = Holdings::of(pod.shim_pid);
        let full = Full::at(&pod.dir.path().join("pea"), "size=16k");
        let refused = said(pod.create("c", &["sleep", "1000"], Stdio::default()).await);
        assert!(refused.to_lowercase().contains("no space left"), "{refused}");
        assert_eq!(Holdings::of(pod.shim_pid), before);
        assert_eq!(cgroups(&pod, "c"), Vec::<PathBuf>::new());
        full.empty();
        assert_eq!(fs::read_dir(&full.0).unwrap().count(), 0);
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        full.fill();
        let id = pod.container_id("c");
        assert_eq!(exec_to_end(&pod.shim, &id, "e", &shell("exit 3"), &Stdio::default()).await, 3);
        kill(&pod, "c").await;
        assert_eq!(pod.finish("c").await.status, 137);
        full.empty();
        drop(full);
        pod.end().await;
    });
}

#[test]
fn without_space_in_the_bundle_there_is_no_container_and_an_end_is_told_all_the_same() {
    run(async {
        let pod = Pod::start().await;
        let before = Holdings::of(pod.shim_pid);
        let place = pod.dir.path().join("containers");
        let rootfs = pod.prepare("c", &["sleep", "1000"], false, |_| {});
        let config = fs::read(pod.bundle("c").join("config.json")).unwrap();
        let full = Full::at(&place, "size=32k");
        full.empty();
        for part in ["rootfs", "upper", "work"] {
            fs::create_dir_all(pod.bundle("c").join(part)).unwrap();
        }
        fs::write(pod.bundle("c").join("config.json"), config).unwrap();
        full.fill();
        let refused = said(pod.create_on("c", rootfs.clone(), Stdio::default()).await);
        assert!(refused.to_lowercase().contains("no space left"), "{refused}");
        assert_eq!(Holdings::of(pod.shim_pid), before);
        full.empty();
        pod.create_on("c", rootfs, Stdio::default()).await.unwrap();
        let id = pod.container_id("c");
        pod.shim.start(&id, None).await.unwrap();
        full.fill();
        kill(&pod, "c").await;
        assert_eq!(pod.finish("c").await.status, 137);
        drop(full);
        pod.end().await;
    });
}

/// The directory of a task under a private containerd.
fn bundle_of(containerd: &Containerd, id: &str) -> PathBuf {
    containerd.dir.path().join("state/io.containerd.runtime.v2.task").join(&containerd.namespace).join(id)
}

#[test]
fn containerd_kills_and_deletes_a_task_whose_bundle_is_gone() {
    let containerd = Containerd::start();
    let id = containerd.id("bundle");
    testkit::run(&mut containerd.run(&["-d"], &id, &["sleep", "1000"]));
    let shim = shims_with_id(&id)[0];
    fs::remove_dir_all(bundle_of(&containerd, &id)).unwrap();
    testkit::run(&mut containerd.ctr(&["task", "kill", "-s", "KILL", &id]));
    eventually("stopped", || containerd.output(&["task", "ls"]).contains("STOPPED"));
    let deleted = containerd.try_ctr(&["task", "rm", &id]);
    assert!(String::from_utf8_lossy(&deleted.stderr).contains("137"), "{deleted:?}");
    eventually("the shim has ended", || !alive(shim));
    assert_eq!(cgroups_named(&id), Vec::<PathBuf>::new());
}
