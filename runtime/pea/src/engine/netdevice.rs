//! Network devices that move into the container (config-linux.md, "Network Devices").

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{LinuxNetDevice, Spec};

use super::namespace::Namespaces;
use super::netlink::{LOOPBACK, Netlink};
use crate::error::Error;

/// One device of the runtime's network namespace.
#[derive(Clone, Debug)]
pub struct NetDevice {
    name: String,
    /// Its name in the container.
    inside: String,
}

/// Reads `linux.netDevices`.
pub fn parse(spec: &Spec, namespaces: &Namespaces) -> Result<Vec<NetDevice>, Error> {
    let given = spec.linux().as_ref().and_then(|linux| linux.net_devices().clone()).unwrap_or_default();
    let network = CloneFlags::CLONE_NEWNET;
    if !given.is_empty() && !namespaces.makes(network) && !namespaces.joins(network) {
        return Err(Error::spec("config.json: linux.netDevices: needs a namespace of type \"network\""));
    }
    let mut devices: Vec<NetDevice> = given.into_iter().map(|(name, device)| NetDevice::new(name, &device)).collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices.iter().try_for_each(NetDevice::check)?;
    if let Some(pair) = devices.iter().enumerate().find(|(n, one)| devices[..*n].iter().any(|e| e.inside == one.inside))
    {
        return Err(Error::spec(format!("config.json: linux.netDevices: two devices named {:?}", pair.1.inside)));
    }
    Ok(devices)
}

/// Moves the devices into the network namespace `to`, with their permanent global addresses, and sets them up.
pub fn give(devices: &[NetDevice], to: BorrowedFd<'_>) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let failure = |error: Errno| Error::io("linux.netDevices: speak with the kernel", error);
    let here = Netlink::open().map_err(failure)?;
    let there = open_in(to).map_err(failure)?;
    for device in devices {
        let failure =
            |error: Errno| Error::io(format!("linux.netDevices: move {} to the container", device.name), error);
        device.give(&here, &there, to).map_err(failure)?;
    }
    Ok(())
}

/// Sets up the loopback device of the calling process's network namespace, which is new.
pub fn set_up_loopback() -> Result<(), Error> {
    let up = Netlink::open().and_then(|netlink| netlink.set_up(LOOPBACK));
    up.map_err(|error| Error::io("set up the loopback device", error))
}

/// A socket stays of the namespace it was opened in.
fn open_in(to: BorrowedFd<'_>) -> Result<Netlink, Errno> {
    let own =
        File::open("/proc/self/ns/net").map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    setns(to, CloneFlags::CLONE_NEWNET)?;
    let there = Netlink::open();
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET)?;
    there
}

impl NetDevice {
    fn new(name: String, device: &LinuxNetDevice) -> Self {
        let inside = device.name().clone().filter(|inside| !inside.is_empty()).unwrap_or_else(|| name.clone());
        Self { name, inside }
    }

    /// As the kernel would, which tells no more than "invalid argument" (dev_valid_name).
    fn check(&self) -> Result<(), Error> {
        let bad = |name: &&String| {
            let odd = |letter: char| letter == '/' || letter == ':' || letter == '%' || letter.is_ascii_whitespace();
            name.is_empty() || name.len() >= libc::IFNAMSIZ || matches!(name.as_str(), "." | "..") || name.contains(odd)
        };
        match [&self.name, &self.inside].into_iter().find(bad) {
            Some(name) => Err(Error::spec(format!("config.json: linux.netDevices: {name:?} is no name of a device"))),
            None => Ok(()),
        }
    }

    fn give(&self, here: &Netlink, there: &Netlink, to: BorrowedFd<'_>) -> Result<(), Errno> {
        let index = here.find(&self.name)?;
        let addresses = here.addresses(index)?;
        here.give_away(index, to, &self.inside)?;
        // The number may be another's over there.
        let index = there.find(&self.inside)?;
        let mut kept = addresses.iter().filter(|address| address.is_permanent_and_global());
        kept.try_for_each(|address| there.add(index, address))?;
        there.set_up(index)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(devices: serde_json::Value, namespaces: serde_json::Value) -> Result<Vec<NetDevice>, Error> {
        let linux = json!({"netDevices": devices, "namespaces": namespaces});
        let spec = serde_json::from_value(json!({"ociVersion": "1.3.0", "linux": linux})).expect("a specification");
        parse(&spec, &Namespaces::open(&spec)?)
    }

    #[test]
    fn a_device_keeps_its_name_if_it_is_given_no_other() {
        let devices = parsed(json!({"a": {}, "b": {"name": "eth0"}}), json!([{"type": "network"}])).expect("devices");
        let names: Vec<_> = devices.iter().map(|device| (device.name.as_str(), device.inside.as_str())).collect();
        assert_eq!(names, [("a", "a"), ("b", "eth0")]);
    }

    #[test]
    fn what_no_kernel_would_do_is_refused() {
        let network = || json!([{"type": "network"}]);
        parsed(json!({"a": {}}), json!([])).expect_err("the machine's own namespace");
        parsed(json!({"a": {"name": "x/y"}}), network()).expect_err("no name");
        parsed(json!({"a-name-of-16-byte": {}}), network()).expect_err("too long");
        parsed(json!({"a": {"name": "b"}, "b": {}}), network()).expect_err("twice the same");
    }
}
