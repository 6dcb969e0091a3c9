//! The library as a supervisor uses it: one thread, many containers, and nothing of it changed.
//!
//! It has a `main` of its own, for the harness runs tests on threads, and with threads the library refuses to fork.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use common::Bundle;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use pea::{CgroupDriver, CreateOptions, ErrorKind, ExecOptions, Runtime, Status};
use serde_json::json;

fn main() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let tests: [(&str, fn()); 9] = [
        ("a_container_is_the_callers_child_and_nobody_else_is", a_container_is_the_callers_child_and_nobody_else_is),
        ("the_caller_is_not_changed", the_caller_is_not_changed),
        ("no_descriptor_of_the_callers_is_held_open", no_descriptor_of_the_callers_is_held_open),
        ("what_is_dropped_half_way_is_ended", what_is_dropped_half_way_is_ended),
        ("a_failure_leaves_no_child", a_failure_leaves_no_child),
        ("a_threaded_caller_is_refused", a_threaded_caller_is_refused),
        ("statistics_are_those_of_the_container", statistics_are_those_of_the_container),
        ("a_cgroup_tree_is_killed_and_removed", a_cgroup_tree_is_killed_and_removed),
        ("the_runtimes_namespaces_may_be_others", the_runtimes_namespaces_may_be_others),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed", tests.len());
}

fn runtime(bundle: &Bundle) -> Runtime {
    // Writes the configuration.
    let _ = bundle.pea(&[]);
    Runtime::new(bundle.state_root(), CgroupDriver::Cgroupfs)
}

fn null() -> Option<OwnedFd> {
    Some(File::options().read(true).write(true).open("/dev/null").unwrap().into())
}

fn create(runtime: &Runtime, bundle: &Bundle) -> i32 {
    let options = CreateOptions { stdin: null(), stdout: null(), stderr: null(), ..CreateOptions::default() };
    runtime.create(&bundle.id, bundle.path(), options).unwrap().finish().unwrap()
}

/// Every child there is, zombies too.
fn children() -> Vec<i32> {
    let pid = std::process::id();
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn reap(pid: i32) -> WaitStatus {
    waitpid(Pid::from_raw(pid), None).unwrap()
}

fn a_container_is_the_callers_child_and_nobody_else_is() {
    let bundle = Bundle::shell("exit 7");
    let runtime = runtime(&bundle);
    let (mut read, write) = std::io::pipe().unwrap();
    let options = CreateOptions { stdin: null(), stdout: Some(write.into()), ..CreateOptions::default() };
    let pending = runtime.create(&bundle.id, bundle.path(), options).unwrap();
    let ready = poll(&mut [PollFd::new(pending.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_000_u16));
    assert_eq!(ready, Ok(1), "its end can be waited for");
    let init = pending.finish().unwrap();
    assert_eq!(children(), [init]);
    assert_eq!(runtime.state(&bundle.id).unwrap().status, Status::Created);

    let process = json!({"cwd": "/", "user": {}, "args": ["sh", "-c", "exit 9"], "env": ["PATH=/bin"]});
    let process = serde_json::from_value(process).unwrap();
    let executed = runtime.exec(&bundle.id, &process, ExecOptions::default()).unwrap().finish().unwrap();
    assert_eq!(reap(executed), WaitStatus::Exited(Pid::from_raw(executed), 9));
    assert_eq!(children(), [init]);

    runtime.start(&bundle.id).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(reap(init), WaitStatus::Exited(Pid::from_raw(init), 7));
    assert_eq!(runtime.kill(&bundle.id, 15, false).unwrap_err().kind(), ErrorKind::NotRunning);
    runtime.delete(&bundle.id, false).unwrap();
    assert_eq!(runtime.delete(&bundle.id, false).unwrap_err().kind(), ErrorKind::NotFound);
    runtime.delete(&bundle.id, true).unwrap();
    assert_eq!(children(), [0; 0]);
    bundle.assert_nothing_left();
}

fn the_caller_is_not_changed() {
    let mut bundle = Bundle::idle();
    bundle.spec["process"]["oomScoreAdj"] = json!(600);
    let look = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let kept = ["Umask", "SigBlk", "SigIgn", "SigCgt", "Cap", "NoNewPrivs", "Seccomp", "Groups", "Threads"];
        let lines: Vec<_> = status.lines().filter(|line| kept.iter().any(|word| line.starts_with(word))).collect();
        let files =
            ["oom_score_adj", "cgroup", "limits"].map(|file| fs::read_to_string(format!("/proc/self/{file}")).unwrap());
        let dumpable = nix::sys::prctl::get_dumpable().unwrap();
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        (lines.join("\n"), files, std::env::current_dir().unwrap(), dumpable, descriptors)
    };
    let runtime = runtime(&bundle);
    let before = look();
    let init = create(&runtime, &bundle);
    runtime.start(&bundle.id).unwrap();
    let process = serde_json::from_value(json!({"cwd": "/", "user": {}, "args": ["/bin/busybox", "true"]})).unwrap();
    reap(runtime.exec(&bundle.id, &process, ExecOptions::default()).unwrap().finish().unwrap());
    runtime.stats(&bundle.id).unwrap();
    runtime.kill(&bundle.id, 9, true).unwrap();
    reap(init);
    runtime.delete(&bundle.id, false).unwrap();
    assert_eq!(look(), before);
}

fn no_descriptor_of_the_callers_is_held_open() {
    // The end of a pipe must come although a container is created, and not started, meanwhile.
    let bundle = Bundle::idle();
    let runtime = runtime(&bundle);
    let (mut read, write) = std::io::pipe().unwrap();
    let init = create(&runtime, &bundle);
    drop(write);
    let ready =
        poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&read), PollFlags::POLLIN)], PollTimeout::from(5_000_u16));
    assert_eq!(ready, Ok(1), "somebody holds the pipe");
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
    runtime.delete(&bundle.id, true).unwrap();
    reap(init);
}

fn what_is_dropped_half_way_is_ended() {
    let bundle = Bundle::idle();
    let runtime = runtime(&bundle);
    for delay in [0, 2, 5, 10, 20] {
        let options = CreateOptions { stdin: null(), stdout: null(), stderr: null(), ..CreateOptions::default() };
        let pending = runtime.create(&bundle.id, bundle.path(), options).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        drop(pending);
        runtime.delete(&bundle.id, true).unwrap();
        while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) = waitpid(None, None) {}
        bundle.assert_nothing_left();
    }
}

fn a_failure_leaves_no_child() {
    let bundle = Bundle::new(&["no-such-program"]);
    let runtime = runtime(&bundle);
    let options = CreateOptions { stdin: null(), stdout: null(), stderr: null(), ..CreateOptions::default() };
    let error = runtime.create(&bundle.id, bundle.path(), options).unwrap().finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error}");
    assert_eq!(children(), [0; 0]);
    bundle.assert_nothing_left();

    let bundle = Bundle::idle();
    let runtime = self::runtime(&bundle);
    let init = create(&runtime, &bundle);
    let process = serde_json::from_value(json!({"cwd": "/", "user": {}, "args": ["/etc"]})).unwrap();
    let error = runtime.exec(&bundle.id, &process, ExecOptions::default()).unwrap().finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotExecutable, "{error}");
    assert_eq!(children(), [init]);
    runtime.delete(&bundle.id, true).unwrap();
    reap(init);
}

fn a_threaded_caller_is_refused() {
    let bundle = Bundle::idle();
    let runtime = runtime(&bundle);
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let error = runtime.create(&bundle.id, bundle.path(), CreateOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    drop(stop);
    let _ = thread.join().unwrap();
    // A thread is joined before the kernel has taken it off the list.
    common::wait("the thread to be gone", || fs::read_dir("/proc/self/task").unwrap().count() == 1);
}

fn statistics_are_those_of_the_container() {
    let mut bundle = Bundle::shell("while :; do :; done");
    let pids = common::controls("pids");
    if pids {
        bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 30});
    }
    let runtime = runtime(&bundle);
    let init = create(&runtime, &bundle);
    runtime.start(&bundle.id).unwrap();
    common::wait("processor time to be used", || runtime.stats(&bundle.id).unwrap().cpu.usage > 50_000_000);
    let stats = runtime.stats(&bundle.id).unwrap();
    assert!(stats.cpu.usage < 60_000_000_000, "nanoseconds: {stats:?}");
    if pids {
        assert_eq!((stats.pids.current, stats.pids.limit), (1, Some(30)));
    }
    assert_eq!(runtime.pids(&bundle.id).unwrap(), [init]);
    runtime.delete(&bundle.id, true).unwrap();
    reap(init);
}

fn a_cgroup_tree_is_killed_and_removed() {
    let name = format!("pea-test-{}", std::process::id());
    let hierarchies: Vec<_> = ["freezer", "unified", "pids"]
        .iter()
        .map(|each| std::path::Path::new("/sys/fs/cgroup").join(each))
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    let mut sleeper = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    for hierarchy in &hierarchies {
        let dir = hierarchy.join(&name).join("pod/child");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
    }
    let path = std::path::PathBuf::from(format!("/{name}"));
    if !hierarchies.is_empty() {
        assert!(pea::cgroup::remove_tree(&path).unwrap_err().to_string().contains(&sleeper.id().to_string()));
        pea::cgroup::kill_tree(&path).unwrap();
    }
    let _ = sleeper.kill();
    sleeper.wait().unwrap();
    for _ in 0..2 {
        pea::cgroup::kill_tree(&path).unwrap();
        pea::cgroup::remove_tree(&path).unwrap();
    }
    assert!(common::cgroups(&name).is_empty());
    pea::cgroup::kill_tree(std::path::Path::new("/")).unwrap_err();
}

/// The caller lives where a container is to be, as a supervisor does that holds a pod's namespaces.
fn the_runtimes_namespaces_may_be_others() {
    use nix::sched::{CloneFlags, setns, unshare};
    const FILES: [&str; 3] = ["ipc", "net", "uts"];
    let ip = |words: &str| testkit::attempt(Command::new("ip").args(words.split(' ')));
    let of_this_process = || FILES.map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
    let machines = FILES.map(|name| File::open(format!("/proc/self/ns/{name}")).unwrap());
    // Of its own, for the device; it plays the machine's.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let has_device = ip("link add pea0 type veth peer name pea1").status.success();
    let (runtimes, network) = (of_this_process(), File::open("/proc/self/ns/net").unwrap());
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS).unwrap();
    let callers = of_this_process();

    let mut bundle = Bundle::shell("for n in ipc net uts; do readlink /proc/self/ns/$n; done; cat /proc/net/dev");
    let hooked = bundle.path().join("hooked");
    let hook = format!("readlink /proc/self/ns/ipc /proc/self/ns/net /proc/self/ns/uts > {}", hooked.display());
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]});
    let own = format!("/proc/{}/ns/net", std::process::id());
    // It joins the caller's network, has a name of its own, and asks for nothing about IPC.
    bundle.spec["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "network", "path": own}]);
    if has_device {
        bundle.spec["linux"]["netDevices"] = json!({"pea0": {"name": "net0"}});
    }
    let runtime = runtime(&bundle);
    let (mut read, write) = std::io::pipe().unwrap();
    let given = [&machines[0], &network, &machines[2]].map(|file| file.try_clone().unwrap().into());
    let options = CreateOptions {
        stdin: null(),
        stdout: Some(write.into()),
        runtime_namespaces: given.into(),
        ..CreateOptions::default()
    };
    let init = runtime.create(&bundle.id, bundle.path(), options).unwrap().finish().unwrap();
    assert_eq!(of_this_process(), callers, "the caller was moved");
    runtime.start(&bundle.id).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    reap(init);
    runtime.delete(&bundle.id, false).unwrap();
    let name = |link: &std::path::PathBuf| link.display().to_string();
    let hooked = fs::read_to_string(hooked).unwrap();
    assert_eq!(hooked.lines().collect::<Vec<_>>(), runtimes.each_ref().map(name));
    let seen: Vec<&str> = text.lines().collect();
    assert_eq!(seen[..2], [name(&runtimes[0]), name(&callers[1])]);
    assert!(seen[2] != name(&runtimes[2]) && seen[2] != name(&callers[2]), "{seen:?}");
    assert_eq!(text.contains("net0:"), has_device, "{text}");
    for (file, flag) in
        machines.iter().zip([CloneFlags::CLONE_NEWIPC, CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWUTS])
    {
        setns(file, flag).unwrap();
    }
    if !has_device {
        testkit::skip("no veth devices on this machine");
    }
}
