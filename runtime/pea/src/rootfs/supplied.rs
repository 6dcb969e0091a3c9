//! The root file system itself, where a supervisor is to mount it: what container engines describe in the words of fstab,
//! one or a few mounts (containerd's `types.Mount`).
//!
//! Layers of an overlay are named one by one (`lowerdir+`, Linux 6.7): all of them together are longer than one option may
//! be. Before that kernel they are named by way of descriptors, which keeps them short enough for the one page mount(2) reads.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount as mount_by_path, umount2};
use nix::sys::stat::Mode;

use super::beneath::{self, Last};
use super::id_map::{IdMap, Mappings, Range};
use super::option::Options;
use crate::error::{Error, ErrorKind};
use crate::sys::mount::{self, Change, FileSystem, attribute};

/// The longest value fsconfig(2) takes.
const LONGEST_VALUE: usize = 255;

/// One mount of a root file system.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RootMount {
    /// The file system's type; `bind` with its option.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where, below the root; empty for the root itself.
    pub target: PathBuf,
    /// Words as in fstab, and `uidmap=`, `gidmap=` (`ID_ON_DISK:ID_SEEN:SIZE`, several with commas between) for a mount
    /// whose files belong to other ids than on disk. Of an overlay it is the lower layers that are mapped (Linux 6.15).
    pub options: Vec<String>,
}

/// Mounts in order. When one fails, those before it are undone.
pub fn mount_root(root: &Path, mounts: &[RootMount]) -> Result<(), Error> {
    for wanted in mounts {
        if let Err(error) = Supply::new(wanted).and_then(|supply| supply.mount(root)) {
            // The first error is the one to tell.
            let _ = unmount_root(root);
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts all that lies on `root`. Succeeds when nothing does, or when it does not exist.
pub fn unmount_root(root: &Path) -> Result<(), Error> {
    loop {
        // Detached: a process of the machine that happens to look in must not keep the container from ending.
        match umount2(root, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(error) => return Err(Error::io(format!("unmount {}", root.display()), error)),
        }
    }
}

/// One mount, read and checked.
struct Supply<'a> {
    wanted: &'a RootMount,
    options: Options,
    id_map: Option<IdMap>,
}

impl<'a> Supply<'a> {
    fn new(wanted: &'a RootMount) -> Result<Self, Error> {
        let refuse = |why: String| Error::new(ErrorKind::Unsupported, format!("root file system: {why}"));
        if wanted.target.components().any(|part| part == Component::ParentDir) {
            return Err(refuse(format!("mount target {} leaves it", wanted.target.display())));
        }
        let (mut uids, mut gids, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for word in &wanted.options {
            match word.split_once('=') {
                Some(("uidmap", text)) => {
                    uids = ranges(text).ok_or_else(|| refuse(format!("mount option {word:?}")))?
                }
                Some(("gidmap", text)) => {
                    gids = ranges(text).ok_or_else(|| refuse(format!("mount option {word:?}")))?
                }
                _ => words.push(word.as_str()),
            }
        }
        let options = Options::parse(words);
        if options.remount || options.data.iter().any(|(key, _)| key == "loop") {
            return Err(refuse(format!("mount options {:?}: neither loop nor remount is served", wanted.options)));
        }
        let id_map = match (uids.is_empty(), gids.is_empty()) {
            (true, true) => None,
            (false, false) => Some(IdMap { mappings: Mappings::Ranges { uids, gids }, recursive: false }),
            _ => return Err(refuse("uidmap and gidmap go together".to_owned())),
        };
        Ok(Self { wanted, options, id_map })
    }

    /// Where it is to be mounted, or has been. What lies below the root is an image's, and its links lead nowhere else.
    fn target(&self, root: &Path) -> Result<OwnedFd, Error> {
        let below = self.wanted.target.strip_prefix("/").unwrap_or(&self.wanted.target);
        let found = match below.as_os_str().is_empty() {
            true => open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()),
            false => beneath::directory(root).and_then(|root| beneath::find(root.as_fd(), below, Last::Follow)),
        };
        found.map_err(|error| Error::io(format!("root file system: find {}", root.join(below).display()), error))
    }

    fn mount(&self, root: &Path) -> Result<(), Error> {
        let tree = match self.options.bind {
            Some(recursive) => self.bind(recursive.0)?,
            None => match self.make()? {
                Some(tree) => tree,
                None => {
                    self.mount_in_one(&self.target(root)?)?;
                    return self.change(&self.target(root)?);
                }
            },
        };
        self.change(&tree)?;
        mount::attach(tree.as_fd(), self.target(root)?.as_fd()).map_err(|error| self.failure("attach", error))
    }

    fn bind(&self, recursive: bool) -> Result<OwnedFd, Error> {
        let source = Path::new(&self.wanted.source);
        let tree = mount::clone_tree(beneath::anywhere(), source, recursive, true);
        let tree = tree.map_err(|error| self.failure("clone", error))?;
        self.map_ids(&tree)?;
        Ok(tree)
    }

    fn map_ids(&self, tree: &OwnedFd) -> Result<(), Error> {
        let Some(map) = &self.id_map else { return Ok(()) };
        let mapped = map.namespace().and_then(|users| mount::map_ids(tree.as_fd(), false, users.as_fd()));
        mapped.map_err(|error| self.failure("map the ids of", error))
    }

    /// A new file system; `None` when an option is too long for it to be made so.
    fn make(&self) -> Result<Option<OwnedFd>, Error> {
        let failed = |step: &str| {
            let step = step.to_owned();
            move |error: std::io::Error| self.failure(&step, error)
        };
        let layers = self.layers()?;
        let file_system = FileSystem::open(&self.wanted.kind).map_err(failed("open"))?;
        if !layers.paths.is_empty() && !layers.set(&file_system) {
            return Ok(None);
        }
        let set = |key: &str, value: Option<&str>| {
            file_system.set(key, value).map_err(|error| self.failure(&file_system.complaint(), error))
        };
        set("source", Some(&self.wanted.source))?;
        if self.wanted.source.starts_with('/') && self.options.own.set & attribute::READ_ONLY != 0 {
            // What lies on a device may not even be opened for writing.
            set("ro", None)?;
        }
        for (key, value) in self.options.data.iter().filter(|(key, _)| layers.paths.is_empty() || key != "lowerdir") {
            if value.as_ref().is_some_and(|value| value.len() > LONGEST_VALUE) {
                return Ok(None);
            }
            set(key, value.as_deref())?;
        }
        let tree = file_system.create(self.options.own.set & !attribute::NO_SYMLINK_FOLLOW);
        let tree = tree.map_err(|error| self.failure(&file_system.complaint(), error))?;
        if layers.paths.is_empty() {
            self.map_ids(&tree)?;
        }
        Ok(Some(tree))
    }

    /// The layers of an overlay whose ids are mapped, or that are too long to be named together; none otherwise.
    fn layers(&self) -> Result<Layers, Error> {
        let mut layers = Layers::default();
        let value = self.options.value("lowerdir").filter(|_| self.wanted.kind == "overlay");
        let Some(value) = value.filter(|value| self.id_map.is_some() || value.len() > LONGEST_VALUE) else {
            return Ok(layers);
        };
        for path in split_layers(value) {
            if self.id_map.is_none() {
                layers.paths.push(path);
                continue;
            }
            let tree = mount::clone_tree(beneath::anywhere(), Path::new(&path), false, true);
            let tree = tree.map_err(|error| self.failure(&format!("clone layer {path} of"), error))?;
            self.map_ids(&tree)?;
            layers.paths.push(format!("/proc/self/fd/{}", tree.as_raw_fd()));
            layers.trees.push(tree);
        }
        Ok(layers)
    }

    /// By mount(2), for a kernel that cannot be told of layers one by one, and for other options that are long.
    fn mount_in_one(&self, target: &OwnedFd) -> Result<(), Error> {
        let value = self.options.value("lowerdir").unwrap_or_default();
        let mut layers = self.layers()?;
        let common = common_directory(&split_layers(value)).filter(|_| layers.trees.is_empty());
        let directory = common.map(|common| File::open(&common).map(|directory| (common, directory)));
        let directory = directory.transpose().map_err(|error| self.failure("open the layers of", error))?;
        if let Some((common, directory)) = &directory {
            let short = |path: String| format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), &path[common.len()..]);
            layers.paths = split_layers(value).into_iter().map(short).collect();
        }
        let option = |(key, value): &(String, Option<String>)| match value {
            Some(_) if key == "lowerdir" && !layers.paths.is_empty() => format!("lowerdir={}", layers.paths.join(":")),
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        };
        let data = self.options.data.iter().map(option).collect::<Vec<_>>().join(",");
        let (kind, source) = (Some(self.wanted.kind.as_str()), Some(self.wanted.source.as_str()));
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        mount_by_path(source, target.as_str(), kind, MsFlags::empty(), Some(data.as_str()))
            .map_err(|error| self.failure("mount", error))
    }

    fn change(&self, tree: &OwnedFd) -> Result<(), Error> {
        let own = (false, self.options.own);
        let changes = [own, (true, self.options.tree)];
        let propagation = self.options.propagation.iter().map(|each| (each.recursive, each.change()));
        for (recursive, change) in
            changes.into_iter().chain(propagation).filter(|(_, change)| *change != Change::default())
        {
            mount::change(tree.as_fd(), recursive, change).map_err(|error| self.failure("set attributes of", error))?;
        }
        Ok(())
    }

    fn failure(&self, step: &str, error: impl Into<std::io::Error>) -> Error {
        let RootMount { kind, source, options, .. } = self.wanted;
        let mut options = options.join(",");
        if options.len() > LONGEST_VALUE {
            let shown = options.char_indices().nth(LONGEST_VALUE).map_or(options.len(), |(at, _)| at);
            options.replace_range(shown.., "...");
        }
        Error::io(format!("root file system: {step} {kind} {source} ({options})"), error)
    }
}

/// Layers named one by one.
#[derive(Default)]
struct Layers {
    paths: Vec<String>,
    /// What paths that lead through descriptors depend on.
    trees: Vec<OwnedFd>,
}

impl Layers {
    /// Whether the kernel takes them so.
    fn set(&self, file_system: &FileSystem) -> bool {
        let short = self.paths.iter().all(|path| path.len() <= LONGEST_VALUE);
        short && self.paths.iter().all(|path| file_system.set("lowerdir+", Some(path)).is_ok())
    }
}

/// Splits a value of `lowerdir`, where a backslash takes the meaning from a colon.
fn split_layers(value: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ':' => layers.push(String::new()),
            letter => {
                if let Some(last) = layers.last_mut() {
                    last.extend(if letter == '\\' { letters.next() } else { Some(letter) });
                }
            }
        }
    }
    layers
}

/// The longest directory, with its slash, that all paths lie in.
fn common_directory(paths: &[String]) -> Option<String> {
    let first = paths.first()?;
    let shared = paths.iter().fold(first.len(), |shared, path| {
        first.bytes().zip(path.bytes()).take(shared).take_while(|(a, b)| a == b).count()
    });
    let end = first.get(..shared)?.rfind('/')? + 1;
    (end > 1).then(|| first[..end].to_owned())
}

/// `DISK:SEEN:SIZE,...`
fn ranges(text: &str) -> Option<Vec<Range>> {
    text.split(',')
        .map(|range| {
            let mut numbers = range.split(':').map(|number| number.parse::<u32>().ok());
            let mut next = || numbers.next()?;
            let range = Range { inside: next()?, outside: next()?, size: next()? };
            numbers.next().is_none().then_some(range)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply(options: &[&str]) -> Result<(), Error> {
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        let mount = RootMount { kind: "overlay".into(), source: "overlay".into(), options, ..RootMount::default() };
        Supply::new(&mount).map(drop)
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        for (options, name) in
            [(&["loop"][..], "loop"), (&["uidmap=0:1"], "uidmap=0:1"), (&["uidmap=0:1:2"], "go together")]
        {
            assert!(supply(options).is_err_and(|error| error.to_string().contains(name)), "{options:?}");
        }
        assert!(supply(&["uidmap=0:1:2,2:9:1", "gidmap=0:1:2", "ro"]).is_ok());
    }

    #[test]
    fn layers_are_parted_at_colons_that_mean_it() {
        assert_eq!(split_layers(r"/a\:b:/c\\d:/e"), ["/a:b", r"/c\d", "/e"]);
        let layers: Vec<String> = (0..200).map(|n| format!("/var/lib/x/snapshots/{n}/fs")).collect();
        assert_eq!(common_directory(&layers).as_deref(), Some("/var/lib/x/snapshots/"));
        assert_eq!(common_directory(&["/a/x".into(), "/b/x".into()]), None);
    }
}
