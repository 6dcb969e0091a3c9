//! The `ifb` device of an attachment.
//!
//! Its name is the reference's, a hash of network and container, so that either plugin's DEL removes what the other
//! made. That name is one a container, not one an interface: a second interface of the container in the same network
//! takes another one. The alias says whose it is, to GC too.

use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use crate::netlink::{Link, RouteSocket, link, tc};
use crate::plugin::bridge::{alias, attachment_of_alias};
use crate::plugin::{Call, reference};
use crate::spec::{Error, code};

const PREFIX: &str = "bwp";
/// The reference's number of digits: with the prefix, the longest name an interface can have.
const DIGITS: usize = 12;

/// The device, as it is.
#[derive(Debug, Clone)]
pub struct Ifb {
    /// The device.
    pub link: Link,
}

/// The reference's name, and that of a second interface.
fn names(call: &Call<'_>) -> [String; 2] {
    let container = format!("{}{}", call.config.name, call.environment.container_id);
    let interface = format!("{container} {}", call.environment.ifname);
    [container, interface].map(|text| format!("{PREFIX}{}", reference::hash(&text, DIGITS)))
}

/// Whether a device is of this attachment, as far as it says; the reference's do not.
fn is_of(link: &Link, call: &Call<'_>) -> bool {
    link.alias.is_empty() || attachment_of_alias(&call.config.name, &link.alias) == Some(call.attachment())
}

impl Ifb {
    /// Creates it, up.
    ///
    /// # Errors
    /// When there is one already, of an ADD that no DEL followed, or the kernel refuses.
    pub fn create(call: &Call<'_>, mtu: u32, node: &mut RouteSocket) -> Result<Ifb, Error> {
        let [first, second] = names(call);
        let name = match link::by_name(node, &first)? {
            None => first,
            Some(taken) if !is_of(&taken, call) => second,
            Some(_) => {
                return Err(Error::new(code::INTERNAL, format!("the ifb device {first} exists already"))
                    .with_details("an earlier ADD was not followed by a DEL: DEL it first"));
            }
        };
        // One batch, which is one system call: nothing that is killed leaves a device without its alias.
        let mut batch = vec![tc::create_ifb(&name, mtu)];
        batch.extend(alias(&call.config.name, &call.attachment()).map(|alias| link::set_alias(&name, &alias)));
        if let Err(cause) = node.apply(batch) {
            if cause.errno() != Some(Errno::EEXIST) {
                let _ = node.apply(vec![link::delete(&name)]);
            }
            return Err(cause.into());
        }
        let link = link::by_name(node, &name)?;
        link.map(|link| Ifb { link }).ok_or_else(|| {
            Error::new(code::INTERNAL, format!("the ifb device {name} is gone again: something else removes it"))
        })
    }

    /// Finds it from the ids.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn find(call: &Call<'_>, node: &mut RouteSocket) -> Result<Option<Ifb>, Error> {
        for name in names(call) {
            if let Some(link) = link::by_name(node, &name)?.filter(|link| link.kind == "ifb" && is_of(link, call)) {
                return Ok(Some(Ifb { link }));
            }
        }
        Ok(None)
    }
}

/// Removes the devices of this network that belong to nobody on the list. One of the reference's says nothing of its
/// network and stays, unless the list of what is valid makes a runtime call DEL for it.
///
/// # Errors
/// When the kernel refuses.
pub fn gc(call: &Call<'_>) -> Result<(), Error> {
    let Some(valid) = call.config.valid_attachments()? else { return Ok(()) };
    let mut node = RouteSocket::open()?;
    let is_stale = |link: &Link| {
        link.name.starts_with(PREFIX)
            && attachment_of_alias(&call.config.name, &link.alias).is_some_and(|holder| !valid.contains(&holder))
    };
    let all = link::of_kind(&mut node, InfoKind::Ifb)?;
    Ok(node.apply(all.iter().filter(|link| is_stale(link)).map(|link| link::delete(&link.name)).collect())?)
}
