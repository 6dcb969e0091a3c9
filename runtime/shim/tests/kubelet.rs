//! Pods as kubelet wants them on a node with systemd and nothing but cgroup v2 (as in the machine of `scripts/vm`): a
//! slice a pod, a scope a container.
//!
//! What pods do in any case is the matter of cri.rs, which runs there with slices and scopes as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::cri::message::Message;
use support::cri::{Node, Pod, own_processes, sandboxer, systemd};
use support::pod::run;
use support::{alive, shims_below, status_field};

/// Whether there is no systemd, or other hierarchies than v2.
fn skipped() -> bool {
    if !systemd() || !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        testkit::skip("pods of slices and scopes want systemd and cgroup v2 (scripts/vm)");
        return true;
    }
    false
}

fn systemctl(arguments: &[&str]) -> String {
    testkit::output(Command::new("systemctl").args(arguments))
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

fn scope(id: &str) -> String {
    format!("cri-containerd-{id}.scope")
}

/// The container's cgroup, as containerd and kubelet look for it.
fn cgroup(node: &Node, id: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(node.cgroup().trim_start_matches('/')).join(scope(id))
}

fn file(cgroup: &Path, name: &str) -> String {
    let path = cgroup.join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn init(node: &Node, id: &str) -> u32 {
    file(&cgroup(node, id), "cgroup.procs").lines().next().unwrap().parse().unwrap()
}

fn oom_score(pid: u32) -> i32 {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

/// A container's `linux`, with these resources (a `LinuxContainerResources`).
fn limited(resources: Message) -> Message {
    Message::new().message(1, resources).message(2, Message::new().message(3, own_processes()))
}

async fn start(node: &Node, pod: &Pod, name: &str, command: &[&str], linux: Message) -> String {
    let id = node.create(pod, name, command, |config| config.message(15, linux)).await;
    let id = id.unwrap_or_else(|status| panic!("container {name}: {status:?}"));
    node.of("StartContainer", &id).await;
    id
}

/// A number of protobuf that is negative.
fn negative(number: i64) -> u64 {
    number as u64
}

#[test]
fn a_container_is_a_scope_with_its_limits_which_can_be_changed() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("limits").await;
        let resources = Message::new().number(1, 20_000).number(2, 5_000).number(3, 512).number(4, 64 << 20);
        let id = start(&node, &pod, "c", &["sleep", "1000"], limited(resources)).await;
        let cgroup = cgroup(&node, &id);
        let read = |names: [&str; 3]| names.map(|name| file(&cgroup, name));
        assert_eq!(read(["memory.max", "cpu.max", "cpu.weight"]), ["67108864", "5000 20000", "59"]);
        let slice = node.cgroup().rsplit('/').next().unwrap().to_owned();
        assert_eq!(property(&scope(&id), "Slice"), slice);
        assert_eq!(property(&scope(&id), "MemoryMax"), "67108864");
        let update = Message::new().text(1, &id).message(2, Message::new().number(2, 10_000).number(4, 96 << 20));
        node.call("UpdateContainerResources", &update).await.unwrap();
        assert_eq!(read(["memory.max", "cpu.max", "cpu.weight"]), ["100663296", "10000 20000", "59"]);
        assert_eq!(property(&scope(&id), "MemoryMax"), "100663296");
        // systemd writes what it knows into the cgroup again.
        systemctl(&["daemon-reload"]);
        assert_eq!(read(["memory.max", "cpu.max", "cpu.weight"]), ["100663296", "10000 20000", "59"]);
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn what_containers_and_pods_use_is_told_to_kubelet() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("stats").await;
        let busy = "dd if=/dev/zero of=/tmp/file bs=1M count=8 2> /dev/null; i=0; while :; do i=$((i+1)); done";
        let limit = Message::new().number(4, 64 << 20);
        let id = start(&node, &pod, "c", &["sh", "-c", busy], limited(limit)).await;
        let stats = async || node.of("ContainerStats", &id).await;
        node.until("processor time is counted", async || stats().await.number(&[1, 2, 2, 1]) > 10_000_000).await;
        let seen = stats().await;
        // working set, available, usage, rss: of `MemoryUsage`.
        let [working, available, usage, rss] = [2, 3, 4, 5].map(|field| seen.number(&[1, 3, field, 1]));
        assert!(working > 0 && usage >= working && rss > 0, "{working} {usage} {rss}");
        // Read by the kernel at one moment, so exact.
        assert_eq!(available + working, 64 << 20);
        let of_pod = node.of("PodSandboxStats", &pod.id).await;
        // `linux`: cpu, memory, network, process.
        assert!(of_pod.number(&[1, 2, 1, 2, 1]) > 10_000_000, "no processor time of the pod");
        assert!(of_pod.number(&[1, 2, 2, 2, 1]) > 0, "no memory of the pod");
        assert!(of_pod.number(&[1, 2, 4, 2, 1]) > 0, "no processes of the pod");
        let metrics = testkit::output(node.ctr().args(["task", "metrics", &id]));
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}: {metrics}")).trim().to_owned()
        };
        // The names of the v2 form.
        assert_eq!(value("pids.current"), "1");
        assert_eq!(value("memory.usage_limit"), (64 << 20).to_string());
        assert!(value("cpu.usage_usec").parse::<u64>().unwrap() > 10_000);
        node.remove(&pod).await;
        node.clean().await;
    });
}

/// The kernel takes away the cgroup of who is killed as soon as systemd hears that it is empty.
#[test]
fn who_is_killed_for_want_of_memory_is_told_to_be_however_soon_the_scope_is_gone() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("memory").await;
        for round in 0..5 {
            let limit = Message::new().number(4, 16 << 20);
            let greedy = ["sh", "-c", "exec tail -n 1 /dev/zero"];
            let id = start(&node, &pod, &format!("greedy{round}"), &greedy, limited(limit)).await;
            assert_eq!(node.until_exited(&id).await, (137, "OOMKilled".into()), "round {round}");
            node.of("RemoveContainer", &id).await;
        }
        node.remove(&pod).await;
        node.clean().await;
    });
}

/// Between the two scopes of a slice that are gone nothing tells but what was heard of them before.
#[test]
fn who_is_killed_otherwise_is_not_told_to_be_for_a_neighbours_want_of_memory() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("neighbours").await;
        let shim = Pid::from_raw(shims_below(node.dir.path())[0] as i32);
        let greedy = "echo 1000 > /proc/self/oom_score_adj; exec tail -n 1 /dev/zero";
        for (name, greedy) in [("lives", format!("({greedy}); exec sleep 1000")), ("dies", greedy.to_owned())] {
            let limit = limited(Message::new().number(4, 16 << 20));
            let script = format!("until [ -e /go ]; do sleep 0.1; done; {greedy}");
            let neighbour = start(&node, &pod, &format!("{name}-neighbour"), &["sh", "-c", &script], limit).await;
            let victim = node.container(&pod, &format!("{name}-victim"), &["sleep", "1000"]).await;
            let inits = [&neighbour, &victim].map(|id| init(&node, id));
            // It shall learn of all at once.
            kill(shim, Signal::SIGSTOP).unwrap();
            fs::write(format!("/proc/{}/root/go", inits[0]), "").unwrap();
            let gone = |id: &str| !cgroup(&node, id).exists();
            support::eventually("the neighbour is out of memory", || match name {
                "lives" => file(&cgroup(&node, &neighbour), "memory.events").contains("oom_kill 1"),
                _ => gone(&neighbour),
            });
            kill(Pid::from_raw(inits[1] as i32), Signal::SIGKILL).unwrap();
            support::eventually("systemd has removed the other's scope", || gone(&victim));
            kill(shim, Signal::SIGCONT).unwrap();
            assert_eq!(node.until_exited(&victim).await, (137, "Error".into()), "{name}");
            if name == "dies" {
                assert_eq!(node.until_exited(&neighbour).await, (137, "OOMKilled".into()));
            }
        }
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn who_breaks_the_limit_of_the_pod_is_told_to_be_killed_for_want_of_memory() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let slice = node.cgroup().rsplit('/').next().unwrap().to_owned();
        systemctl(&["start", &slice]);
        systemctl(&["set-property", "--runtime", &slice, "MemoryMax=48M", "MemorySwapMax=0"]);
        let pod = node.pod("podlimit").await;
        let quiet = node.container(&pod, "quiet", &["sleep", "1000"]).await;
        let id = node.container(&pod, "greedy", &["sh", "-c", "exec tail -n 1 /dev/zero"]).await;
        assert_eq!(node.until_exited(&id).await, (137, "OOMKilled".into()));
        assert_eq!(node.exec(&quiet, &["echo", "here"]).await.1, "here\n");
        node.remove(&pod).await;
        node.clean().await;
        systemctl(&["stop", &slice]);
        systemctl(&["revert", &slice]);
    });
}

#[test]
fn a_container_with_cgroups_of_its_own_is_entered_frozen_counted_and_removed() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        // Who is privileged sees the machine's cgroups, and may write there.
        let security = Message::new().message(1, own_processes()).number(6, 1);
        let pod = node.run_pod("nested", |config, linux| (config, linux.message(2, security))).await.unwrap();
        let security = Message::new().number(2, 1).message(3, own_processes());
        // As systemd in a container does: everything into a cgroup below, then controllers for those.
        let script = "own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $own/inner $own/other;
            echo 0 > $own/inner/cgroup.procs; echo +memory +pids > $own/cgroup.subtree_control;
            sleep 1001 & sleep 1002 & wait";
        let linux = Message::new().message(2, security);
        let id = start(&node, &pod, "c", &["sh", "-c", script], linux).await;
        let own = cgroup(&node, &id);
        node.until("it has moved", async || {
            own.join("inner/cgroup.procs").exists() && file(&own.join("inner"), "cgroup.procs").lines().count() == 3
        })
        .await;
        let (code, output, errors) = node.exec(&id, &["cat", "/proc/self/cgroup"]).await;
        assert_eq!((code, errors.as_str()), (0, ""), "an exec finds no way in");
        assert!(output.contains(&scope(&id)), "outside of the container's: {output}");
        assert!(testkit::output(node.ctr().args(["task", "ps", &id])).lines().count() >= 4);
        testkit::run(node.ctr().args(["task", "pause", &id]));
        assert_eq!(file(&own, "cgroup.events").lines().last(), Some("frozen 1"));
        testkit::run(node.ctr().args(["task", "resume", &id]));
        assert_eq!(file(&own, "cgroup.freeze"), "0");
        assert_eq!(node.exec(&id, &["echo", "here"]).await.1, "here\n");
        let sleeper = file(&own.join("inner"), "cgroup.procs").lines().last().unwrap().parse().unwrap();
        node.remove(&pod).await;
        assert!(!alive(sleeper));
        node.clean().await;
    });
}

#[test]
fn a_container_sees_its_cgroup_as_the_root() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("namespace").await;
        let id = node.container(&pod, "c", &["sleep", "1000"]).await;
        let see = "cat /proc/1/cgroup /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/not";
        let (_, output, errors) = node.exec(&id, &["sh", "-c", see]).await;
        assert_eq!(output, "0::/\n0::/\n/sys/fs/cgroup/cgroup.procs\n");
        assert!(errors.contains("Read-only"), "{errors}");
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn oom_scores_are_as_said_and_the_shims_is_one_more_than_its_starters() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("scores").await;
        for score in [-997, 0, 3, 1000] {
            let resources = Message::new().number(5, negative(score));
            let id = start(&node, &pod, &format!("c{score}"), &["sleep", "1000"], limited(resources)).await;
            assert_eq!(i64::from(oom_score(init(&node, &id))), score);
            assert_eq!(node.exec(&id, &["cat", "/proc/self/oom_score_adj"]).await.1, format!("{score}\n"));
        }
        let shim = shims_below(node.dir.path())[0];
        let daemon: u32 = status_field(std::process::id(), "Pid").parse().unwrap();
        assert_eq!(oom_score(shim), oom_score(daemon) + 1, "containerd has that of this process");
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn options_of_runcs_type_and_none_at_all_make_scopes_too() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::in_runcs_place().await;
        for runtime in ["runc", "plain"] {
            let own = |config, linux: Message| (config, linux.message(2, Message::new().message(1, own_processes())));
            let pod = node.run_pod_by(runtime, runtime, own).await.unwrap();
            let id = node.container(&pod, &format!("in-{runtime}"), &["sleep", "1000"]).await;
            assert_eq!(property(&scope(&id), "Description"), format!("pea container {id}"), "{runtime}");
            assert!(file(&cgroup(&node, &id), "cgroup.procs").lines().count() > 0);
            node.remove(&pod).await;
            node.clean().await;
        }
    });
}

/// Kubelet counts what is in the pod's slice, and ends it with the pod; the shim must live on to tell of that.
#[test]
fn the_shim_stays_where_containerd_is() {
    if skipped() {
        return;
    }
    run(async {
        let node = Node::start().await;
        let pod = node.pod("place").await;
        expect_with_containerd(shims_below(node.dir.path())[0]);
        let slice = Path::new("/sys/fs/cgroup").join(node.cgroup().trim_start_matches('/'));
        assert_eq!(slice.join(scope(&pod.id)).exists(), sandboxer() != "shim", "the pause container");
        node.remove(&pod).await;
        node.clean().await;
    });
}

/// (containerd has the cgroup of this process.)
fn expect_with_containerd(shim: u32) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap(), own);
}

#[test]
fn without_a_pause_container_a_pod_is_the_same_scopes_in_its_slice() {
    if skipped() {
        return;
    }
    run(async {
        let Some(node) = Node::pauseless().await else { return };
        let pod = node.pod("pauseless").await;
        let shim = shims_below(node.dir.path())[0];
        expect_with_containerd(shim);
        let limit = || limited(Message::new().number(4, 16 << 20));
        let greedy = start(&node, &pod, "greedy", &["sh", "-c", "exec tail -n 1 /dev/zero"], limit()).await;
        assert_eq!(node.until_exited(&greedy).await, (137, "OOMKilled".into()));
        let id = start(&node, &pod, "c", &["sleep", "1000"], limit()).await;
        assert_eq!(file(&cgroup(&node, &id), "memory.max"), (16 << 20).to_string());
        let sleeper = init(&node, &id);
        kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
        node.until_exited(&id).await;
        node.remove(&pod).await;
        assert!(!alive(sleeper));
        node.clean().await;
    });
}
