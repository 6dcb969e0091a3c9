//! Pods with users of their own (user_namespaces(7)), through CRI: containerd from 1.7, and from 2.1 without a pause
//! container too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use pea_shim::client::{Bootstrap, CreateTask, Shim};
use pea_shim::sandbox::{IdRange, Namespace, SandboxOptions, Users};
use serde_json::json;
use support::cri::message::Message;
use support::cri::security::{Asked, CONTAINER, FIRST, IDS, NODE, POD, Wanted, mapping, namespaces, with_users};
use support::cri::{Node, Pod, serves_pauseless, serves_pauseless_fully, serves_users, version};
use support::pod::{binary, run};
use support::{alive, processes, shims_below, status_field};

/// How a pod with users can be run: a type of runtime of its own, the type whose features containerd asks for, without a
/// pause container; and pea under containerd's own shim.
const RUNTIMES: [&str; 4] = ["plain", "by-path", "pauseless", "below"];

async fn node() -> Option<Node> {
    let version = version();
    if !serves_users(&version) {
        testkit::skip(&format!(
            "pods with users of their own need containerd 1.7 (scripts/test --sid); this is {version}"
        ));
        return None;
    }
    Some(Node::start().await)
}

/// Whether containerd asks for mounts whose files have other owners than on disk. 1.7 does not.
fn maps_mounts() -> bool {
    serves_pauseless(&version())
}

async fn pod_with_users(node: &Node, runtime: &str, pid: u64) -> Pod {
    let sysctls = [("net.core.somaxconn", "99"), ("net.ipv4.ping_group_range", "0 65535"), ("kernel.shmmni", "77")];
    // Before Linux 6.11 the last one is not for a pod's root to set, which a pause container's runtime is by then.
    let count = if runtime == "pauseless" { 3 } else { 2 };
    let linux = sysctls[..count].iter().fold(Message::new(), |linux, (name, value)| linux.entry(3, name, value));
    let namespaces = with_users(namespaces(POD, pid, POD));
    node.wanted(runtime, "users", Wanted { namespaces, linux, ..Wanted::default() }).await
}

/// The pid on the node of the process with these arguments.
fn pid_of(arguments: &[&str]) -> u32 {
    let found =
        processes(|line| line.iter().map(String::as_str).filter(|word| !word.is_empty()).eq(arguments.to_vec()));
    assert_eq!(found.len(), 1, "{arguments:?}");
    found[0]
}

#[test]
fn root_of_a_pod_is_nobody_on_the_node_and_owns_what_is_the_pods() {
    run(async {
        let Some(node) = node().await else { return };
        for (runtime, seconds) in node.runtimes(&RUNTIMES).into_iter().zip(["70411", "70412", "70413", "70414"]) {
            let pod = pod_with_users(&node, runtime, CONTAINER).await;
            let own = with_users(namespaces(POD, CONTAINER, POD));
            let command = format!("echo out > /dev/stdout; echo err > /dev/stderr; exec sleep {seconds}");
            let id = node.asked(&pod, "c", &["sh", "-c", &command], own.clone(), &Asked::default()).await;
            for map in ["uid_map", "gid_map"] {
                let numbers = node.says(&id, &format!("cat /proc/self/{map}")).await;
                let numbers: Vec<u32> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
                assert_eq!(numbers, [0, FIRST, IDS], "{runtime}: {map}");
            }
            let pid = pid_of(&["sleep", seconds]);
            assert_eq!(status_field(pid, "Uid").split_whitespace().next().unwrap(), FIRST.to_string(), "{runtime}");
            assert_eq!(node.says(&id, "stat -c %u:%g / /bin/busybox /dev").await, "0:0\n".repeat(3), "{runtime}");
            let hosts = if maps_mounts() { "0:0\n" } else { "65534:65534\n" };
            assert_eq!(node.says(&id, "stat -c %u:%g /etc/hosts").await, hosts, "{runtime}");
            // What is made in the root file system is the pod's also for the node.
            assert_eq!(node.says(&id, "touch /made; chown 7:8 /made; stat -c %u:%g /made").await, "7:8\n");
            let made = fs::metadata(format!("/proc/{pid}/root/made")).unwrap();
            assert_eq!((made.uid(), made.gid()), (FIRST + 7, FIRST + 8), "{runtime}");
            // Programs may open their streams again.
            node.until("the output is in the log", async || node.log("c").lines().count() == 2).await;
            assert_eq!(node.says(&id, "hostname; cat /etc/hostname").await, "users\nusers\n", "{runtime}");
            let sysctls = "cd /proc/sys; cat net/core/somaxconn net/ipv4/ping_group_range";
            assert_eq!(node.says(&id, sysctls).await, "99\n0\t65535\n", "{runtime}");
            if runtime == "pauseless" {
                assert_eq!(node.says(&id, "cat /proc/sys/kernel/shmmni").await, "77\n");
            }
            node.says(&id, "mount | grep -q ' /dev/mqueue ' && echo words > /dev/shm/common").await;
            let other = node.asked(&pod, "d", &["sleep", "1000"], own, &Asked::default()).await;
            assert_eq!(node.says(&other, "cat /dev/shm/common").await, "words\n", "{runtime}");
            for namespace in ["user", "ipc", "net", "uts"] {
                let link = format!("readlink /proc/self/ns/{namespace}");
                assert_eq!(node.says(&id, &link).await, node.says(&other, &link).await, "{runtime}: {namespace}");
            }
            // Over the bridge, to the node and back.
            assert_eq!(
                node.says(&id, "ping -c 1 -W 5 -q 10.88.0.1 | grep -c ' 0% packet loss'").await,
                "1\n",
                "{runtime}"
            );
            let mount = node.exec(&id, &["mount", "-t", "tmpfs", "none", "/tmp"]).await;
            assert_ne!(mount.0, 0, "{runtime}: the capabilities are not those of a container");
            node.remove(&pod).await;
            fs::remove_file(node.dir.path().join("logs/c.log")).unwrap();
        }
        node.clean().await;
    });
}

#[test]
fn a_volume_of_the_nodes_has_the_nodes_owners_where_it_is_mapped() {
    run(async {
        let Some(node) = node().await else { return };
        if !maps_mounts() {
            return testkit::skip("volumes with the node's owners: containerd 2 maps them");
        }
        let volume = node.dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        for (name, owner) in [("of-root", 0), ("of-web", 1000)] {
            fs::write(volume.join(name), "words").unwrap();
            chown(volume.join(name), Some(owner), Some(owner)).unwrap();
        }
        for runtime in node.runtimes(&RUNTIMES) {
            let pod = pod_with_users(&node, runtime, CONTAINER).await;
            let mount = |place: &str| Message::new().text(1, place).text(2, volume.to_str().unwrap());
            let mapped = mount("/mapped").message(6, mapping()).message(7, mapping());
            let config = Message::new().message(7, mapped).message(7, mount("/plain"));
            let asked = Asked { config, ..Asked::default() };
            let own = with_users(namespaces(POD, CONTAINER, POD));
            let id = node.asked(&pod, "c", &["sleep", "1000"], own, &asked).await;
            let owners = |place: &str| format!("cd {place}; stat -c %u:%g of-root of-web");
            assert_eq!(node.says(&id, &owners("/mapped")).await, "0:0\n1000:1000\n", "{runtime}");
            assert_eq!(node.says(&id, &owners("/plain")).await, "65534:65534\n".repeat(2), "{runtime}");
            node.says(&id, "touch /mapped/made; chown 5:6 /mapped/made").await;
            let made = fs::metadata(volume.join("made")).unwrap();
            assert_eq!((made.uid(), made.gid()), (5, 6), "{runtime}");
            assert_ne!(node.exec(&id, &["touch", "/plain/other"]).await.0, 0, "{runtime}: it may write what is root's");
            fs::remove_file(volume.join("made")).unwrap();
            node.remove(&pod).await;
        }
        node.clean().await;
    });
}

#[test]
fn containers_with_common_processes_and_users_have_an_init_they_cannot_look_into() {
    run(async {
        let Some(node) = node().await else { return };
        let inits = [("plain", "sleep"), ("pauseless", "peapod-init")];
        let known = node.runtimes(&inits.map(|(runtime, _)| runtime));
        for (runtime, name) in inits.into_iter().filter(|(runtime, _)| known.contains(runtime)) {
            let pod = pod_with_users(&node, runtime, POD).await;
            let shared = with_users(namespaces(POD, POD, POD));
            let all = Message::new().message(1, Message::new().text(1, "ALL"));
            let asked = Asked { security: all, ..Asked::default() };
            let one = node.asked(&pod, "one", &["sleep", "70431"], shared.clone(), &asked).await;
            let two = node.asked(&pod, "two", &["sleep", "70432"], shared, &Asked::default()).await;
            let seen = node.says(&two, "ps -o args; cat /proc/1/comm").await;
            assert!(seen.contains("sleep 70431") && seen.ends_with(&format!("{name}\n")), "{runtime}: {seen}");
            if runtime == "pauseless" {
                // A process that nobody waits for.
                node.says(&two, "(sleep 0.01 &)").await;
                let zombies = async || node.says(&two, "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l").await;
                node.until("orphans are reaped", async || zombies().await == "0\n").await;
                assert_eq!(node.says(&one, "stat -c %u /proc/1/stat").await, "65534\n", "whose it is");
                let rights = node.says(&one, "sed -n 's/CapEff:\t*//p' /proc/self/status").await;
                let rights = u64::from_str_radix(rights.trim(), 16).unwrap();
                assert_ne!(rights & 1 << 19, 0, "the container may not trace anybody, so nothing is proven");
                for secret in [
                    "readlink /proc/1/exe",
                    "cat /proc/1/environ",
                    "ls /proc/1/fd/",
                    "ls /proc/1/root/",
                    "cat /proc/1/maps",
                ] {
                    let (code, output, errors) = node.exec(&one, &["sh", "-c", secret]).await;
                    assert!(code != 0 && output.is_empty(), "{secret}: {code} {output} {errors}");
                }
            }
            node.remove(&pod).await;
        }
        node.clean().await;
    });
}

#[test]
fn a_pod_with_users_may_be_in_the_nodes_network() {
    run(async {
        if !serves_pauseless_fully(&version()) {
            return testkit::skip("users of a pod's own in the node's network: containerd 2.4 serves that");
        }
        let node = Node::start().await;
        for runtime in RUNTIMES {
            let shared = || with_users(namespaces(NODE, CONTAINER, POD));
            let config = Message::new().text(2, "");
            let pod = node.wanted(runtime, "node", Wanted { namespaces: shared(), config, ..Wanted::default() }).await;
            let id = node.asked(&pod, "c", &["sleep", "1000"], shared(), &Asked::default()).await;
            let map = node.says(&id, "cat /proc/self/uid_map").await;
            assert_eq!(map.split_whitespace().nth(1).unwrap(), FIRST.to_string(), "{runtime}");
            for (namespace, nodes) in [("net", true), ("user", false), ("ipc", false)] {
                let own = fs::read_link(format!("/proc/thread-self/ns/{namespace}")).unwrap();
                let seen = node.says(&id, &format!("readlink /proc/self/ns/{namespace}")).await;
                assert_eq!(seen.trim() == own.to_str().unwrap(), nodes, "{runtime}: {namespace}");
            }
            assert_ne!(
                node.exec(&id, &["ip", "link", "set", "lo", "down"]).await.0,
                0,
                "{runtime}: it may change the node's"
            );
            node.says(&id, "echo words > /dev/shm/file").await;
            node.remove(&pod).await;
        }
        node.clean().await;
    });
}

#[test]
fn nothing_is_left_of_a_pod_with_users_whose_shim_is_killed() {
    run(async {
        let Some(node) = node().await else { return };
        let Some(runtime) = node.runtimes(&["pauseless"]).pop() else { return };
        let pod = pod_with_users(&node, runtime, CONTAINER).await;
        let own = with_users(namespaces(POD, CONTAINER, POD));
        let id = node.asked(&pod, "c", &["sleep", "70441"], own, &Asked::default()).await;
        let shim = shims_below(node.dir.path())[0];
        let children = children(shim);
        assert_eq!(children.len(), 2, "the init and the container: {children:?}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
        node.until_exited(&id).await;
        support::eventually("its processes have ended", || !children.iter().any(|pid| alive(*pid)));
        node.remove_lost(&pod).await;
        node.clean().await;
    });
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// A shim without containerd, and what it says to a sandbox with these users.
async fn sandbox(users: Users, netns: Option<&str>) -> (tempfile::TempDir, Shim, Result<u32, String>) {
    let dir = testkit::scratch();
    fs::create_dir(dir.path().join("bundle")).unwrap();
    let address = Bootstrap::start(&binary(), &dir.path().join("bundle"), "test", "users", dir.path()).unwrap();
    let shim = Shim::connect(&address).await.unwrap();
    let options = SandboxOptions {
        hostname: "web".into(),
        namespaces: vec![Namespace::Ipc, Namespace::Network, Namespace::Uts],
        users: Some(users),
        pea_root: Some(dir.path().join("pea")),
        ..SandboxOptions::default()
    };
    let made = shim.create_sandbox("users", &dir.path().join("bundle"), netns.map(AsRef::as_ref), &options).await;
    let pid = match made {
        Ok(()) => Ok(shim.start_sandbox("users").await.unwrap().pid),
        Err(error) => Err(error.to_string()),
    };
    (dir, shim, pid)
}

fn ids(inside: u32) -> Users {
    let range = IdRange { inside, outside: FIRST, size: IDS };
    Users { uids: vec![range], gids: vec![range] }
}

#[test]
fn a_user_namespace_is_made_where_no_network_brings_one() {
    run(async {
        testkit::enter_node();
        let (_dir, shim, pid) = sandbox(ids(0), None).await;
        let pid = pid.unwrap();
        assert_eq!(status_field(pid, "Uid"), [FIRST.to_string().as_str(); 4].join("\t"));
        assert_eq!(status_field(pid, "Groups"), "");
        let map = fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
        for namespace in ["user", "ipc", "net", "uts"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("thread-self"), "{namespace}");
        }
        shim.shutdown_sandbox("users").await.unwrap();
        support::eventually("the init has ended", || !alive(pid));
    });
}

#[test]
fn hooks_in_a_pod_with_users_are_told_on_the_node_and_those_of_the_container_in_the_pod() {
    run(async {
        testkit::enter_node();
        let (dir, shim, pid) = sandbox(ids(0), None).await;
        let (dir, pid) = (dir.path(), pid.unwrap());
        // The pod's root is nobody here, and has to find its root file system.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let (bundle, told) = (dir.join("c"), dir.join("told"));
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        testkit::busybox_rootfs(&bundle.join("rootfs"));
        let _ = fs::create_dir(bundle.join("rootfs/dev"));
        fs::create_dir(&told).unwrap();
        fs::set_permissions(&told, fs::Permissions::from_mode(0o777)).unwrap();
        let kinds = ["prestart", "createRuntime", "poststart", "poststop", "createContainer"];
        let hook = |kind: &str| {
            let script = format!("readlink /proc/self/ns/net /proc/self/ns/user > {}/{kind}", told.display());
            (kind.to_owned(), json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]))
        };
        let joined = [("user", "user"), ("ipc", "ipc"), ("network", "net"), ("uts", "uts")];
        let joined = joined.map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        let namespaces = [joined.to_vec(), vec![json!({"type": "mount"}), json!({"type": "pid"})]].concat();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
            "hooks": kinds.iter().map(|kind| hook(kind)).collect::<serde_json::Map<_, _>>(),
            "linux": {"namespaces": namespaces}
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let id = format!("c{pid}");
        shim.create(&CreateTask { id: id.clone(), bundle, ..CreateTask::default() }).await.unwrap();
        shim.start(&id, None).await.unwrap();
        assert_eq!(shim.wait(&id, None).await.unwrap().status, 0);
        shim.delete(&id, None).await.unwrap();
        let of = |process: &str, name: &str| {
            fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap().display().to_string()
        };
        for kind in kinds {
            let process = if kind == "createContainer" { pid.to_string() } else { "thread-self".to_owned() };
            let expected = format!("{}\n{}\n", of(&process, "net"), of(&process, "user"));
            assert_eq!(fs::read_to_string(told.join(kind)).unwrap(), expected, "{kind}");
        }
        shim.shutdown_sandbox("users").await.unwrap();
    });
}

#[test]
fn users_that_cannot_be_are_refused_and_nothing_runs() {
    run(async {
        testkit::enter_node();
        let own = format!("/proc/{}/ns/net", nix::unistd::gettid());
        let mut other = Command::new("unshare").args(["-U", "-r", "-n", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        support::eventually("the other has its users", || {
            fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap() == "cat\n"
        });
        let others = format!("/proc/{}/ns/net", other.id());
        let twice = Users { uids: [ids(0).uids, ids(0).uids].concat(), ..ids(0) };
        for (users, netns, complaint) in [
            (ids(1), None, "user 0"),
            (ids(0), Some(own.as_str()), "the node's user namespace"),
            (ids(0), Some(others.as_str()), "uid_map is \"0 0 1\""),
            (twice, None, "uid_map"),
        ] {
            let (_dir, shim, refused) = sandbox(users, netns).await;
            let refused = refused.unwrap_err();
            assert!(refused.contains(complaint), "{refused}");
            let pid = shim.connect_task("nobody").await.unwrap().0;
            assert_eq!(children(pid), Vec::<u32>::new(), "{complaint}");
            shim.shutdown_sandbox("users").await.unwrap();
        }
        drop(other.stdin.take());
        other.wait().unwrap();
    });
}
