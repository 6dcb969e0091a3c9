//! No swap at all, on cgroup v2.
//!
//! The specification counts swap together with memory (config-linux.md, "Memory"), cgroup v2 counts it alone: none
//! is 0 there. The engine takes 0 for "nothing said" and leaves swap unlimited, so it is written here.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::{Kind, gone, hierarchies};
use crate::error::Error;

/// The file of a cgroup with how many bytes of swap it may have (cgroup-v2.rst).
const LIMIT: &str = "memory.swap.max";

/// Keeps the container from swapping when its specification allows as much memory with swap as without.
pub(crate) fn enforce(path: &Path, resources: Option<&LinuxResources>) -> Result<(), Error> {
    if !resources.is_some_and(none) {
        return Ok(());
    }
    match hierarchies()?.as_slice() {
        [only] if only.kind == Kind::Unified => write(&only.dir(path).join(LIMIT)),
        // The memory controller is of v1, which counts as the specification does.
        _ => Ok(()),
    }
}

fn none(resources: &LinuxResources) -> bool {
    let memory = resources.memory().as_ref();
    let limit = memory.and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
    // What is said in cgroup v2's own words has the last word.
    let said = resources.unified().as_ref().is_some_and(|unified| unified.contains_key(LIMIT));
    !said && limit.is_some() && limit == memory.and_then(|memory| memory.swap())
}

fn write(file: &Path) -> Result<(), Error> {
    // Opened and not created: a kernel that does not count swap has no such file, and most such machines no swap.
    match File::options().write(true).open(file).and_then(|mut file| file.write_all(b"0")) {
        Err(error) if !gone(&error) => Err(Error::io(format!("write 0 to {}", file.display()), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn as_much_with_swap_as_without_is_no_swap() {
        let none = |json| none(&serde_json::from_value(json).expect("resources"));
        assert!(none(json!({"memory": {"limit": 4096, "swap": 4096}})));
        assert!(!none(json!({"memory": {"limit": 4096, "swap": 8192}})));
        assert!(!none(json!({"memory": {"limit": 4096}})));
        assert!(!none(json!({"memory": {"limit": -1, "swap": -1}})));
        assert!(!none(json!({"memory": {"limit": 0, "swap": 0}})));
        assert!(!none(json!({"memory": {"limit": 4096, "swap": 4096}, "unified": {"memory.swap.max": "1"}})));
        assert!(!none(json!({})));
    }

    #[test]
    fn a_cgroup_that_does_not_count_swap_is_left_alone() {
        let dir = testkit::scratch();
        let file = dir.path().join(LIMIT);
        write(&file).expect("no such file");
        assert!(!file.exists());
        fs::write(&file, "").expect("file");
        write(&file).expect("a file");
        assert_eq!(fs::read_to_string(&file).expect("file"), "0");
    }
}
