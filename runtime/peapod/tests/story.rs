//! The story a user lives: start the web pod, look inside, reach it, add a second
//! one, break things, take them away. Real namespaces, real links, real shim.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Node, eventually, manifest_path, stderr};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NAMESPACES: &str = "for n in ipc net uts mnt pid; do readlink /proc/self/ns/$n; done";

#[test]
fn containers_of_the_web_pod_share_address_namespaces_and_volume() {
    let node = Node::new();
    let said = node.run("web.yaml");
    assert!(said.contains("10.244.1.2"), "run names the address: {said}");

    for container in ["server", "writer"] {
        let address = node.sh("web", container, "ip addr show eth0");
        assert!(address.contains("inet 10.244.1.2/24"), "{container}: {address}");
        assert!(address.contains("mtu 1500"), "the node has no uplink, so the link keeps Ethernet's mtu: {address}");
        assert_eq!(node.sh("web", container, "hostname"), "web");
        assert_eq!(node.sh("web", container, "cat /etc/hostname"), "web");
        let hosts = node.sh("web", container, "cat /etc/hosts");
        assert!(hosts.lines().any(|line| line.starts_with("10.244.1.2") && line.contains("web")), "{hosts}");
    }
    let one = node.sh("web", "server", NAMESPACES);
    let two = node.sh("web", "writer", NAMESPACES);
    let here = testkit::output(Command::new("sh").args(["-c", &NAMESPACES.replace("/self/", "/$$/")]));
    let (one, two, here): (Vec<_>, Vec<_>, Vec<_>) =
        (one.lines().collect(), two.lines().collect(), here.lines().collect());
    assert_eq!(one[..3], two[..3], "ipc, net and uts belong to the pod");
    assert_ne!(one[3], two[3], "each container has mounts of its own");
    assert_ne!(one[4], two[4], "each container has processes of its own");
    for (pod, node) in one.iter().zip(&here) {
        assert_ne!(pod, node, "the pod shares no namespace with the node");
    }

    let page = eventually("the page", || {
        let page = node.page("10.244.1.2");
        page.status.success().then(|| String::from_utf8_lossy(&page.stdout).into_owned())
    });
    assert_eq!(page.trim(), "hello from web, written by the side-car");
    assert_eq!(node.ok(&["logs", "-c", "writer", "web"]), "page written");
    assert!(!node.attempt(&["exec", "-c", "server", "web", "--", "touch", "/www/x"]).status.success(), "read-only");

    let ps = node.ok(&["ps"]);
    let row = ps.lines().find(|line| line.starts_with("web")).expect("the pod's row");
    assert!(row.contains("2/2") && row.contains("Running") && row.contains("10.244.1.2"), "{ps}");

    node.ok(&["rm", "--force", "web"]);
    node.assert_clean();
}

#[test]
fn a_node_behind_a_vxlan_gives_its_pods_mtu_1450() {
    let node = Node::new();
    for line in [
        "link add flannel.1 type vxlan id 1 local 127.0.0.1 dstport 8472",
        "link set flannel.1 up mtu 1450",
        "route add default dev flannel.1",
    ] {
        testkit::run(Command::new("ip").args(line.split(' ')));
    }
    node.run("client.yaml");
    assert!(node.sh("client", "shell", "ip link show eth0").contains("mtu 1450"));
    let bridge = testkit::output(Command::new("ip").args(["addr", "show", "cni0"]));
    assert!(bridge.contains("mtu 1450") && bridge.contains("inet 10.244.1.1/24"), "{bridge}");
}

#[test]
fn the_network_is_that_of_the_configuration_directory() {
    let node = Node::new();
    let text = fs::read(testkit::testdata("conflists/20-dual-stack.conflist")).unwrap();
    let mut list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    list["plugins"][0]["ipam"]["dataDir"] = node.dir("root/networks").to_string_lossy().into();
    fs::create_dir(node.dir("net.d")).unwrap();
    fs::write(node.dir("net.d/20-dual-stack.conflist"), list.to_string()).unwrap();
    node.run("client.yaml");
    let addresses = node.sh("client", "shell", "ip addr show eth0");
    assert!(addresses.contains("inet 10.244.1.2/24") && addresses.contains("inet6 fd00:10:244:1::2/64"), "{addresses}");
    assert!(addresses.contains("mtu 1450"), "{addresses}");
    let known: Vec<_> = node.inspect("client")["status"]["podIPs"].as_array().unwrap().clone();
    assert_eq!(known.len(), 2, "{known:?}");
    assert_eq!(node.sh("client", "shell", "ping -c 1 -W 5 fd00:10:244:1::1 > /dev/null && echo reached"), "reached");
    node.ok(&["rm", "--force", "client"]);
    node.assert_clean();
}

#[test]
fn memory_and_queues_of_one_container_are_seen_in_the_other() {
    let node = Node::new();
    node.run("web.yaml");
    node.sh("web", "server", "echo shared > /dev/shm/note; touch /dev/mqueue/queue");
    assert_eq!(node.sh("web", "writer", "cat /dev/shm/note; ls /dev/mqueue"), "shared\nqueue");
    assert!(!std::path::Path::new("/dev/shm/note").exists(), "the node's shared memory is another");

    node.run("shm.yaml");
    eventually("the shm pod's end", || (node.inspect("shm")["status"]["phase"] == "Succeeded").then_some(()));
    assert_eq!(node.ok(&["logs", "-c", "asker", "shm"]), "21 doubled is 42");
}

#[test]
fn a_second_pod_reaches_the_first_and_addresses_go_round() {
    let node = Node::new();
    node.run("web.yaml");
    node.run("client.yaml");
    assert_eq!((node.ip("web").as_str(), node.ip("client").as_str()), ("10.244.1.2", "10.244.1.3"));
    eventually("the page in the second pod", || {
        let page = node.attempt(&["exec", "client", "--", "wget", "-qO-", "http://10.244.1.2/"]);
        String::from_utf8_lossy(&page.stdout).contains("written by the side-car").then_some(())
    });
    assert_eq!(sorted(node.leases()), ["10.244.1.2", "10.244.1.3"]);

    node.ok(&["rm", "--force", "web"]);
    assert_eq!(node.leases(), ["10.244.1.3"], "the lease is free again");
    let links = testkit::output(Command::new("ip").args(["-br", "link", "show", "type", "veth"]));
    assert_eq!(links.lines().count(), 1, "only the second pod's link is left: {links}");

    node.run("web.yaml");
    assert_eq!(node.ip("web"), "10.244.1.4", "an address just freed is not handed out at once");
    node.ok(&["rm", "--force", "web", "client"]);
    node.assert_clean();
    assert!(testkit::attempt(Command::new("ip").args(["link", "show", "cni0"])).status.success(), "cni0 is the node's");
}

#[test]
fn a_killed_container_comes_back_and_the_pod_keeps_its_address() {
    let node = Node::new();
    node.run("web.yaml");
    let before = node.container("web", "server")["containerID"].clone();
    kill(Pid::from_raw(node.pid_of("web", "httpd -f")), Signal::SIGKILL).unwrap();

    let server = eventually("the server's restart", || {
        let server = node.container("web", "server");
        (server["restartCount"] == 1 && server["state"]["running"].is_object()).then_some(server)
    });
    assert_ne!(server["containerID"], before);
    assert_eq!(server["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(node.container("web", "writer")["restartCount"], 0, "only the killed one starts again");
    assert_eq!(node.ip("web"), "10.244.1.2");
    assert!(node.sh("web", "server", "ip addr show eth0").contains("10.244.1.2/24"));
    eventually("the page", || node.page("10.244.1.2").status.success().then_some(()));
}

#[test]
fn a_crash_loop_backs_off() {
    let node = Node::new();
    node.run("crashloop.yaml");
    let faulty = eventually("the back-off", || {
        let faulty = node.container("crashloop", "faulty");
        (faulty["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(faulty)
    });
    assert!(faulty["restartCount"].as_i64().unwrap() >= 1, "the first restart is at once: {faulty}");
    assert_eq!(faulty["lastState"]["terminated"]["exitCode"], 3);
    assert!(node.ok(&["ps"]).contains("CrashLoopBackOff"));
    assert!(node.ok(&["logs", "crashloop"]).contains("about to fail"));
    node.ok(&["rm", "--force", "crashloop"]);
    node.assert_clean();
}

#[test]
fn init_containers_run_in_order_and_again_until_they_succeed() {
    let node = Node::new();
    node.run("init.yaml");
    eventually("the pod's end", || (node.inspect("init")["status"]["phase"] == "Succeeded").then_some(()));
    assert_eq!(node.ok(&["logs", "-c", "main", "init"]), "first second main");
    assert_eq!(node.container("init", "second")["restartCount"], 1);
    let ready = ["second", "main"].map(|name| node.container("init", name)["ready"].clone());
    assert_eq!(ready, [true, false], "an init container is ready when it has done its work, the others while they do");
    assert!(node.leases().is_empty(), "a finished pod holds no address");
    node.ok(&["rm", "init"]);
    node.assert_clean();
}

#[test]
fn stop_waits_for_the_grace_period_and_no_longer() {
    let node = Node::new();
    node.run("web.yaml");
    let refused = node.attempt(&["rm", "web"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--force"), "the refusal says what helps: {}", stderr(&refused));
    assert_eq!(node.inspect("web")["status"]["phase"], "Running", "and nothing was done");

    node.ok(&["stop", "web"]);
    let writer = node.container("web", "writer");
    assert_eq!(writer["state"]["terminated"]["exitCode"], 0, "SIGTERM was heard: {writer}");
    assert!(node.leases().is_empty(), "a stopped pod holds no address");
    assert_eq!(node.ok(&["logs", "-c", "writer", "web"]), "page written", "its log stays");
    node.ok(&["rm", "web"]);

    node.run("stubborn.yaml");
    eventually("the trap", || (node.ok(&["logs", "stubborn"]) == "deaf").then_some(()));
    node.ok(&["stop", "stubborn"]);
    let deaf = node.container("stubborn", "deaf");
    assert_eq!(deaf["state"]["terminated"]["exitCode"], 137, "SIGKILL came after the grace period: {deaf}");
    node.ok(&["rm", "stubborn"]);
    node.assert_clean();
}

#[test]
fn security_context_is_what_the_process_gets() {
    let node = Node::new();
    node.run("confined.yaml");
    eventually("the pod's end", || (node.inspect("confined")["status"]["phase"] == "Succeeded").then_some(()));
    let log = node.ok(&["logs", "-c", "user", "confined"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..3], ["1000", "/tmp", "read-only"]);
    assert!(lines[3].ends_with("0000000000000400"), "only NET_BIND_SERVICE is left: {log}");
    let privileged = node.ok(&["logs", "-c", "privileged", "confined"]);
    let all = fs::read_to_string("/proc/self/status").unwrap();
    let bound = all.lines().find(|line| line.starts_with("CapBnd")).unwrap();
    assert_eq!(privileged.lines().next(), Some(bound), "privileged means all the node has");
}

#[test]
fn a_shared_process_namespace_shows_the_other_containers() {
    let node = Node::new();
    node.run("shared-pid.yaml");
    let processes = node.sh("shared-pid", "one", "ps -o args");
    assert!(processes.contains("sleep 31536001") && processes.contains("sleep 31536002"), "{processes}");
    node.ok(&["rm", "--force", "shared-pid"]);
    node.assert_clean();
}

#[test]
fn host_namespaces_are_the_nodes() {
    let node = Node::new();
    node.run_text(
        "host.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: host}\nspec:\n  hostNetwork: true\n  hostIPC: true\n  hostPID: true\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - {name: c, image: localhost/busybox, command: [sleep, '3600']}\n",
    );
    let inside =
        node.sh("host", "c", "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid");
    // The test thread's own namespaces: /proc/self would be the main thread's.
    let here = ["net", "ipc", "pid"]
        .map(|name| fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap().to_string_lossy().into_owned());
    assert_eq!(inside.lines().collect::<Vec<_>>(), here);
    assert!(node.leases().is_empty());
    node.ok(&["rm", "--force", "host"]);
    node.assert_clean();
}

#[test]
fn mounts_made_later_are_seen_as_far_as_mount_propagation_says() {
    // The node's mounts are this test's own, and propagate, as systemd has them.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let set = |place: &Path, flags| mount(None::<&str>, place, None::<&str>, flags, None::<&str>).unwrap();
    set(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    set(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SHARED);
    let node = Node::new();
    let tmpfs = |place: &Path| mount(Some("later"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for (propagation, down, up) in [("None", "0", 0), ("HostToContainer", "1", 0), ("Bidirectional", "1", 1)] {
        let volume = node.dir(propagation);
        fs::create_dir_all(volume.join("node")).unwrap();
        fs::create_dir_all(volume.join("pod")).unwrap();
        let name = propagation.to_lowercase();
        node.run_text(
            "propagation.yaml",
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
                 volumes: [{{name: v, hostPath: {{path: {}}}}}]\n  containers:\n  - name: c\n    image: localhost/busybox\n    \
                 command: [sleep, '3600']\n    securityContext: {{privileged: true}}\n    \
                 volumeMounts: [{{name: v, mountPath: /v, mountPropagation: {propagation}}}]\n",
                volume.display()
            ),
        );
        tmpfs(&volume.join("node"));
        assert_eq!(node.sh(&name, "c", "grep -c ' /v/node ' /proc/self/mountinfo || true"), down, "{propagation}");
        node.sh(&name, "c", "mount -t tmpfs later /v/pod");
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let seen = table.lines().filter(|line| line.contains(&format!("{} ", volume.join("pod").display()))).count();
        assert_eq!(seen, up, "{propagation}");
        node.ok(&["rm", "--force", &name]);
        for place in ["pod", "node"] {
            let _ = umount2(&volume.join(place), MntFlags::MNT_DETACH);
        }
    }
}

#[test]
fn a_broken_manifest_is_refused_and_nothing_is_made() {
    let node = Node::new();
    let cases = [
        ("image: localhost/missing", "localhost/missing"),
        ("image: localhost/busybox\n    imaeg: x", "spec.containers[0].imaeg"),
        ("image: localhost/busybox\n    resources: {limits: {memory: 12Mx}}", "spec.containers[0].resources.limits"),
        (
            "image: localhost/busybox\n    volumeMounts: [{name: ghost, mountPath: /x}]",
            "spec.containers[0].volumeMounts[0]",
        ),
        ("command: [true]", "spec.containers[0]"),
    ];
    for (container, names) in cases {
        let path = node.dir("broken.yaml");
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: broken}}\nspec:\n  containers:\n  - name: c\n    {container}\n"
        );
        fs::write(&path, text).unwrap();
        let done = node.attempt(&["run", &path.to_string_lossy()]);
        let said = stderr(&done);
        assert_eq!(done.status.code(), Some(1), "{container}: {said}");
        assert_eq!(said.lines().count(), 1, "one error for {container}: {said}");
        assert!(said.contains("broken.yaml") && said.contains(names), "{container}: {said}");
        node.assert_clean();
        let bridge = testkit::attempt(Command::new("ip").args(["link", "show", "cni0"]));
        assert!(!bridge.status.success(), "not even the bridge was made");
    }
}

#[test]
fn a_name_in_use_is_refused_and_the_pod_goes_on() {
    let node = Node::new();
    node.run("client.yaml");
    let uid = node.inspect("client")["metadata"]["uid"].clone();
    let again = node.attempt(&["run", &manifest_path("client.yaml")]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("client"), "{}", stderr(&again));
    assert_eq!(node.inspect("client")["metadata"]["uid"], uid);
    assert_eq!(node.sh("client", "shell", "echo alive"), "alive");
}

#[test]
fn exec_passes_status_input_and_terminal() {
    let node = Node::new();
    node.run("client.yaml");
    let done = node.attempt(&["exec", "client", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(done.status.code(), Some(42));
    assert_eq!((done.stdout.as_slice(), stderr(&done).as_str()), (&b"out\n"[..], "err\n"));

    let mut echo = Command::new("sh");
    echo.arg("-c").arg(format!("seq 1 20000 | {} exec -i client -- md5sum", testkit::binary("peapod").display()));
    node.environment(&mut echo);
    let expected = testkit::output(Command::new("sh").args(["-c", "seq 1 20000 | md5sum"]));
    assert_eq!(testkit::output(&mut echo), expected, "all of stdin arrives, and its end");

    let missing = node.attempt(&["exec", "client", "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127), "{}", stderr(&missing));
    assert!(stderr(&missing).contains("no-such-program"), "{}", stderr(&missing));

    let mut terminal = Command::new("script");
    let line = format!("{} exec -it client -- sh -c 'tty; stty size'", testkit::binary("peapod").display());
    terminal.args(["-qec", &format!("stty rows 33 cols 99; {line}"), "/dev/null"]);
    node.environment(&mut terminal);
    let said = testkit::output(&mut terminal);
    assert!(said.contains("/dev/pts/") && said.contains("33 99"), "{said}");
}

#[test]
fn logs_follow_to_the_end() {
    let node = Node::new();
    node.run_text(
        "count.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: count}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    \
         image: localhost/busybox\n    command: [sh, -c, 'for i in $(seq 1 30); do echo $i; usleep 20000; done; echo bad >&2']\n",
    );
    let followed = node.ok(&["logs", "-f", "count"]);
    let expected: Vec<String> = (1..=30).map(|n| n.to_string()).collect();
    assert_eq!(followed.lines().take(30).collect::<Vec<_>>(), expected);
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}
