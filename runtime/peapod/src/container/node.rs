//! What a specification depends on that differs from one node to the next.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

use super::ContainerError;

/// CAP_SYS_RESOURCE's number in the kernel's bit sets.
const CAP_SYS_RESOURCE: u32 = 24;

/// In `/dev`, what is not a device or is made anew for each container.
const NOT_DEVICES: &[&str] = &["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];

/// What differs from one node to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// cgroup v2 is the only hierarchy: containers get a cgroup namespace.
    pub cgroup_v2: bool,
    /// Swap is counted, so it can be limited.
    pub swap_accounting: bool,
    /// The node's memory, in bytes: what `oom_score_adj` of a burstable pod is reckoned from.
    pub memory: u64,
    /// Our own `oom_score_adj`, below which nobody without CAP_SYS_RESOURCE can go; `None` with it.
    pub lowest_oom_score_adj: Option<i32>,
    /// Our own effective capabilities, as the kernel's bit set: all that a privileged container can get.
    pub capabilities: u64,
    /// The device files of `/dev`: what a privileged container gets.
    pub devices: Vec<LinuxDevice>,
}

impl Node {
    /// Looks at this node.
    ///
    /// # Errors
    ///
    /// When `/proc` or `/dev` cannot be read.
    pub fn detect() -> Result<Node, ContainerError> {
        let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let capabilities = capabilities(&read("/proc/self/status")?);
        Ok(Node {
            cgroup_v2,
            swap_accounting: swap_accounting(cgroup_v2),
            memory: memory(&read("/proc/meminfo")?),
            lowest_oom_score_adj: match capabilities >> CAP_SYS_RESOURCE & 1 {
                1 => None,
                _ => read("/proc/self/oom_score_adj")?.trim().parse().ok(),
            },
            capabilities,
            devices: devices(Path::new("/dev"))?,
        })
    }
}

/// Whether the memory controller has a file to limit swap by. In v2 the root cgroup never has it, so
/// the ones below it are asked.
fn swap_accounting(cgroup_v2: bool) -> bool {
    if !cgroup_v2 {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    groups.into_iter().any(|group| group.path().join("memory.swap.max").exists())
}

fn read(path: &str) -> Result<String, ContainerError> {
    fs::read_to_string(path).map_err(failed(Path::new(path)))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
    move |source| ContainerError::Node { path: path.to_owned(), source }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

/// `CapEff` of `/proc/self/status`.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// The device files under a directory, links not followed.
fn devices(directory: &Path) -> Result<Vec<LinuxDevice>, ContainerError> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
            let entry = entry.map_err(failed(&directory))?;
            let path = entry.path();
            // A device may go at any moment.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if NOT_DEVICES.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let kind = metadata.file_type();
            let kind = match (kind.is_char_device(), kind.is_block_device(), kind.is_dir()) {
                (true, _, _) => LinuxDeviceType::C,
                (_, true, _) => LinuxDeviceType::B,
                (_, _, true) => {
                    left.push(path);
                    continue;
                }
                _ => continue,
            };
            found.push(device(path, kind, &metadata)?);
        }
    }
    found.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(found)
}

fn device(path: PathBuf, kind: LinuxDeviceType, metadata: &fs::Metadata) -> Result<LinuxDevice, ContainerError> {
    let number = |number: u64| i64::try_from(number).unwrap_or_default();
    Ok(LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(number(major(metadata.rdev())))
        .minor(number(minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()?)
}
