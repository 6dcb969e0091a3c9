//! A root file system comes from an image, that is from anybody. What will be written to by its path from outside
//! must not lead out of it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Error, ErrorKind};

/// Directories of the root file system that are filled before the container is locked into it.
const FILLED: [&str; 3] = ["dev", "proc", "sys"];

/// Links the engine makes in `/dev` and takes offence at when they are there.
const DEVICE_LINKS: [&str; 5] = ["fd", "stdin", "stdout", "stderr", "kcore"];

/// Checks the root file system and prepares its `/dev`; returns its canonical path.
pub fn check(spec: &Spec, bundle: &Path) -> Result<PathBuf, Error> {
    let root = spec.root().as_ref().ok_or_else(|| Error::spec("config.json: root: missing"))?;
    let path = bundle.join(root.path());
    let path = path.canonicalize().map_err(|error| Error::io(format!("root file system {}", path.display()), error))?;
    if !path.is_dir() {
        return Err(Error::spec(format!("root file system {} is not a directory", path.display())));
    }
    for name in FILLED {
        refuse_link(&path, Path::new(name))?;
    }
    if !dev_is_mounted(spec)? {
        if path == Path::new("/") {
            let text = "config.json: root.path: / is the machine's own root, and without a mount over /dev its devices \
                        would be made anew";
            return Err(Error::spec(text));
        }
        let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        for device in devices {
            refuse_link(&path, device.path().parent().unwrap_or(Path::new("/dev")))?;
        }
        remove_links(&path.join("dev"))?;
    }
    Ok(path)
}

/// Whether something is mounted over `/dev`. Devices and links are put there afterwards, so it must not be the
/// machine's own.
fn dev_is_mounted(spec: &Spec) -> Result<bool, Error> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let Some(dev) = mounts.iter().rfind(|mount| same_path(mount.destination(), Path::new("/dev"))) else {
        return Ok(false);
    };
    let options = dev.options().as_deref().unwrap_or_default();
    if dev.typ().as_deref() == Some("bind") || options.iter().any(|option| option == "bind" || option == "rbind") {
        let text = "config.json: mounts: a bind mount over /dev is not supported; bind the devices, or list them in linux.devices";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(true)
}

/// Whether two paths inside a container name the same place, however they are written.
fn same_path(a: &Path, b: &Path) -> bool {
    normal(a) == normal(b)
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// Refuses a path beneath `root` that has a symbolic link in it; missing parts are fine, they will be directories.
fn refuse_link(root: &Path, path: &Path) -> Result<(), Error> {
    let mut current = root.to_owned();
    for component in normal(path).components() {
        current.push(component);
        match fs::symlink_metadata(&current) {
            Ok(metadata) if metadata.is_symlink() => {
                let target = fs::read_link(&current).unwrap_or_default();
                return Err(Error::spec(format!(
                    "root file system {}: /{} is a symbolic link to {}; a directory is required there",
                    root.display(),
                    current.strip_prefix(root).unwrap_or(&current).display(),
                    target.display(),
                )));
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

fn remove_links(dev: &Path) -> Result<(), Error> {
    for name in DEVICE_LINKS {
        let link = dev.join(name);
        if fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_symlink()) {
            fs::remove_file(&link).map_err(|error| Error::io(format!("remove {}", link.display()), error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_linked_directory_is_refused_wherever_it_is_in_the_path() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("dev")).expect("dev");
        symlink("/etc", root.path().join("dev/net")).expect("a link");
        symlink("/etc", root.path().join("proc")).expect("a link");
        refuse_link(root.path(), Path::new("dev")).expect("a directory is fine");
        refuse_link(root.path(), Path::new("sys")).expect("nothing there is fine");
        let error = refuse_link(root.path(), Path::new("/dev/net")).expect_err("a link below");
        assert!(error.to_string().contains("/dev/net is a symbolic link to /etc"), "{error}");
        refuse_link(root.path(), Path::new("proc")).expect_err("a link");
    }

    #[test]
    fn dev_is_dev_however_it_is_written() {
        assert!(same_path(Path::new("/dev/"), Path::new("/dev")));
        assert!(same_path(Path::new("/x/../dev/./"), Path::new("/dev")));
        assert!(!same_path(Path::new("/dev/shm"), Path::new("/dev")));
    }
}
