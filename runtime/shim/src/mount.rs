//! Mounting a container's root file system from fstab's words, and unmounting it.

use std::io;
use std::path::Path;

use containerd_shim_protos::api;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::Error;

/// An option's word, and the flags it sets or clears (mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS").
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("atime", false, MsFlags::MS_NOATIME),
    ("bind", true, MsFlags::MS_BIND),
    ("defaults", true, MsFlags::empty()),
    ("dev", false, MsFlags::MS_NODEV),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("mand", true, MsFlags::MS_MANDLOCK),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("nodev", true, MsFlags::MS_NODEV),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("nomand", false, MsFlags::MS_MANDLOCK),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("nostrictatime", false, MsFlags::MS_STRICTATIME),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("remount", true, MsFlags::MS_REMOUNT),
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("suid", false, MsFlags::MS_NOSUID),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
];

/// Options that change what is mounted in ways mount(2) cannot: taken for data they would fail
/// with a bare EINVAL, or not at all.
const REFUSED: &[&str] = &["gidmap=", "loop", "uidmap="];

/// Flags a bind mount ignores until it is remounted.
const NEEDS_REMOUNT: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NOATIME);

/// The kernel reads one page of mount data.
const DATA_LIMIT: usize = 4095;

/// What mount(2) wants to be told.
#[derive(Debug, Eq, PartialEq)]
struct Plan {
    flags: MsFlags,
    data: String,
}

impl Plan {
    fn of(options: &[String]) -> Result<Self, Error> {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in options {
            if REFUSED.iter().any(|refused| option.starts_with(refused)) {
                return Err(Error::unimplemented(format!("root file system: mount option {option:?} is not served")));
            }
            match FLAGS.iter().find(|(word, ..)| word == option) {
                Some((_, set, flag)) => flags.set(*flag, *set),
                None => data.push(option.as_str()),
            }
        }
        Ok(Self { flags, data: data.join(",") })
    }
}

/// Mounts in order; when one fails, those before it are undone.
pub fn mount_all(mounts: &[api::Mount], rootfs: &Path) -> Result<(), Error> {
    for wanted in mounts {
        if let Err(error) = mount_one(wanted, rootfs) {
            // The first error is the one to tell.
            let _ = unmount(rootfs);
            return Err(error);
        }
    }
    Ok(())
}

fn mount_one(wanted: &api::Mount, rootfs: &Path) -> Result<(), Error> {
    let target = rootfs.join(wanted.target.trim_start_matches('/'));
    if wanted.target.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("root file system: mount target {:?} leaves it", wanted.target)));
    }
    let mut plan = Plan::of(&wanted.options)?;
    let failed = |errno: Errno| {
        let (kind, source, at) = (&wanted.type_, &wanted.source, target.display());
        Error::io(format!("mount {kind} {source} on {at} with {:?}", wanted.options), errno)
    };
    let home = shorten(&mut plan.data).map_err(|source| Error::io("enter the layers' directory", source))?;
    let (kind, data) = (wanted.type_.as_str(), plan.data.as_str());
    let bind = plan.flags.contains(MsFlags::MS_BIND);
    let mounted = mount(Some(wanted.source.as_str()), &target, Some(kind), plan.flags, Some(data));
    drop(home);
    mounted.map_err(failed)?;
    if bind && plan.flags.intersects(NEEDS_REMOUNT) {
        let flags = plan.flags.difference(MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
        mount(None::<&str>, &target, None::<&str>, flags, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

/// Goes back to `/`, where the shim lives, when dropped.
struct Away;

impl Drop for Away {
    fn drop(&mut self) {
        let _ = std::env::set_current_dir("/");
    }
}

/// Makes overlay's `lowerdir` fit into a page by naming the layers from their common directory,
/// which becomes the working directory for the mount (this process has one thread, and its home is `/`).
fn shorten(data: &mut String) -> io::Result<Option<Away>> {
    if data.len() <= DATA_LIMIT {
        return Ok(None);
    }
    let Some((before, layers, after)) = split_lowerdir(data) else { return Ok(None) };
    let Some(common) = common_directory(&layers) else { return Ok(None) };
    let short: Vec<&str> = layers.iter().map(|layer| &layer[common.len()..]).collect();
    let shortened = format!("{before}lowerdir={}{after}", short.join(":"));
    std::env::set_current_dir(&common)?;
    *data = shortened;
    Ok(Some(Away))
}

/// The data before, the layers of, and the data after `lowerdir`.
fn split_lowerdir(data: &str) -> Option<(&str, Vec<&str>, &str)> {
    let start = data.find("lowerdir=")?;
    let (before, rest) = (data.get(..start)?, data.get(start + "lowerdir=".len()..)?);
    let end = rest.find(',').unwrap_or(rest.len());
    Some((before, rest.get(..end)?.split(':').collect(), rest.get(end..)?))
}

/// The longest directory, with its slash, that all paths lie in.
fn common_directory(paths: &[&str]) -> Option<String> {
    let first = *paths.first()?;
    let shared = paths.iter().fold(first.len(), |shared, path| {
        first.bytes().zip(path.bytes()).take(shared).take_while(|(a, b)| a == b).count()
    });
    let end = first.get(..shared)?.rfind('/')? + 1;
    (end > 1).then(|| first[..end].to_owned())
}

/// Unmounts all that lies on `rootfs`. Succeeds when nothing does, or when it does not exist.
pub fn unmount(rootfs: &Path) -> Result<(), Error> {
    loop {
        // Detached: a process of the node that happens to look in must not keep the pod from ending.
        match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(Error::io(format!("unmount {}", rootfs.display()), errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_table_is_sorted_so_that_a_reader_finds_a_word() {
        assert!(FLAGS.is_sorted_by_key(|(word, ..)| word));
    }

    #[test]
    fn words_become_flags_and_the_rest_is_data() {
        let plan = Plan::of(&options(&["rbind", "ro", "lowerdir=/a:/b", "nosuid", "index=off"])).unwrap();
        assert_eq!(plan.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert_eq!(plan.data, "lowerdir=/a:/b,index=off");
        assert_eq!(Plan::of(&options(&["ro", "rw"])).unwrap().flags, MsFlags::empty());
    }

    #[test]
    fn an_option_that_needs_more_than_a_mount_is_refused() {
        assert!(Plan::of(&options(&["loop"])).is_err());
    }

    #[test]
    fn many_layers_are_named_from_their_common_directory() {
        let layers: Vec<String> = (0..200).map(|n| format!("/var/lib/x/snapshots/{n}/fs")).collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        assert_eq!(common_directory(&layers).unwrap(), "/var/lib/x/snapshots/");
        assert_eq!(common_directory(&["/a/x", "/b/x"]), None);
        let data = format!("workdir=/w,lowerdir={},index=off", layers.join(":"));
        let (before, split, after) = split_lowerdir(&data).unwrap();
        assert_eq!((before, split.len(), after), ("workdir=/w,", 200, ",index=off"));
    }
}
