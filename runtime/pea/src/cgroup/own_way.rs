//! Entering a cgroup of v1 by oneself.
//!
//! A process that somebody moves waits for all processors of the machine, 10 ms and more, lest one of its threads makes
//! another meanwhile. Who writes 0 to `tasks` moves its own thread alone, and the kernel spares that
//! (`cgroup_procs_write_start` of kernel/cgroup/cgroup.c, since Linux 5.5). v2 has no such file; there a process is born in
//! its cgroup.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Opens the way into the cgroup of that directory.
pub fn open(dir: &Path) -> io::Result<File> {
    File::options().write(true).open(dir.join("tasks"))
}

/// Takes it. For a process with one thread.
pub fn take(mut way: &File) -> io::Result<()> {
    way.write_all(b"0")
}
