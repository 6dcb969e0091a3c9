//! Much at once, and what a shim holds meanwhile.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::task::Poll;

use super::status_field;

/// Has so many workers do jobs, numbered from 0.
pub async fn crew(workers: usize, jobs: usize, job: impl AsyncFn(usize)) {
    let next = Cell::new(0);
    let worker = async || {
        while next.get() < jobs {
            job(next.replace(next.get() + 1)).await;
        }
    };
    let mut at_work: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
    for _ in 0..workers {
        at_work.push(Box::pin(worker()));
    }
    poll_fn(|context| {
        at_work.retain_mut(|worker| worker.as_mut().poll(context).is_pending());
        if at_work.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What must be the same after much work as before it.
#[derive(Debug, Eq, PartialEq)]
pub struct Holdings {
    /// What its descriptors are open on, without numbers.
    pub descriptors: Vec<String>,
    pub threads: String,
    /// Zombies included.
    pub children: Vec<String>,
}

impl Holdings {
    /// What a shim holds now.
    pub fn of(shim: u32) -> Self {
        let links = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().flatten();
        let mut descriptors: Vec<String> = links
            .filter_map(|link| Some(fs::read_link(link.path()).ok()?.display().to_string()))
            .map(|link| link.split(":[").next().unwrap().to_owned())
            .collect();
        descriptors.sort();
        let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
        let children = children.split_whitespace().map(str::to_owned).collect();
        Self { descriptors, threads: status_field(shim, "Threads"), children }
    }
}

/// A shim's own memory, in KiB.
pub fn own_memory(shim: u32) -> i64 {
    status_field(shim, "RssAnon").trim_end_matches(" kB").parse().unwrap()
}

/// The sockets of shims that were made in this network namespace, and still have a name.
pub fn sockets() -> BTreeSet<PathBuf> {
    let all = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let paths = all.lines().filter_map(|line| line.split_whitespace().nth(7)).map(PathBuf::from);
    paths.filter(|path| path.starts_with("/run/containerd/s")).collect()
}

/// The links of this network namespace.
pub fn links() -> Vec<String> {
    let listed = testkit::output(Command::new("ip").args(["-o", "link"]));
    listed.lines().map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect()
}

/// The FIFOs in a directory and below.
pub fn fifos(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_fifo() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
