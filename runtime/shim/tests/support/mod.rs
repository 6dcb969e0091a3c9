//! What both test programs share: bundles, processes, waiting with a deadline.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod containerd;
pub mod cri;
pub mod crowd;
pub mod pod;
pub mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{InitFlags, Inotify};

/// The longest anything in these tests may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until a condition holds; the test fails when it does not within the deadline.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "still not so after {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process lives; a zombie does not.
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// A field of /proc/<pid>/status.
pub fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in the status of {pid}")).trim().to_owned()
}

/// How many descriptors a process has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The mounts of the node at or below a directory.
pub fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let directory = directory.to_str().unwrap();
    mounts.lines().filter(|line| line.split(' ').nth(4).unwrap().starts_with(directory)).map(str::to_owned).collect()
}

/// Every cgroup directory, in any hierarchy, whose name is this.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let scope = format!("cri-containerd-{name}.scope");
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            // As it is, or as the plugin has systemd name it.
            if entry.file_name() == name || entry.file_name() == scope.as_str() {
                found.push(entry.path());
            }
            directories.push(entry.path());
        }
    }
    found
}

/// Takes inotify away from the calling thread and whom it starts: to them it is as if root had all the instances that it may
/// have (`fs.inotify.max_user_instances`).
pub fn without_inotify() {
    let mut filter = libseccomp::ScmpFilterContext::new(libseccomp::ScmpAction::Allow).unwrap();
    // Not what would forbid containers' programs to gain rights.
    filter.set_ctl_nnp(false).unwrap();
    for name in ["inotify_init", "inotify_init1"] {
        let call = libseccomp::ScmpSyscall::from_name(name).unwrap();
        filter.add_rule(libseccomp::ScmpAction::Errno(libc::EMFILE), call).unwrap();
    }
    filter.load().unwrap();
    assert_eq!(Inotify::init(InitFlags::empty()).unwrap_err(), nix::Error::EMFILE);
}

/// Whether new cgroups have that controller: in a hierarchy of its own (v1), or in the unified one.
pub fn controls(controller: &str) -> bool {
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    Path::new("/sys/fs/cgroup").join(controller).is_dir() || unified.split_whitespace().any(|name| name == controller)
}

/// The shims that were started in a directory or below it, by the arguments of their `start`.
pub fn shims_with_id(id: &str) -> Vec<u32> {
    processes(|arguments| {
        arguments.first().is_some_and(|name| name.ends_with("containerd-shim-pea-v2"))
            && arguments.windows(2).any(|pair| pair[0] == "-id" && pair[1] == id)
    })
}

/// The shims whose containerd has its sockets in that directory.
pub fn shims_below(directory: &Path) -> Vec<u32> {
    let directory = directory.to_str().unwrap();
    processes(|arguments| {
        arguments.first().is_some_and(|name| name.contains("containerd-shim"))
            && arguments.windows(2).any(|pair| pair[0] == "-address" && pair[1].starts_with(directory))
    })
}

/// The live processes whose arguments satisfy a condition.
pub fn processes(wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        wanted(&arguments) && alive(*pid)
    })
    .collect()
}
