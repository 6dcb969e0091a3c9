//! The record of one container: `state.json`.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::systemd::Unit;
use crate::error::Error;
use crate::small_file;
use crate::state::Traits;

/// All that later commands need to know of a container. Later versions add fields with defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// Where its cgroup is, in every hierarchy; absolute.
    pub cgroup: PathBuf,
    /// The cgroups that were made above it, as directories, the deepest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_above: Vec<PathBuf>,
    /// Of a container without a mount namespace of its own: the mount its root file system was on before.
    #[serde(default)]
    pub beneath: Option<u64>,
    /// The unit of systemd that the cgroup belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    #[serde(default)]
    pub annotations: HashMap<String, String>,
    /// Whether there is something in the specification that is to be done after the creation: a hook, or shares of caches to
    /// be taken back.
    #[serde(default = "yes")]
    pub follow_up: bool,
    /// Absent in records of earlier versions.
    #[serde(default)]
    pub traits: Option<Traits>,
    /// The process that creates it, or did.
    #[serde(default)]
    pub creator: Option<Init>,
    /// Known once the environment stands; see [`Container::save_init`](super::Container::save_init).
    #[serde(default)]
    pub init: Option<Init>,
    /// Whether the user's program was let go, where nobody waits for that at the gate (a restored one).
    #[serde(default)]
    pub started: bool,
}

impl Record {
    /// A stand-in for a record that cannot be read: all that is known is the cgroup.
    pub fn damaged(id: &str, cgroup: PathBuf) -> Self {
        let (bundle, rootfs, created) = Default::default();
        let annotations = HashMap::new();
        Self {
            id: id.to_owned(),
            bundle,
            rootfs,
            created,
            cgroup,
            made_above: Vec::new(),
            beneath: None,
            unit: None,
            annotations,
            follow_up: true,
            traits: None,
            creator: None,
            init: None,
            started: false,
        }
    }

    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| Error::internal(format!("encode the state: {error}")))
    }

    pub fn decode(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Whether its creation broke off: who was to give it an init is dead.
    pub fn is_abandoned(&self) -> bool {
        self.init.is_none() && self.creator.is_some_and(|creator| !creator.is_alive())
    }

    /// The init, if it is that very process which still runs.
    pub fn living_init(&self) -> Option<i32> {
        self.init.filter(Init::is_alive).map(|init| init.pid)
    }
}

/// What records of earlier versions, which do not say, are to be taken for.
fn yes() -> bool {
    true
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot.
    pub start_time: u64,
}

impl Init {
    /// The process that has this pid now; `None` when there is none, or when it has ended and waits to be reaped.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = small_file::read_text(format!("/proc/{pid}/stat")).ok()?;
        let Stat { start_time, .. } = parse_stat(&stat)?;
        Some(Self { pid, start_time })
    }

    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (pid, start_time) = text.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }

    /// Whether it has ended, or is about to, by the text of its stat file (empty when there is none any more): an init
    /// leaves its namespaces first, then waits for all in its pid namespace to be gone.
    pub fn is_ending_by(&self, stat: &str) -> bool {
        parse_stat(stat).filter(|stat| stat.start_time == self.start_time).is_none_or(|stat| stat.exiting)
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.start_time)
    }
}

/// Of proc_pid_stat(5).
#[derive(Debug, Eq, PartialEq)]
struct Stat {
    start_time: u64,
    /// PF_EXITING of linux/sched.h.
    exiting: bool,
}

/// For a process that is not dead.
fn parse_stat(stat: &str) -> Option<Stat> {
    const PF_EXITING: u64 = 0x4;
    // The name, in parentheses, may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    // Fields 9 and 22; the state was field 3.
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(Stat { start_time, exiting: flags & PF_EXITING != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_start_time() {
        let stat =
            "7 (evil) R 1 2) S 1 7 7 0 -1 4194560 103 0 0 0 0 0 0 0 20 0 1 0 4242 2703360 90 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(Stat { start_time: 4242, exiting: false }));
    }

    #[test]
    fn a_process_that_has_begun_to_end_is_told() {
        let stat = "7 (sh) S 1 7 7 0 -1 4194564 103 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(stat), Some(Stat { start_time: 4242, exiting: true }));
        let alive = stat.replace("4194564", "4194560");
        let init = Init { pid: 7, start_time: 4242 };
        assert!(init.is_ending_by(stat) && init.is_ending_by(""));
        assert!(!init.is_ending_by(&alive));
        assert!(Init { start_time: 4243, ..init }.is_ending_by(&alive), "a later process of the number");
    }

    #[test]
    fn a_zombie_is_not_alive() {
        assert_eq!(parse_stat("7 (true) Z 1 7 7 0 -1 4194560 103 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"), None);
    }

    #[test]
    fn this_process_is_itself_and_not_a_later_one() {
        let own = Init::of(std::process::id() as i32).expect("this process is alive");
        assert!(own.is_alive());
        assert!(!Init { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
