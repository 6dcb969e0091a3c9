//! Where the shim itself is: the cgroup of the option `ShimCgroup`, and how readily the kernel ends it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::shim::oci;
use pea_shim::client::Shim;
use support::cri::message::Message;
use support::pod::{binary, run};
use support::{alive, eventually, shims_with_id};

/// The option in both types that containerd sends.
fn options(cgroup: &str) -> [Any; 2] {
    let runc = oci::Options { shim_cgroup: cgroup.into(), ..Default::default() }.write_to_bytes().unwrap();
    let generic = Message::new().text(3, &format!("ShimCgroup = {cgroup:?}\n")).encoded().to_vec();
    [("containerd.runc.v1.Options", runc), ("runtimeoptions.v1.Options", generic)].map(|(type_url, value)| Any {
        type_url: type_url.into(),
        value,
        ..Default::default()
    })
}

/// A bundle and what starts its shim.
struct Bundle {
    dir: tempfile::TempDir,
    id: String,
}

impl Bundle {
    fn new() -> Self {
        let dir = testkit::scratch();
        let id = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        Self { dir, id }
    }

    /// Runs `start`, by that program.
    fn start(&self, program: &Path, options: Option<&Any>) -> Output {
        let extension = options.map(|any| Extension { value: MessageField::some(any.clone()), ..Default::default() });
        let params = BootstrapParams {
            instance_id: self.id.clone(),
            namespace: "test".into(),
            socket_dir: Some(self.dir.path().display().to_string()),
            extensions: extension.into_iter().collect(),
            ..Default::default()
        };
        let mut command = Command::new(program);
        command.args(["-namespace", "test", "-id", &self.id, "start"]).current_dir(self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&params.write_to_bytes().unwrap()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The pid of the shim that has been started, and a connection to it.
    async fn shim(&self, started: &Output) -> (u32, Shim) {
        assert!(started.status.success(), "{started:?}");
        let answer = BootstrapResult::parse_from_bytes(&started.stdout).unwrap();
        let shim = Shim::connect(&answer.address).await.unwrap();
        (shim.connect_task("nobody").await.unwrap().0, shim)
    }

    fn end(&self, pid: u32) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
        eventually("the idle shim has ended", || !alive(pid));
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // What a failed test has left.
        for pid in shims_with_id(&self.id) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The cgroup of that path in every hierarchy there is; they are gone with this value.
struct Cgroup {
    path: String,
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    fn make(name: &str) -> Self {
        let path = format!("/{name}");
        let dirs: Vec<PathBuf> = hierarchies().iter().map(|(_, root)| root.join(name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
            inherit_cpuset(dir);
        }
        Self { path, dirs }
    }
}

/// A new cgroup of v1's cpuset has no processor, and takes no process.
fn inherit_cpuset(dir: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read(dir.parent().unwrap().join(file)) {
            let _ = fs::write(dir.join(file), value);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The hierarchies: their names in /proc/<pid>/cgroup, and where they are mounted.
fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let (mut place, mut kind) = (place.split(' '), kind.split(' '));
            let (kind, options) = (kind.next()?, kind.nth(1)?);
            wanted(kind, options).then(|| PathBuf::from(place.nth(4).unwrap()))
        })
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let names = own.lines().map(|line| line.split(':').nth(1).unwrap().to_owned());
    let place = |name: &String| match name.as_str() {
        "" => mounted(&|kind, _| kind == "cgroup2"),
        name => mounted(&|kind, options| {
            kind == "cgroup" && name.split(',').all(|one| options.split(',').any(|has| has == one))
        }),
    };
    names.filter_map(|name| place(&name).map(|place| (name, place))).collect()
}

/// Where a process is, hierarchy by hierarchy.
fn places(pid: u32) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1).map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn the_shim_is_in_the_cgroup_of_the_options_in_every_hierarchy_and_leaves_it_there() {
    run(async {
        let bundle = Bundle::new();
        let cgroup = Cgroup::make(&bundle.id);
        for any in options(&cgroup.path) {
            let (pid, _shim) = bundle.shim(&bundle.start(&binary(), Some(&any))).await;
            let wanted: Vec<String> = hierarchies().into_iter().map(|(name, _)| name).collect();
            assert!(!wanted.is_empty());
            let elsewhere: Vec<_> = places(pid)
                .into_iter()
                .filter(|(name, place)| wanted.contains(name) && *place != cgroup.path)
                .collect();
            assert_eq!(elsewhere, Vec::new(), "{}", any.type_url);
            assert_eq!(places(std::process::id()).iter().filter(|(_, place)| *place == cgroup.path).count(), 0);
            bundle.end(pid);
            assert!(cgroup.dirs.iter().all(|dir| dir.is_dir()), "a cgroup that others have made is gone");
        }
    });
}

#[test]
fn a_cgroup_that_only_some_hierarchies_have_is_joined_there() {
    run(async {
        let bundle = Bundle::new();
        let mut cgroup = Cgroup::make(&bundle.id);
        if cgroup.dirs.len() < 2 {
            return testkit::skip("there is one hierarchy of cgroups only");
        }
        fs::remove_dir(cgroup.dirs.pop().unwrap()).unwrap();
        let (pid, _shim) = bundle.shim(&bundle.start(&binary(), Some(&options(&cgroup.path)[0]))).await;
        assert_eq!(places(pid).iter().filter(|(_, place)| *place == cgroup.path).count(), cgroup.dirs.len());
        bundle.end(pid);
    });
}

/// As with containerd's own shim, it is not made: nobody would remove it.
#[test]
fn a_cgroup_that_does_not_exist_or_takes_no_process_is_named_and_no_shim_is_left() {
    let bundle = Bundle::new();
    let refused = |cgroup: &str, complaint: &str| {
        for any in options(cgroup) {
            let done = bundle.start(&binary(), Some(&any));
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(
                !done.status.success()
                    && said.contains("ShimCgroup")
                    && said.contains(cgroup)
                    && said.contains(complaint),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
            assert_eq!(shims_with_id(&bundle.id), Vec::<u32>::new());
            let sockets = fs::read_dir(bundle.dir.path()).unwrap().flatten();
            assert_eq!(sockets.filter(|entry| entry.path().extension().is_some_and(|end| end == "sock")).count(), 0);
        }
    };
    let nowhere = format!("/{}-nowhere", bundle.id);
    refused(&nowhere, "does not exist");
    assert!(hierarchies().iter().all(|(_, root)| !root.join(&nowhere[1..]).exists()));
    refused("/", "below the root");
    refused("relative", "absolute path");
    refused("/a/../..", "below the root");
    // The unified hierarchy has no processes where there are controllers for those below (cgroup-v2.rst).
    let cgroup = Cgroup::make(&bundle.id);
    let unified = hierarchies().into_iter().find(|(name, _)| name.is_empty()).map(|(_, root)| root.join(&bundle.id));
    let controllers = unified.as_ref().map(|dir| fs::read_to_string(dir.join("cgroup.controllers")).unwrap());
    // Controllers that know threads do not mind.
    let minds = |name: &&str| !["cpu", "cpuset", "perf_event", "pids"].contains(name);
    let Some(controller) = controllers.as_ref().and_then(|all| all.split_whitespace().find(minds)) else {
        return testkit::skip("the unified hierarchy has no such controllers for new cgroups here");
    };
    fs::write(unified.unwrap().join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    refused(&cgroup.path, "controllers enabled");
}

fn score(pid: u32) -> i32 {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

#[test]
fn the_kernel_ends_a_shim_a_little_sooner_than_who_started_it() {
    run(async {
        let bundle = Bundle::new();
        let (pid, _shim) = bundle.shim(&bundle.start(&binary(), None)).await;
        assert_eq!(score(pid), (score(std::process::id()) + 1).min(1000));
        bundle.end(pid);
        // There is no more than the most.
        let wrapper = bundle.dir.path().join("start");
        let script = format!("#!/bin/sh\necho 1000 > /proc/self/oom_score_adj\nexec {} \"$@\"\n", binary().display());
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (pid, _shim) = bundle.shim(&bundle.start(&wrapper, None)).await;
        assert_eq!(score(pid), 1000);
        bundle.end(pid);
    });
}
