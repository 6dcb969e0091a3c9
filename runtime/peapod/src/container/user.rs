//! As whom the first process runs: `runAsUser`, `runAsGroup`, the image's `User`, and the image's
//! accounts.

use std::collections::BTreeSet;

use oci_spec::runtime::{User, UserBuilder};

use super::ContainerError;
use super::accounts::Accounts;
use crate::image::Image;
use crate::manifest::Container;

/// The user of the specification.
///
/// `runAsUser` stands in for the image's user, its group included. The first group is `runAsGroup`,
/// else the image's, else that of the account, else 0. The further groups are those of `/etc/group`
/// and those of the manifest; the first group is among them, so that giving it up takes a
/// privilege (CVE-2022-2995).
pub(super) fn of(container: &Container, image: &Image, image_user: Option<&str>) -> Result<User, ContainerError> {
    let accounts = Accounts::read(&image.layers)?;
    let security = &container.security;
    let written = match security.run_as_user {
        Some(uid) => uid.to_string(),
        None => image_user.unwrap_or_default().to_owned(),
    };
    let (name, group) = match written.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (written.as_str(), None),
    };
    let unknown = |kind: &'static str, name: &str| ContainerError::UnknownAccount {
        container: container.name.clone(),
        image: image.reference.clone(),
        kind,
        name: name.to_owned(),
    };
    let account = accounts.user(if name.is_empty() { "0" } else { name });
    let uid = match (&account, name) {
        (Some(account), _) => account.uid,
        (None, "") => 0,
        (None, name) => name.parse().map_err(|_| unknown("user", name))?,
    };
    let gid = match (security.run_as_group, group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => accounts.group(group).ok_or_else(|| unknown("group", group))?,
        (None, None) => account.as_ref().map_or(0, |account| account.gid),
    };
    if security.run_as_non_root && uid == 0 {
        return Err(ContainerError::Root { container: container.name.clone(), image: image.reference.clone() });
    }
    let memberships = account.map_or_else(Vec::new, |account| accounts.groups_of(&account.name));
    let groups: BTreeSet<u32> =
        [gid].into_iter().chain(memberships).chain(security.supplemental_groups.iter().copied()).collect();
    Ok(UserBuilder::default().uid(uid).gid(gid).additional_gids(groups.into_iter().collect::<Vec<_>>()).build()?)
}
