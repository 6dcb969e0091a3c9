//! Pods as kubelet runs them: Debian's containerd driven through CRI, the shim, and `cni-bridge` for the network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use support::cri::message::Message;
use support::cri::stream::{RESIZE, STDIN, STDOUT, Stream};
use support::cri::{Node, RUNNING, own_processes, sandboxer, serves_pauseless_fully, serves_sandboxes, version};
use support::pod::run;
use support::{cgroups_named, eventually, shims_below};

/// The address that CRI tells of a pod.
async fn address(node: &Node, pod: &str) -> String {
    node.of("PodSandboxStatus", pod).await.text(&[1, 5, 1])
}

#[test]
fn a_pod_of_several_containers_shares_network_ipc_and_hostname_and_is_served_by_one_shim() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("web").await;
        let server = "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
        let one = node.container(&pod, "server", &["sh", "-c", server]).await;
        let two = node.container(&pod, "side", &["sleep", "1000"]).await;
        assert_eq!(shims_below(node.dir.path()).len(), 1, "one shim for a pod");
        let kept = node.kept_by_pea();
        let as_said = kept.contains(&one) && kept.contains(&two);
        let handed_on = sandboxer() != "shim" || serves_pauseless_fully(&version());
        assert!(as_said || !handed_on, "not where the options say: {kept:?}");
        assert_eq!(node.exec(&two, &["hostname"]).await, (0, "web\n".into(), String::new()));
        let page = ["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"];
        node.until("the server answers", async || node.exec(&two, &page).await.1 == "hello\n").await;
        for namespace in ["net", "ipc", "uts"] {
            let link = ["readlink", &format!("/proc/self/ns/{namespace}")];
            assert_eq!(node.exec(&one, &link).await, node.exec(&two, &link).await, "{namespace}");
        }
        // From the node, over the bridge.
        let address = address(&node, &pod.id).await;
        assert!(address.starts_with("10.88.0."), "{address}");
        let mut socket = TcpStream::connect((address.as_str(), 8080)).unwrap();
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello\n"), "{answer}");
        node.remove(&pod).await;
        node.clean().await;
    });
}

/// containerd 2 starts a shim's program for every container of a shim that does not say it has the sandbox API; 1.7 takes
/// nothing else.
#[test]
fn containerd_2_starts_this_program_once_for_a_pod() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("web").await;
        let id = node.container(&pod, "c", &["sleep", "1000"]).await;
        let bundle = node.dir.path().join("state/io.containerd.runtime.v2.task/k8s.io").join(id);
        assert!(bundle.is_dir(), "{}", bundle.display());
        // What every `start` writes.
        assert_eq!(bundle.join("address").exists(), !serves_sandboxes(&version()));
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn the_end_of_a_container_its_log_and_its_statistics_are_told() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("ends").await;
        let short = node.container(&pod, "short", &["sh", "-c", "echo one; echo two >&2; exit 7"]).await;
        assert_eq!(node.until_exited(&short).await, (7, "Error".into()));
        node.until("the log is whole", async || node.log("short").lines().count() == 2).await;
        let log = node.log("short");
        assert!(log.contains("one") && log.contains("two"), "{log}");
        let done = node.container(&pod, "done", &["true"]).await;
        assert_eq!(node.until_exited(&done).await, (0, "Completed".into()));
        let long = node.container(&pod, "long", &["sh", "-c", "i=0; while :; do i=$((i+1)); done"]).await;
        let stats = async || node.of("ContainerStats", &long).await;
        node.until("processor time is counted", async || stats().await.number(&[1, 2, 2, 1]) > 10_000_000).await;
        assert!(stats().await.number(&[1, 3, 2, 1]) > 0, "no working set");
        // Its shell has no handler, so it takes the kill after the grace period.
        node.call("StopContainer", &Message::new().text(1, &long).number(2, 1)).await.unwrap();
        assert_eq!(node.until_exited(&long).await, (137, "Error".into()));
        node.of("RemoveContainer", &long).await;
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn probes_exec_and_attach_reach_a_container() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("streams").await;
        let loop_ = "while read line; do echo got $line; done; echo end";
        let id =
            node.container_with(&pod, "c", &["sh", "-c", loop_], |config| config.number(12, 1).number(13, 1)).await;
        assert_eq!(
            node.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await,
            (3, "out\n".into(), "err\n".into())
        );
        let whole = node.exec(&id, &["seq", "100000"]).await.1;
        assert!(whole.ends_with("\n100000\n") && whole.starts_with("1\n"), "{} bytes", whole.len());
        let slow = node.call("ExecSync", &Message::new().text(1, &id).texts(2, &["sleep", "1000"]).number(3, 1)).await;
        assert!(slow.unwrap_err().message.contains("timeout"), "a probe without end");

        let exec = |tty: bool| {
            let command = ["sh", "-c", "tty; read line; echo $line; stty size; exit 5"];
            let request =
                Message::new().text(1, &id).texts(2, &command).number(3, tty.into()).number(4, 1).number(5, 1);
            if tty { request } else { request.number(6, 1) }
        };
        let url = node.call("Exec", &exec(true)).await.unwrap().text(&[1]);
        let mut stream = Stream::open(&url).await;
        assert_eq!(stream.read(STDOUT, "\n").await, "/dev/pts/0\r\n");
        stream.send(RESIZE, br#"{"Width":100,"Height":40}"#).await;
        // Sizes go another way than words: until the size is seen, words may overtake it.
        node.until("the terminal has its size", async || {
            node.exec(&id, &["sh", "-c", "stty size < /dev/pts/0"]).await.1 == "40 100\n"
        })
        .await;
        stream.send(STDIN, b"words\n").await;
        assert_eq!(stream.finish().await, ("words\r\nwords\r\n40 100\r\n".to_owned(), 5));

        let attach = Message::new().text(1, &id).number(2, 1).number(4, 1).number(5, 1);
        let url = node.call("Attach", &attach).await.unwrap().text(&[1]);
        let mut stream = Stream::open(&url).await;
        stream.send(STDIN, b"hello\n").await;
        assert_eq!(stream.read(STDOUT, "\n").await, "got hello\n");
        // containerd writes to whoever is attached and to the log side by side.
        node.until("the log has it too", async || node.log("c") == "got hello").await;
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn a_port_is_forwarded_into_the_pod() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("ports").await;
        node.container(&pod, "echo", &["nc", "-ll", "-p", "7777", "-e", "cat"]).await;
        let address = address(&node, &pod.id).await;
        node.until("it listens", async || TcpStream::connect((address.as_str(), 7777)).is_ok()).await;
        let request = Message::new().text(1, &pod.id).number(2, 7777);
        let url = node.call("PortForward", &request).await.unwrap().text(&[1]);
        let mut stream = Stream::open(&url).await;
        // Each channel begins with the port it is for.
        assert_eq!(stream.next().await, Some((0, 7777u16.to_le_bytes().to_vec())));
        assert_eq!(stream.next().await, Some((1, 7777u16.to_le_bytes().to_vec())));
        stream.send(0, b"to and fro\n").await;
        assert_eq!(stream.read(0, "\n").await, "to and fro\n");
        drop(stream);
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn a_container_that_needs_more_memory_than_it_may_have_is_told_to_be_killed_for_that() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("memory").await;
        let limit = Message::new().number(4, 16 << 20);
        // The memory is the init's own, so it is the init that is killed.
        let greedy = ["sh", "-c", "exec tail -n 1 /dev/zero"];
        let security = Message::new().message(3, Message::new().number(2, 1));
        let linux = Message::new().message(1, limit).message(2, security);
        let id = node.create(&pod, "greedy", &greedy, |config| config.message(15, linux)).await.unwrap();
        node.of("StartContainer", &id).await;
        assert_eq!(node.until_exited(&id).await, (137, "OOMKilled".into()));
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn a_restarted_containerd_finds_pods_and_their_output_again() {
    run(async {
        let mut node = Node::start().await;
        let pod = node.pod("restart").await;
        let id =
            node.container(&pod, "c", &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"]).await;
        node.until("it writes", async || node.log("c").lines().count() > 3).await;
        let shims = shims_below(node.dir.path());
        node.restart().await;
        assert_eq!(shims_below(node.dir.path()), shims);
        assert_eq!(node.status(&id).await.0, RUNNING);
        let before = node.log("c").lines().count();
        node.until("it goes on writing", async || node.log("c").lines().count() > before + 10).await;
        let numbers: Vec<u32> = node.log("c").lines().map(|line| line.parse().unwrap()).collect();
        let expected: Vec<u32> = (1..=numbers.len() as u32).collect();
        assert_eq!(numbers, expected, "lines are lost, doubled or out of order");
        assert_eq!(node.exec(&id, &["echo", "still here"]).await.1, "still here\n");
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn what_is_written_and_who_ends_while_containerd_is_away_is_not_lost() {
    run(async {
        let mut node = Node::start().await;
        let pod = node.pod("away").await;
        let place = node.dir.path().join("common");
        std::fs::create_dir(&place).unwrap();
        let volume =
            |config: Message| config.message(7, Message::new().text(1, "/common").text(2, place.to_str().unwrap()));
        let wait = |file: &str| format!("until test -e /common/{file}; do sleep 0.02; done");
        // It ends when all has been read and no sooner: containerd 1.6 and 1.7 lose the end of a container, and 1.6 what it has
        // written, in the moment between looking at it and writing down that it runs.
        let writing = format!("{}; seq 40000; {}; exit 6", wait("go"), wait("end"));
        let writer = node.container_with(&pod, "writer", &["sh", "-c", &writing], volume).await;
        let ending = format!("{}; exit 7", wait("go"));
        let short = node.container_with(&pod, "short", &["sh", "-c", &ending], volume).await;
        let lives = |id: &str| {
            let processes = |cgroup: &PathBuf| std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            cgroups_named(id).iter().any(|cgroup| !processes(cgroup).is_empty())
        };
        assert!(lives(&writer) && lives(&short));
        node.restart_after(async || {
            std::fs::write(place.join("go"), "").unwrap();
            eventually("the short one has ended", || !lives(&short));
            assert!(lives(&writer), "nobody reads, and so the writer has to wait");
        })
        .await;
        assert_eq!(node.until_exited(&short).await.0, 7);
        node.until("all is written", async || node.log("writer").lines().count() == 40_000).await;
        std::fs::write(place.join("end"), "").unwrap();
        assert_eq!(node.until_exited(&writer).await.0, 6);
        let lines: Vec<u32> = node.log("writer").lines().map(|line| line.parse().unwrap()).collect();
        assert!(lines == (1..=40_000).collect::<Vec<u32>>(), "{} lines, or out of order", lines.len());
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn the_pod_of_a_killed_shim_is_cleared_away_and_another_takes_its_place() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("killed").await;
        let id = node.container(&pod, "c", &["sleep", "1000"]).await;
        let shim = shims_below(node.dir.path())[0];
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
        // What the shim's clean-up tells (137), or what the plugin makes of a connection that has broken off (255).
        let (code, _) = node.until_exited(&id).await;
        assert!([137, 255].contains(&code), "{code}");
        let state = async || node.of("PodSandboxStatus", &pod.id).await.number(&[1, 3]);
        node.until("the sandbox is not ready", async || state().await == 1).await;
        node.remove_lost(&pod).await;
        node.clean().await;
        let again = node.pod("killed").await;
        let id = node.container(&again, "c", &["sleep", "1000"]).await;
        assert_eq!(node.exec(&id, &["echo", "here"]).await.1, "here\n");
        node.remove(&again).await;
        node.clean().await;
    });
}

#[test]
fn a_container_that_cannot_start_says_why_and_the_pod_goes_on() {
    run(async {
        let node = Node::start().await;
        let pod = node.pod("wrong").await;
        let made = node.create(&pod, "wrong", &["/no/such/program"], |config| config).await.unwrap();
        let refused = node.call("StartContainer", &Message::new().text(1, &made)).await.unwrap_err();
        assert!(refused.message.contains("/no/such/program"), "{refused:?}");
        let id = node.container(&pod, "right", &["sleep", "1000"]).await;
        assert_eq!(node.exec(&id, &["true"]).await.0, 0);
        let absent = node.call("ExecSync", &Message::new().text(1, &id).texts(2, &["nothing"]).number(3, 5)).await;
        assert!(absent.unwrap_err().message.contains("nothing"));
        node.remove(&pod).await;
        node.clean().await;
    });
}

#[test]
fn pods_side_by_side_do_not_hinder_each_other() {
    run(async {
        let node = Node::start().await;
        let one_after_the_other = async |worker: u32| {
            for round in 0..3 {
                let pod = node.pod(&format!("p{worker}-{round}")).await;
                let id = node.container(&pod, &format!("c{worker}"), &["sleep", "1000"]).await;
                let probes = async |n: u32| node.exec(&id, &["sh", "-c", &format!("echo {n}")]).await.1;
                let (a, b, c) = tokio::join!(probes(1), probes(2), probes(3));
                assert_eq!((a.as_str(), b.as_str(), c.as_str()), ("1\n", "2\n", "3\n"));
                node.remove(&pod).await;
            }
        };
        let all = async {
            tokio::join!(one_after_the_other(1), one_after_the_other(2), one_after_the_other(3), one_after_the_other(4))
        };
        tokio::time::timeout(Duration::from_secs(55), all).await.expect("twelve pods in time");
        node.clean().await;
    });
}

#[test]
fn mounts_spread_between_node_and_containers_as_they_are_asked_to() {
    run(async {
        // A mount namespace of the test's own, in which the directory is shared.
        let (none, shared) = (None::<&str>, tempfile::tempdir().unwrap());
        let path = shared.path();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, path, none, MsFlags::MS_SHARED, none).unwrap();
        for name in ["from-node", "from-container"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        let node = Node::start().await;
        // Who is privileged may mount, and needs a pod that is.
        let security = Message::new().message(1, own_processes()).number(6, 1);
        let pod = node.run_pod("spread", |config, linux| (config, linux.message(2, security))).await.unwrap();
        let mut ids = Vec::new();
        for (name, propagation) in [("private", 0), ("host-to-container", 1), ("bidirectional", 2)] {
            let volume = Message::new().text(1, "/volume").text(2, path.to_str().unwrap()).number(5, propagation);
            let security = Message::new().number(2, (propagation == 2).into()).message(3, own_processes());
            let linux = Message::new().message(2, security);
            let more = |config: Message| config.message(7, volume).message(15, linux);
            let id = node.create(&pod, name, &["sleep", "1000"], more).await;
            let id = id.unwrap_or_else(|status| panic!("{name}: {status:?}"));
            node.of("StartContainer", &id).await;
            ids.push(id);
        }
        mount(Some("none"), &path.join("from-node"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        std::fs::write(path.join("from-node/file"), "").unwrap();
        let mut seen = Vec::new();
        for id in &ids {
            seen.push(node.exec(id, &["test", "-e", "/volume/from-node/file"]).await.0);
        }
        assert_eq!(seen, [1, 0, 0]);
        let inside = "mount -t tmpfs none /volume/from-container && touch /volume/from-container/file";
        assert_eq!(node.exec(&ids[2], &["sh", "-c", inside]).await, (0, String::new(), String::new()));
        assert!(path.join("from-container/file").exists(), "a mount made in the container does not reach the node");
        node.remove(&pod).await;
        node.clean().await;
        drop(node);
        for place in [path.join("from-node"), path.join("from-container"), path.to_owned()] {
            nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    });
}
