//! `linux.memoryPolicy`: from which nodes memory comes (set_mempolicy(2)).

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};

use super::list;
use crate::error::Error;
use crate::sys::sched;

/// A mode with its flags, and the nodes as a mask.
#[derive(Clone, Debug)]
pub struct MemoryPolicy {
    mode: u32,
    nodes: Vec<u64>,
}

impl MemoryPolicy {
    pub fn new(given: &LinuxMemoryPolicy) -> Result<Self, Error> {
        let nodes = match given.nodes().as_deref() {
            None | Some("") => Vec::new(),
            Some(list) => list::mask(list).ok_or_else(|| refusal(&format!("nodes: {list:?} is no list of nodes")))?,
        };
        let mode = given.mode();
        match mode {
            Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => {
                return Err(refusal(&format!("nodes: {mode} takes none")));
            }
            Mode::MpolBind | Mode::MpolInterleave | Mode::MpolWeightedInterleave | Mode::MpolPreferredMany
                if nodes.is_empty() =>
            {
                return Err(refusal(&format!("nodes: {mode} needs at least one")));
            }
            _ => {}
        }
        let flags = given.flags().iter().flatten().fold(0, |flags, each| flags | flag(*each));
        Ok(Self { mode: number(mode) | flags, nodes })
    }

    /// Applies it to this process.
    pub fn apply(&self) -> Result<(), Error> {
        sched::set_memory_policy(self.mode, &self.nodes).map_err(|error| Error::io("linux.memoryPolicy", error))
    }
}

fn refusal(text: &str) -> Error {
    Error::spec(format!("config.json: linux.memoryPolicy.{text}"))
}

/// linux/mempolicy.h
fn number(mode: Mode) -> u32 {
    match mode {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    }
}

fn flag(flag: Flag) -> u32 {
    match flag {
        Flag::MpolFNumaBalancing => 1 << 13,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFStaticNodes => 1 << 15,
    }
}
