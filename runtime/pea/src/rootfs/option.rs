//! The words of `mounts[].options`: one table.

use super::propagation::Propagation;
use crate::sys::mount::Change;
use crate::sys::mount::attribute::{
    ACCESS_TIME, NO_ACCESS_TIME, NO_DEV, NO_DIR_ACCESS_TIME, NO_EXEC, NO_SUID, NO_SYMLINK_FOLLOW, READ_ONLY,
    RELATIVE_ACCESS_TIME, STRICT_ACCESS_TIME,
};

/// What one word asks for.
#[derive(Clone, Copy, Debug)]
enum Effect {
    Nothing,
    Bind {
        recursive: bool,
    },
    Remount,
    /// Attributes of the mount itself.
    Set(u64),
    Clear(u64),
    AccessTime(u64),
    /// Attributes of the mount and of all mounts below it.
    SetAll(u64),
    ClearAll(u64),
    AccessTimeOfAll(u64),
    /// A flag all file systems know; for a new file system, or the one remounted.
    FileSystem(&'static str),
    IdMap {
        recursive: bool,
    },
    CopyUp,
    CopySymlink,
    NoFollowSource,
    NoFollowDestination,
}

use Effect::{
    AccessTime, AccessTimeOfAll, Bind, Clear, ClearAll, CopySymlink, CopyUp, FileSystem, IdMap, NoFollowDestination,
    NoFollowSource, Nothing, Remount, Set, SetAll,
};

/// Those of mount(8) and of the other runtimes (runtime-spec, "Linux mount options"). Propagation has a table of its
/// own. Whatever stands in neither is the file system's.
const EFFECTS: [(&str, Effect); 64] = [
    ("defaults", Nothing),
    ("bind", Bind { recursive: false }),
    ("rbind", Bind { recursive: true }),
    ("remount", Remount),
    ("ro", Set(READ_ONLY)),
    ("rw", Clear(READ_ONLY)),
    ("nosuid", Set(NO_SUID)),
    ("suid", Clear(NO_SUID)),
    ("nodev", Set(NO_DEV)),
    ("dev", Clear(NO_DEV)),
    ("noexec", Set(NO_EXEC)),
    ("exec", Clear(NO_EXEC)),
    ("nosymfollow", Set(NO_SYMLINK_FOLLOW)),
    ("symfollow", Clear(NO_SYMLINK_FOLLOW)),
    ("nodiratime", Set(NO_DIR_ACCESS_TIME)),
    ("diratime", Clear(NO_DIR_ACCESS_TIME)),
    ("noatime", AccessTime(NO_ACCESS_TIME)),
    ("strictatime", AccessTime(STRICT_ACCESS_TIME)),
    // Without one of the others the kernel keeps access times relatively.
    ("relatime", AccessTime(RELATIVE_ACCESS_TIME)),
    ("atime", AccessTime(RELATIVE_ACCESS_TIME)),
    ("norelatime", AccessTime(RELATIVE_ACCESS_TIME)),
    ("nostrictatime", AccessTime(RELATIVE_ACCESS_TIME)),
    ("rro", SetAll(READ_ONLY)),
    ("rrw", ClearAll(READ_ONLY)),
    ("rnosuid", SetAll(NO_SUID)),
    ("rsuid", ClearAll(NO_SUID)),
    ("rnodev", SetAll(NO_DEV)),
    ("rdev", ClearAll(NO_DEV)),
    ("rnoexec", SetAll(NO_EXEC)),
    ("rexec", ClearAll(NO_EXEC)),
    ("rnosymfollow", SetAll(NO_SYMLINK_FOLLOW)),
    ("rsymfollow", ClearAll(NO_SYMLINK_FOLLOW)),
    ("rnodiratime", SetAll(NO_DIR_ACCESS_TIME)),
    ("rdiratime", ClearAll(NO_DIR_ACCESS_TIME)),
    ("rnoatime", AccessTimeOfAll(NO_ACCESS_TIME)),
    ("rstrictatime", AccessTimeOfAll(STRICT_ACCESS_TIME)),
    ("rrelatime", AccessTimeOfAll(RELATIVE_ACCESS_TIME)),
    ("ratime", AccessTimeOfAll(RELATIVE_ACCESS_TIME)),
    ("rnorelatime", AccessTimeOfAll(RELATIVE_ACCESS_TIME)),
    ("rnostrictatime", AccessTimeOfAll(RELATIVE_ACCESS_TIME)),
    ("sync", FileSystem("sync")),
    ("async", FileSystem("async")),
    ("rsync", FileSystem("sync")),
    ("rasync", FileSystem("async")),
    ("dirsync", FileSystem("dirsync")),
    ("rdirsync", FileSystem("dirsync")),
    ("lazytime", FileSystem("lazytime")),
    ("nolazytime", FileSystem("nolazytime")),
    ("mand", FileSystem("mand")),
    ("nomand", FileSystem("nomand")),
    ("rmand", FileSystem("mand")),
    ("rnomand", FileSystem("nomand")),
    // The kernel's messages, versions of inodes, and POSIX ACLs: defaults of the file systems today, which fsconfig(2)
    // has no general flag for.
    ("silent", Nothing),
    ("loud", Nothing),
    ("iversion", Nothing),
    ("noiversion", Nothing),
    ("acl", Nothing),
    ("noacl", Nothing),
    ("idmap", IdMap { recursive: false }),
    ("ridmap", IdMap { recursive: true }),
    ("tmpcopyup", CopyUp),
    ("copy-symlink", CopySymlink),
    ("src-nofollow", NoFollowSource),
    ("dest-nofollow", NoFollowDestination),
];

/// All words of both tables, for the `features` verb.
pub fn names() -> Vec<&'static str> {
    EFFECTS.iter().map(|(word, _)| *word).chain(super::propagation::words()).collect()
}

/// A bind mount: with the mounts below the source, or without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recursive(pub bool);

/// The mapping an `idmap` option carries (`idmap=uids=...;gids=...`); empty for the container's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdMapOption {
    pub recursive: Recursive,
    pub mapping: String,
}

/// The options of one mount, sorted by whom they concern.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    pub bind: Option<Recursive>,
    pub remount: bool,
    /// Of the mount itself.
    pub own: Change,
    /// Of the mount and of all mounts below it.
    pub tree: Change,
    /// In the order given.
    pub propagation: Vec<Propagation>,
    /// For fsconfig(2): key, and value where there is one.
    pub data: Vec<(String, Option<String>)>,
    pub id_map: Option<IdMapOption>,
    pub copy_up: bool,
    pub copy_symlink: bool,
    pub no_follow_source: bool,
    pub no_follow_destination: bool,
}

impl Options {
    /// Reads the words; of two that contradict each other the later one counts.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Self::default();
        for word in words {
            options.read(word);
        }
        options
    }

    fn read(&mut self, word: &str) {
        if let Some(propagation) = Propagation::parse(word) {
            self.propagation.push(propagation);
        } else if let Some((_, effect)) = EFFECTS.iter().find(|(name, _)| *name == word) {
            self.apply(*effect);
        } else if let Some(mapping) = word.strip_prefix("idmap=") {
            self.id_map = Some(IdMapOption { recursive: Recursive(false), mapping: mapping.to_owned() });
        } else if let Some(mapping) = word.strip_prefix("ridmap=") {
            self.id_map = Some(IdMapOption { recursive: Recursive(true), mapping: mapping.to_owned() });
        } else {
            self.data.extend(split(word).map(pair));
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Nothing => {}
            // Together they are the recursive one, in any order, as flags of mount(2) are.
            Bind { recursive } => self.bind = Some(Recursive(recursive || self.bind == Some(Recursive(true)))),
            Remount => self.remount = true,
            Set(bits) => set(&mut self.own, bits),
            Clear(bits) => clear(&mut self.own, bits),
            AccessTime(mode) => access_time(&mut self.own, mode),
            SetAll(bits) => set(&mut self.tree, bits),
            ClearAll(bits) => clear(&mut self.tree, bits),
            AccessTimeOfAll(mode) => access_time(&mut self.tree, mode),
            FileSystem(flag) => self.data.push((flag.to_owned(), None)),
            IdMap { recursive } => {
                self.id_map = Some(IdMapOption { recursive: Recursive(recursive), mapping: String::new() });
            }
            CopyUp => self.copy_up = true,
            CopySymlink => self.copy_symlink = true,
            NoFollowSource => self.no_follow_source = true,
            NoFollowDestination => self.no_follow_destination = true,
        }
    }

    /// The value of a file system's option; the last one counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.data.iter().rev().find(|(name, _)| name == key).and_then(|(_, value)| value.as_deref())
    }
}

fn set(change: &mut Change, bits: u64) {
    change.set |= bits;
    change.clear &= !bits;
}

fn clear(change: &mut Change, bits: u64) {
    change.clear |= bits;
    change.set &= !bits;
}

/// The modes share a field, which must be cleared as a whole (mount_setattr(2)).
fn access_time(change: &mut Change, mode: u64) {
    change.set = change.set & !ACCESS_TIME | mode;
    change.clear |= ACCESS_TIME;
}

/// Several options may stand in one word, with commas between them; not those within quotes or after a backslash.
fn split(word: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    word.split(move |letter| {
        let border = letter == ',' && !quoted && !escaped;
        quoted ^= letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        border
    })
    .filter(|each| !each.is_empty())
}

/// `key="value"` has its quotes for the comma's sake only (SELinux contexts).
fn pair(option: &str) -> (String, Option<String>) {
    match option.split_once('=') {
        Some((key, value)) => {
            let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            (key.to_owned(), Some(bare.unwrap_or(value).to_owned()))
        }
        None => (option.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse(words.iter().copied())
    }

    #[test]
    fn every_word_is_in_the_table_once() {
        let mut all = names();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn the_later_of_two_words_counts() {
        let options = parse(&["ro", "rw", "suid", "nosuid"]);
        assert_eq!((options.own.set, options.own.clear), (NO_SUID, READ_ONLY));
    }

    #[test]
    fn access_times_replace_each_other() {
        let own = parse(&["noatime", "strictatime"]).own;
        assert_eq!((own.set, own.clear), (STRICT_ACCESS_TIME, ACCESS_TIME));
        let own = parse(&["noatime", "nosuid", "atime"]).own;
        assert_eq!((own.set, own.clear), (NO_SUID, ACCESS_TIME));
    }

    #[test]
    fn recursive_words_leave_the_mount_itself_alone() {
        let options = parse(&["rbind", "rro", "rexec", "rnoatime"]);
        assert_eq!(options.bind, Some(Recursive(true)));
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(Recursive(true)));
        assert!(options.own.is_empty());
        assert_eq!((options.tree.set, options.tree.clear), (READ_ONLY | NO_ACCESS_TIME, NO_EXEC | ACCESS_TIME));
    }

    #[test]
    fn unknown_words_are_the_file_systems() {
        let options =
            parse(&["mode=755,size=1m", "context=\"a:b:c0,c1\"", "newinstance", "lowerdir=/a\\,b:/c", "sync"]);
        let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(
            options.data,
            [
                pair("mode", Some("755")),
                pair("size", Some("1m")),
                pair("context", Some("a:b:c0,c1")),
                pair("newinstance", None),
                pair("lowerdir", Some("/a\\,b:/c")),
                pair("sync", None),
            ]
        );
        assert_eq!(options.value("size"), Some("1m"));
    }

    #[test]
    fn an_id_map_may_carry_a_mapping() {
        let mapping = parse(&["idmap=uids=0-1-10;gids=0-100-10"]).id_map.expect("an id map");
        assert_eq!(mapping.mapping, "uids=0-1-10;gids=0-100-10");
        assert_eq!(parse(&["ridmap"]).id_map.map(|map| map.recursive), Some(Recursive(true)));
    }
}
