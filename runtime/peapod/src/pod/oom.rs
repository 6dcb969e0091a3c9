//! Whether the kernel killed a container for its memory.

use std::fs;

use super::{cgroup, task_id};

/// Where a container's count of out-of-memory kills is, by cgroup version: in the same line format.
const COUNTERS: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.oom_control"), ("/sys/fs/cgroup", "memory.events")];

/// Whether a process of that run was killed for want of memory. Asked after the end and before the cgroup goes.
pub fn killed(uid: &str, container: &str, attempt: u32) -> bool {
    let path = format!("{}/{}", cgroup(uid), task_id(container, attempt));
    COUNTERS
        .iter()
        .any(|(root, file)| fs::read_to_string(format!("{root}{path}/{file}")).is_ok_and(|text| count(&text) > 0))
}

/// The number on the line `oom_kill` (cgroup-v1/memory.rst section 10, cgroup-v2.rst "memory.events").
fn count(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_is_read_in_both_versions_files() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), 2);
        assert_eq!(count("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(count(""), 0);
    }
}
