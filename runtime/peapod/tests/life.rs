//! What a pod's keeper does when things go otherwise than in the story: set-ups that fail, names wanted twice, keepers
//! and shims that die, containers that end in every way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Node, eventually, manifest_path, stderr};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A pod of one busybox container, with `spec` before its containers and `command` as its command line.
fn pod(name: &str, spec: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}  \
         containers:\n  - name: c\n    image: localhost/busybox\n    command: [sh, -c, {command:?}]\n"
    )
}

/// Runs a manifest that must be refused with one line, and leave nothing.
fn refused(node: &Node, text: &str) -> String {
    let path = node.dir("refused.yaml");
    fs::write(&path, text).unwrap();
    let done = node.attempt(&["run", &path.to_string_lossy()]);
    let said = stderr(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "one error: {said}");
    node.assert_clean();
    said
}

/// Processes of this node whose command line contains `text`.
fn processes(node: &Node, text: &str) -> Vec<i32> {
    let lines = node.leftovers();
    let found = lines.iter().filter_map(|line| line.strip_prefix("process ")).filter(|line| line.contains(text));
    found.filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
}

fn kill_all(node: &Node, text: &str) -> usize {
    let all = processes(node, text);
    all.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap());
    all.len()
}

#[test]
fn a_set_up_that_fails_is_undone_and_told_in_one_line() {
    let node = Node::new();
    let conf = node.dir("net.d");
    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("10-x.conflist"), r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"no-such-plugin"}]}"#)
        .unwrap();
    let said = refused(&node, &pod("a", "", "sleep 60"));
    assert!(said.contains("network x") && said.contains("no-such-plugin"), "{said}");

    fs::remove_dir_all(&conf).unwrap();
    let missing = pod("a", "", "x").replace("[sh, -c, \"x\"]", "[/no/such/program]");
    let said = refused(&node, &missing);
    assert!(said.contains("/no/such/program"), "{said}");

    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("10-x.conflist"), r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"cni-bridge"}]}"#)
        .unwrap();
    let port = pod("a", "", "sleep 60") + "    ports: [{containerPort: 80, hostPort: 8080}]\n";
    let said = refused(&node, &port);
    assert!(said.contains("hostPort 8080") && said.contains("portMappings"), "{said}");
}

#[test]
fn a_host_port_of_the_built_in_network_leads_to_the_pod_until_it_is_stopped() {
    let node = Node::new();
    let serve = "mkdir /w && echo here >/w/index.html && exec httpd -f -p 80 -h /w";
    node.run_text("web.yaml", &(pod("web", "", serve) + "    ports: [{containerPort: 80, hostPort: 8080}]\n"));
    let page = |address: &str| {
        let url = format!("http://{address}:8080/");
        let done = testkit::attempt(Command::new("timeout").args(["5", "busybox", "wget", "-qO-", &url]));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    for address in ["127.0.0.1", "10.244.1.1"] {
        eventually("the page", || (page(address) == "here").then_some(()));
    }
    // By the node's address from within the pod itself.
    assert_eq!(node.sh("web", "c", "wget -qO- http://10.244.1.1:8080/"), "here");
    let port = pod("late", "", "sleep 60") + "    ports: [{containerPort: 1, hostPort: 8080}]\n";
    let path = node.dir("late.yaml");
    fs::write(&path, port).unwrap();
    let said = stderr(&node.attempt(&["run", &path.to_string_lossy()]));
    assert!(said.contains("hostPort 8080/TCP is taken by pod web"), "{said}");
    node.ok(&["stop", "web"]);
    assert_eq!(page("127.0.0.1"), "");
    node.ok(&["rm", "web"]);
    node.assert_clean();
}

#[test]
fn a_plugin_that_fails_half_way_leaves_no_trace_of_the_one_before() {
    let node = Node::new();
    let (conf, bin) = (node.dir("net.d"), node.dir("bin"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&bin).unwrap();
    let plugin = bin.join("unlucky");
    fs::write(
        &plugin,
        "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\necho '{\"code\":7,\"msg\":\"out of luck\"}'; exit 1\n",
    )
    .unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let bridge = r#"{"type":"cni-bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","subnet":"10.99.0.0/24","dataDir":"DATA"}}"#
        .replace("DATA", &node.dir("root/networks").to_string_lossy());
    let list = format!(r#"{{"cniVersion":"1.0.0","name":"x","plugins":[{bridge},{{"type":"unlucky"}}]}}"#);
    fs::write(conf.join("10-x.conflist"), list).unwrap();
    let manifest = node.dir("a.yaml");
    fs::write(&manifest, pod("a", "", "sleep 60")).unwrap();
    let mut command = node.command(&["run", &manifest.to_string_lossy()]);
    command.env("PEAPOD_CNI_BIN_DIR", format!("{}:{}", testkit::bin_dir().display(), bin.display()));
    let done = testkit::attempt(&mut command);
    assert_eq!(
        stderr(&done).trim(),
        "peapod: pod a was not started: network x: ADD by plugin unlucky failed: out of luck"
    );
    node.assert_clean();
}

#[test]
fn of_several_runs_of_one_name_one_wins() {
    let node = Node::new();
    let manifest = node.dir("a.yaml");
    fs::write(&manifest, pod("a", "", "sleep 3600")).unwrap();
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let mut command = node.command(&["run", &manifest.to_string_lossy()]);
            common::quiet(&mut command).spawn().unwrap()
        })
        .collect();
    let won = runs.into_iter().filter_map(|mut run| run.wait().unwrap().success().then_some(())).count();
    assert_eq!(won, 1);
    assert_eq!(node.sh("a", "c", "echo alive"), "alive");
    assert_eq!(processes(&node, "peapod keep").len(), 1, "one keeper");
    let removals: Vec<_> =
        (0..3).map(|_| common::quiet(&mut node.command(&["rm", "--force", "a"])).spawn().unwrap()).collect();
    for mut removal in removals {
        assert!(removal.wait().unwrap().success(), "each of several removals succeeds");
    }
    node.assert_clean();
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let node = Node::new();
    let init = "  restartPolicy: Never\n  initContainers:\n  - {name: i, image: localhost/busybox, command: [sh, -c, 'echo no; exit 5']}\n";
    let path = node.dir("a.yaml");
    fs::write(&path, pod("a", init, "echo never")).unwrap();
    let done = node.attempt(&["run", &path.to_string_lossy()]);
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).contains("container i ended with exit code 5"), "{}", stderr(&done));
    assert_eq!(node.inspect("a")["status"]["phase"], "Failed");
    assert!(node.ok(&["ps"]).contains("Init:Error"));
    assert_eq!(node.ok(&["logs", "-c", "i", "a"]), "no");
    assert!(!node.attempt(&["logs", "a"]).status.success(), "the main container was never started");
    node.ok(&["rm", "a"]);
    node.assert_clean();
}

#[test]
fn restart_policies_are_kept() {
    let node = Node::new();
    let once = "  restartPolicy: OnFailure\n";
    // Fails once, then succeeds: what it wrote in its own file system is gone, the volume stays.
    let text = pod(
        "a",
        &format!("{once}  volumes: [{{name: v, emptyDir: {{}}}}]\n"),
        "test -e /x && exit 9; touch /x; [ -e /v/x ] || { touch /v/x; exit 1; }; echo done",
    ) + "    volumeMounts: [{name: v, mountPath: /v}]\n";
    node.run_text("a.yaml", &text);
    eventually("the pod's success", || (node.inspect("a")["status"]["phase"] == "Succeeded").then_some(()));
    assert_eq!(node.container("a", "c")["restartCount"], 1);
    assert_eq!(node.ok(&["logs", "a"]), "done");
    assert_eq!(node.ok(&["logs", "--previous", "a"]), "");

    node.run_text("b.yaml", &pod("b", "  restartPolicy: Never\n", "seq 1 5; exit 7"));
    eventually("the pod's failure", || (node.inspect("b")["status"]["phase"] == "Failed").then_some(()));
    let ended = node.container("b", "c")["state"]["terminated"].clone();
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&7.into(), &"Error".into()));
    assert_eq!(node.ok(&["logs", "--tail", "2", "b"]), "4\n5");
    assert!(processes(&node, "").is_empty(), "nothing runs for a finished pod");
    node.ok(&["rm", "a", "b"]);
    node.assert_clean();
}

#[test]
fn a_pod_whose_keeper_died_in_its_init_container_goes_on() {
    let node = Node::new();
    let init = "  restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]\n  initContainers:\n  - name: i\n    image: localhost/busybox\n    \
                command: [sh, -c, 'echo once >> /v/x; until [ -e /v/go ]; do usleep 10000; done']\n    volumeMounts: [{name: v, mountPath: /v}]\n";
    let text = pod("a", init, "cat /v/x") + "    volumeMounts: [{name: v, mountPath: /v}]\n";
    let path = node.dir("a.yaml");
    fs::write(&path, text).unwrap();
    let mut command = node.command(&["run", &path.to_string_lossy()]);
    let mut run = common::quiet(&mut command).spawn().unwrap();
    eventually("the init container", || {
        node.attempt(&["exec", "-c", "i", "a", "--", "test", "-e", "/v/x"]).status.success().then_some(())
    });
    assert_eq!(kill_all(&node, "peapod keep"), 1);
    assert!(!run.wait().unwrap().success(), "run tells that the keeper has died");
    node.sh("a", "i", "touch /v/go");
    eventually("the pod's success", || (node.inspect("a")["status"]["phase"] == "Succeeded").then_some(()));
    assert_eq!(node.ok(&["logs", "a"]), "once", "the init container was not run twice");
    assert_eq!(node.container("a", "i")["restartCount"], 0);
    node.ok(&["rm", "a"]);
    node.assert_clean();
}

#[test]
fn a_pod_whose_shim_died_is_brought_up_again() {
    let node = Node::new();
    node.run("client.yaml");
    assert_eq!(kill_all(&node, "containerd-shim-pea-v2 -namespace"), 1);
    let shell = eventually("the container's restart", || {
        let shell = node.container("client", "shell");
        (shell["restartCount"] == 1 && shell["state"]["running"].is_object()).then_some(shell)
    });
    assert_eq!(shell["lastState"]["terminated"]["reason"], "Unknown");
    assert_eq!(node.sh("client", "shell", "echo alive"), "alive");
    assert_eq!(node.leases(), [node.ip("client")], "the address of the lost one is free");

    // And with nobody there to see it.
    assert_eq!(kill_all(&node, "peapod keep"), 1);
    assert_eq!(kill_all(&node, "containerd-shim-pea-v2 -namespace"), 1);
    eventually("the second restart", || (node.container("client", "shell")["restartCount"] == 2).then_some(()));
    node.ok(&["stop", "client"]);
    assert!(node.ok(&["ps"]).contains("Stopped"));
    let again = node.attempt(&["run", &manifest_path("client.yaml")]);
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
    node.ok(&["rm", "client"]);
    node.assert_clean();
}

#[test]
fn a_container_that_eats_too_much_memory_is_told_apart() {
    let node = Node::new();
    let text = pod("a", "  restartPolicy: Never\n", "head -c 200m /dev/zero | tail -c 190m > /dev/null")
        + "    resources: {limits: {memory: 20Mi}}\n";
    node.run_text("a.yaml", &text);
    eventually("the pod's end", || (node.inspect("a")["status"]["phase"] != "Running").then_some(()));
    assert_eq!(node.container("a", "c")["state"]["terminated"]["reason"], "OOMKilled");
}

#[test]
fn namespaces_keep_names_apart() {
    let node = Node::new();
    node.run_text("a.yaml", &pod("a", "", "sleep 3600"));
    fs::write(node.dir("b.yaml"), pod("a", "", "sleep 3600")).unwrap();
    node.ok(&["-n", "shop", "run", &node.dir("b.yaml").to_string_lossy()]);
    assert_ne!(node.ip("a"), node.ip("shop/a"));
    assert_eq!(node.ok(&["ps"]).lines().count(), 2);
    assert_eq!(node.ok(&["ps", "-A"]).lines().count(), 3);
    node.ok(&["-n", "shop", "rm", "--force", "a"]);
    assert_eq!(node.sh("a", "c", "echo alive"), "alive");
}

#[test]
fn logs_follow_through_restarts_to_the_end_of_the_pod() {
    let node = Node::new();
    node.run_text(
        "a.yaml",
        &pod(
            "a",
            "  volumes: [{name: v, emptyDir: {}}]\n",
            "echo run; [ -e /v/x ] || { touch /v/x; exit 1; }; sleep 3600",
        )
        .replace("    command", "    volumeMounts: [{name: v, mountPath: /v}]\n    command"),
    );
    let mut command = node.command(&["logs", "-f", "a"]);
    let follow = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the restart", || (node.container("a", "c")["restartCount"] == 1).then_some(()));
    node.ok(&["stop", "a"]);
    let output = follow.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8_lossy(&output.stdout).lines().filter(|line| *line == "run").count();
    assert!((1..=2).contains(&lines), "{output:?}");
    let mut head = Command::new("sh");
    head.args(["-c", &format!("{} logs a | head -n 0", testkit::binary("peapod").display())]);
    node.environment(&mut head);
    assert!(testkit::attempt(&mut head).stderr.is_empty(), "a reader that has had enough is no failure");
}

#[test]
fn a_name_that_is_none_is_refused_before_it_becomes_a_path() {
    let node = Node::new();
    let manifest = manifest_path("client.yaml");
    let cases: [&[&str]; 7] = [
        &["--namespace", "a_b", "run", &manifest],
        &["--namespace", "../x", "run", &manifest],
        &["--namespace", "", "ps"],
        &["rm", "--force", "../../etc"],
        &["rm", "--force", "shop/a/b"],
        &["stop", ""],
        &["logs", "shop/../x"],
    ];
    for args in cases {
        let done = node.attempt(args);
        let said = stderr(&done);
        assert_eq!((done.status.code(), said.lines().count()), (Some(1), 1), "{args:?}: {said}");
        assert!(said.contains("is not a valid name"), "{args:?}: {said}");
        node.assert_clean();
    }
}

#[test]
fn a_shim_that_is_not_there_is_missed_before_anything_is_made() {
    let node = Node::new();
    let done = node.attempt(&["--shim", "/nonexistent/shim", "run", &manifest_path("client.yaml")]);
    let said = stderr(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("/nonexistent/shim is not there"), "{said}");
    node.assert_clean();
}

#[test]
fn what_cannot_run_here_or_together_is_refused_before_anything_is_started() {
    let node = Node::new();
    let a = pod("a", "", "sleep 60");
    let path = node.dir("two.yaml");
    fs::write(&path, format!("{a}---\n{}", a.replace("{name: a}", "{name: a, namespace: shop}"))).unwrap();
    let done = node.attempt(&["--namespace", "shop", "run", &path.to_string_lossy()]);
    assert!(stderr(&done).contains("two documents describe pod shop/a"), "{}", stderr(&done));
    node.assert_clean();

    let socket = "  volumes:\n  - {name: v, emptyDir: {}}\n  - {name: h, hostPath: {path: /etc, type: Socket}}\n";
    let said = refused(&node, &pod("a", socket, "true"));
    assert!(said.contains("refused.yaml: spec.volumes[1].hostPath: /etc is not a socket"), "{said}");

    let host = |name| pod(name, "  hostNetwork: true\n", "sleep 60") + "    ports: [{containerPort: 8080}]\n";
    let said = refused(&node, &format!("{}---\n{}", host("a"), host("b")));
    assert!(said.contains("hostPort 8080/TCP is taken by pod a"), "{said}");
}

#[test]
fn a_pod_whose_stop_was_cut_off_is_not_removed_by_accident() {
    let node = Node::new();
    let text = pod("deaf", "", "trap '' TERM; echo deaf; while :; do sleep 1; done");
    node.run_text("deaf.yaml", &text.replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 600"));
    eventually("the trap", || (node.ok(&["logs", "deaf"]) == "deaf").then_some(()));
    let mut stop = node.command(&["stop", "deaf"]).spawn().unwrap();
    eventually("the stop's beginning", || {
        (node.inspect("deaf")["metadata"]["annotations"]["peapod.io/desired"] == "Stopped").then_some(())
    });
    stop.kill().unwrap();
    stop.wait().unwrap();

    let refused = node.attempt(&["rm", "deaf"]);
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(node.sh("deaf", "c", "echo alive"), "alive");
    node.ok(&["stop", "--time", "0", "deaf"]);
    node.ok(&["rm", "deaf"]);
    node.assert_clean();
}

#[test]
fn a_plugin_is_found_again_where_it_was() {
    let node = Node::new();
    let (conf, bin) = (node.dir("net.d"), node.dir("elsewhere"));
    fs::create_dir(&conf).unwrap();
    fs::create_dir(&bin).unwrap();
    testkit::copy_program(testkit::bin_dir().join("cni-bridge"), bin.join("hidden"));
    let leases = node.dir("root/networks");
    let text = format!(
        r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"hidden","bridge":"br7","isGateway":true,
        "ipam":{{"type":"host-local","subnet":"10.7.7.0/24","dataDir":"{}"}}}}]}}"#,
        leases.display()
    );
    fs::write(conf.join("10-n.conflist"), text).unwrap();
    let bin = bin.to_string_lossy().into_owned();
    let said = node.ok(&["--cni-bin-dir", &bin, "run", &manifest_path("client.yaml")]);
    assert!(said.contains("10.7.7.2"), "{said}");
    node.ok(&["rm", "--force", "client"]);
    node.assert_clean();
}

#[test]
fn a_pod_keeps_the_directories_it_was_made_with() {
    let node = Node::new();
    let (root, log) = (node.dir("other/root"), node.dir("other/log"));
    let flags = ["--root", &root.to_string_lossy(), "--log-dir", &log.to_string_lossy()];
    let archive = node.dir("busybox.tar").to_string_lossy().into_owned();
    node.ok(&[&flags[..], &["image", "load", &archive]].concat());
    node.ok(&[&flags[..], &["run", &manifest_path("web.yaml")]].concat());

    // Commands without the flags, and a keeper that one of them starts.
    let server = Pid::from_raw(node.pid_of("web", "httpd -f"));
    assert_eq!(kill_all(&node, "keep"), 1);
    kill(server, Signal::SIGKILL).unwrap();
    eventually("the server's restart", || (node.container("web", "server")["restartCount"] == 1).then_some(()));
    assert_eq!(node.ok(&["logs", "-c", "writer", "web"]), "page written");
    assert_eq!(node.leases(), Vec::<String>::new(), "the lease is under the other root");
    node.ok(&["rm", "--force", "web"]);
    node.assert_clean();
    let left = |name: &str| fs::read_dir(node.dir(name)).map_or(0, Iterator::count);
    assert_eq!((left("other/root/pods"), left("other/log")), (0, 0));
    let leases = fs::read_dir(root.join("networks/peapod")).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(leases.filter(|name| name.to_string_lossy().starts_with("10.")).count(), 0);
}

#[test]
fn what_somebody_mounted_into_a_pods_directory_is_not_emptied_with_it() {
    let node = Node::new();
    node.run("client.yaml");
    let uid = node.inspect("client")["metadata"]["uid"].as_str().unwrap().to_owned();
    let (mine, stray) = (node.dir("mine"), node.dir("root/pods").join(uid).join("stray"));
    for dir in [&mine, &stray] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(mine.join("file"), "precious").unwrap();
    mount(Some(&mine), &stray, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let refused = node.attempt(&["rm", "--force", "client"]);
    assert_eq!(fs::read_to_string(mine.join("file")).unwrap_or_default(), "precious");
    umount2(&stray, MntFlags::empty()).unwrap();
    assert!(!refused.status.success() && stderr(&refused).contains("stray"), "{}", stderr(&refused));
    node.ok(&["rm", "--force", "client"]);
    node.assert_clean();
}
