//! What pods have left on a node.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::super::{DEADLINE, cgroups_named, mounts_below, shims_below};
use super::{Node, systemd};

impl Node {
    /// The containers in pea's state root, which the configuration names.
    pub fn kept_by_pea(&self) -> Vec<String> {
        let kept = fs::read_dir(self.dir.path().join("pea/k8s.io")).into_iter().flatten().flatten();
        let names = kept.map(|entry| entry.file_name().into_string().unwrap());
        // What it keeps of seccomp profiles is no container.
        names.filter(|name| !name.starts_with('@')).collect()
    }

    /// What is left of pods, one item a line; empty when all is clean.
    pub fn remains(&self) -> Vec<String> {
        let mut left: Vec<String> = shims_below(self.dir.path()).iter().map(|pid| format!("shim {pid}")).collect();
        left.extend(mounts_below(&self.dir.path().join("state")).iter().filter(|mount| !is_daemons(mount)).cloned());
        left.extend(self.cgroups_left());
        for directory in ["io.containerd.runtime.v2.task/k8s.io", "io.containerd.grpc.v1.cri/sandboxes", "netns"] {
            let entries = fs::read_dir(self.dir.path().join("state").join(directory)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        left.extend(self.kept_by_pea());
        let leases = fs::read_dir(self.dir.path().join("leases/pods")).into_iter().flatten().flatten();
        left.extend(
            leases.map(|lease| lease.file_name().into_string().unwrap()).filter(|name| name.starts_with("10.")),
        );
        left
    }

    /// Of pods. A slice is kubelet's to remove, with the pod; what is in it is not.
    fn cgroups_left(&self) -> Vec<String> {
        if !systemd() {
            let left = cgroups_named(self.cgroup().trim_start_matches('/'));
            return left.iter().map(|path| path.display().to_string()).collect();
        }
        let slice = fs::read_dir(format!("/sys/fs/cgroup{}", self.cgroup())).into_iter().flatten().flatten();
        let cgroups = slice.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string());
        let units = testkit::output(Command::new("systemctl").args(["list-units", "--all", "--plain", "--no-legend"]));
        let units = units.lines().filter(|line| line.starts_with("cri-containerd-")).map(str::to_owned);
        cgroups.chain(units).collect()
    }

    pub async fn clean(&self) {
        let end = std::time::Instant::now() + DEADLINE;
        while !self.remains().is_empty() {
            assert!(std::time::Instant::now() < end, "left behind: {:#?}", self.remains());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The plugin's own: it keeps a mount of its directory of namespaces.
fn is_daemons(mount: &str) -> bool {
    mount.split(' ').nth(4).is_some_and(|place| place.ends_with("/netns"))
}
