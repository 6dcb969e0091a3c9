//! The switch `route_localnet` of an interface, by which the node's 127.0.0.1 can be sent on to the pods behind it.
//!
//! Any number but 0 is on. Ours is not the 1 that everybody else writes: so it is told from an administrator's or the
//! reference's, and found again after somebody has thrown the tables away (`nft flush ruleset`). Without the tables,
//! which keep pods from the node's loopback, an open switch is CVE-2020-8558.

use super::entry::LOCALNET;
use super::hostports::Hostports;
use crate::netlink::nft::NftSocket;
use crate::netlink::nft::rule::interface;
use crate::netlink::sysctl;
use crate::spec::{Error, code};

const OFF: &str = "0";
const OURS: &str = "2";
const ANOTHERS: &str = "1";

/// How often it is looked who needs it, while pods come and go.
const ATTEMPTS: u32 = 20;

fn key(name: &str) -> String {
    format!("ipv4/conf/{name}/route_localnet")
}

/// Whether somebody else has switched it on, who then also is the one to switch it off.
pub fn is_of_another(name: &str) -> bool {
    sysctl::is(&key(name), ANOTHERS)
}

/// Switches it on. An interface that is gone needs nothing.
///
/// # Errors
/// When it cannot be written.
pub fn open(name: &str) -> Result<(), Error> {
    if is_of_another(name) { Ok(()) } else { Ok(sysctl::ensure_if_present(&key(name), OURS)?) }
}

/// Switches it off.
///
/// # Errors
/// When it cannot be written.
pub fn shut(name: &str) -> Result<(), Error> {
    Ok(sysctl::ensure_if_present(&key(name), OFF)?)
}

/// Whether a table but this one says that it is needed.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn is_needed(socket: &mut NftSocket, name: &str, but: Option<&Hostports>) -> Result<bool, Error> {
    for other in Hostports::found(socket)? {
        let asked = other.is_v4() && but.is_none_or(|but| but.table() != other.table());
        if asked && socket.element(other.table(), LOCALNET, &interface(name))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Switches it as it is needed now, whoever came or went meanwhile.
///
/// # Errors
/// When it cannot be written, or pods come and go all the time.
pub fn settle(socket: &mut NftSocket, name: &str) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        let needed = is_needed(socket, name, None)?;
        if needed {
            open(name)?
        } else {
            shut(name)?
        }
        if is_needed(socket, name, None)? == needed {
            return Ok(());
        }
    }
    let msg = format!("cannot settle route_localnet of {name}: others keep changing the rules of host ports");
    Err(Error::new(code::TRY_AGAIN_LATER, msg))
}

/// Switches it off where it is ours and its table is gone.
///
/// # Errors
/// As [`settle`].
pub fn shut_if_left(socket: &mut NftSocket, name: &str) -> Result<(), Error> {
    if sysctl::is(&key(name), OURS) { settle(socket, name) } else { Ok(()) }
}
