//! Room for the descriptors of mounts that are opened before there is a container.

use std::io;

use crate::sys::process;

/// What else is open meanwhile: streams, namespaces, cgroups, what is kept for the container.
const OTHERS: u64 = 100;

/// This process's own limit of descriptors, raised as long as this value lives. The program shall not see it: many count
/// on 1024 for select(2), or close each number up to the limit.
#[derive(Debug)]
pub struct Room {
    soft: u64,
    hard: u64,
}

impl Room {
    /// Makes room for that many descriptors, as far as the hard limit goes; `None` when there is enough.
    pub fn make(count: usize) -> io::Result<Option<Self>> {
        let (soft, hard) = process::limit(libc::RLIMIT_NOFILE)?;
        let wanted = count as u64 + OTHERS;
        if wanted <= soft || soft == hard {
            return Ok(None);
        }
        process::set_limit(libc::RLIMIT_NOFILE, wanted.min(hard), hard)?;
        Ok(Some(Self { soft, hard }))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Lowering is always allowed.
        let _ = process::set_limit(libc::RLIMIT_NOFILE, self.soft, self.hard);
    }
}
