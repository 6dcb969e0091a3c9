//! How mounts and unmounts spread between mounts (the kernel's "shared subtrees"): one table of words.

use crate::sys::mount::Change;

/// One word, as mount_setattr(2) takes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Propagation {
    /// `MS_PRIVATE` and its like.
    pub kind: u64,
    /// For all mounts below, too.
    pub recursive: bool,
}

const WORDS: [(&str, u64, bool); 8] = [
    ("private", libc::MS_PRIVATE, false),
    ("rprivate", libc::MS_PRIVATE, true),
    ("shared", libc::MS_SHARED, false),
    ("rshared", libc::MS_SHARED, true),
    ("slave", libc::MS_SLAVE, false),
    ("rslave", libc::MS_SLAVE, true),
    ("unbindable", libc::MS_UNBINDABLE, false),
    ("runbindable", libc::MS_UNBINDABLE, true),
];

/// All words of the table.
pub fn words() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(word, ..)| *word)
}

impl Propagation {
    /// `None` when it is no word of propagation.
    pub fn parse(word: &str) -> Option<Self> {
        let (_, kind, recursive) = *WORDS.iter().find(|(name, ..)| *name == word)?;
        Some(Self { kind, recursive })
    }

    pub fn change(self) -> Change {
        Change::propagation(self.kind)
    }

    /// Whether mounts of the machine shall not reach the container at all.
    pub fn is_private(self) -> bool {
        self.kind == libc::MS_PRIVATE || self.kind == libc::MS_UNBINDABLE
    }
}
