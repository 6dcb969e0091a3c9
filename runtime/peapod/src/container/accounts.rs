//! The image's `/etc/passwd` and `/etc/group`, found across its layers without mounting them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ContainerError;

/// More than any list of accounts has; a larger file is not read.
const MOST_BYTES: u64 = 4 << 20;

/// The lists of accounts, empty where the image has none.
pub(super) struct Accounts {
    passwd: String,
    group: String,
}

/// A line of `/etc/passwd`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Accounts {
    /// Reads both lists from the layers, topmost first.
    pub(super) fn read(layers: &[PathBuf]) -> Result<Accounts, ContainerError> {
        let read = |name: &str| find(layers, name).map_err(|(path, source)| ContainerError::Accounts { path, source });
        Ok(Accounts { passwd: read("passwd")?, group: read("group")? })
    }

    /// The account of that name, else the one of that number.
    pub(super) fn user(&self, name: &str) -> Option<Account> {
        let number = name.parse().ok();
        let accounts = || {
            self.passwd.lines().filter_map(|line| {
                let mut fields = line.split(':');
                let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
                Some(Account { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
            })
        };
        accounts().find(|one| one.name == name).or_else(|| accounts().find(|one| Some(one.uid) == number))
    }

    /// The number of a group given by name or number.
    pub(super) fn group(&self, name: &str) -> Option<u32> {
        let named = self.groups().find(|(other, _, _)| *other == name).map(|(_, gid, _)| gid);
        named.or_else(|| name.parse().ok())
    }

    /// The groups that list a user.
    pub(super) fn groups_of(&self, user: &str) -> Vec<u32> {
        let lists = |members: &str| members.split(',').any(|member| member == user);
        self.groups().filter(|(_, _, members)| lists(members)).map(|(_, gid, _)| gid).collect()
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next());
            Some((name, gid.parse().ok()?, members.unwrap_or_default()))
        })
    }
}

/// `/etc/<name>` as overlayfs would show it: of the topmost layer that has it, until one removes it.
fn find(layers: &[PathBuf], name: &str) -> Result<String, (PathBuf, io::Error)> {
    for layer in layers {
        let etc = layer.join("etc");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        let Some(directory) = present(&etc).map_err(at(&etc))? else { continue };
        // A link could lead anywhere on the node, and a whiteout ends the search.
        if !directory.is_dir() {
            break;
        }
        let path = etc.join(name);
        match present(&path).map_err(at(&path))? {
            Some(file) if file.is_file() && file.len() <= MOST_BYTES => return read(&path).map_err(at(&path)),
            Some(_) => break,
            None if opaque(&etc) => break,
            None => {}
        }
    }
    Ok(String::new())
}

fn present(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file: File = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn opaque(directory: &Path) -> bool {
    xattr::get(directory, "trusted.overlay.opaque").is_ok_and(|value| value.as_deref() == Some(b"y".as_slice()))
}
