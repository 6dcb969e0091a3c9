//! Which systemd unit a container's cgroup belongs to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::checked;
use crate::error::Error;

/// A transient unit.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// Its full name: `cri-containerd-ID.scope`.
    pub name: String,
    /// The slice it is in.
    pub slice: String,
    /// Whether it is one of the user's own systemd.
    #[serde(default)]
    pub user: bool,
}

impl Unit {
    /// From systemd's own spelling of `cgroupsPath`, `slice:prefix:name`; what is left out is made up.
    pub fn parse(given: &str, id: &str, user: bool) -> Result<Self, Error> {
        let mut parts = given.split(':');
        let (slice, prefix, name) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (None | Some(""), None, ..) => ("", "pea", id),
            (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
            _ => return Err(Error::spec(format!("linux.cgroupsPath: {given:?} is not slice:prefix:name"))),
        };
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            given => given,
        };
        let name = match (name.ends_with(".slice"), prefix.is_empty()) {
            (true, _) => name.to_owned(),
            (false, true) => format!("{name}.scope"),
            (false, false) => format!("{prefix}-{name}.scope"),
        };
        Ok(Self { name, slice: slice.to_owned(), user })
    }

    /// Its cgroup below `base`, that of the systemd which manages it.
    pub fn path(&self, base: &Path) -> Result<PathBuf, Error> {
        let slice = &self.slice;
        let stem = slice
            .strip_suffix(".slice")
            .filter(|stem| !stem.contains('/'))
            .ok_or_else(|| Error::spec(format!("linux.cgroupsPath: {slice:?} is not the name of a slice")))?;
        let mut path = Path::new("/").join(base);
        if stem != "-" {
            // a-b.slice lies in a.slice (systemd.slice(5)).
            for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
                path.push(format!("{}.slice", &stem[..end]));
            }
        }
        if self.name.contains('/') {
            return Err(Error::spec(format!("linux.cgroupsPath: {:?} is not the name of a unit", self.name)));
        }
        path.push(&self.name);
        checked(&path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_dashes() {
        let path = |given, user, base| {
            let unit = Unit::parse(given, "id", user).and_then(|unit| unit.path(Path::new(base)));
            unit.map(|path| path.display().to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(
            path("kubepods-burstable.slice:cri:x", false, "/").as_deref(),
            Ok("/kubepods.slice/kubepods-burstable.slice/cri-x.scope")
        );
        assert_eq!(path("", false, "/").as_deref(), Ok("/system.slice/pea-id.scope"));
        assert_eq!(path("-.slice::x", false, "/").as_deref(), Ok("/x.scope"));
        assert_eq!(
            path("", true, "/user.slice/user-7.slice/user@7.service").as_deref(),
            Ok("/user.slice/user-7.slice/user@7.service/user.slice/pea-id.scope")
        );
        path("/a/b", false, "/").expect_err("a path is not a unit");
        path("no:pre:x", false, "/").expect_err("not a slice");
        path(":pre:../x", false, "/").expect_err("not a name");
    }
}
