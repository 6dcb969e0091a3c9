//! Entering the pod's namespaces. The whole process goes: it has one thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use super::options::{Namespace, SandboxOptions};
use crate::error::Error;
use crate::sys;

/// The namespaces that are entered by a call, and their flags. The PID namespace begins with its init.
const OWN: &[(Namespace, CloneFlags)] = &[
    (Namespace::Ipc, CloneFlags::CLONE_NEWIPC),
    (Namespace::Network, CloneFlags::CLONE_NEWNET),
    (Namespace::Uts, CloneFlags::CLONE_NEWUTS),
];

/// Those of this process that entering a pod's may change, opened: for what it starts on the node's behalf.
pub(super) fn of_the_node() -> Result<Vec<File>, Error> {
    let open = |name: &str| {
        let path = format!("/proc/self/ns/{name}");
        File::open(&path).map_err(|source| Error::io(format!("open {path}"), source))
    };
    ["ipc", "net", "uts"].into_iter().map(open).collect()
}

/// Everything checked and opened that can be before the step that cannot be taken back.
pub(super) struct Plan {
    unshare: CloneFlags,
    network: Option<File>,
    hostname: Option<String>,
    sysctls: BTreeMap<String, String>,
}

impl Plan {
    /// `netns` is a network namespace to enter instead of making one; empty for none.
    pub(super) fn of(options: &SandboxOptions, netns: &str) -> Result<Self, Error> {
        let mut flags: CloneFlags =
            OWN.iter().filter(|(namespace, _)| options.has(*namespace)).map(|(_, flag)| *flag).collect();
        let network = match netns {
            "" => None,
            path => {
                flags.remove(CloneFlags::CLONE_NEWNET);
                let file = File::open(path);
                Some(file.map_err(|source| Error::io(format!("open network namespace {path}"), source))?)
            }
        };
        let hostname = (!options.hostname.is_empty()).then(|| options.hostname.clone());
        if hostname.is_some() && !flags.contains(CloneFlags::CLONE_NEWUTS) {
            return Err(Error::invalid(
                "a sandbox with a hostname needs a uts namespace: the node's name is not its to set",
            ));
        }
        if hostname.as_ref().is_some_and(|name| name.len() > 64) {
            return Err(Error::invalid("a hostname has 64 bytes at most (sethostname(2))"));
        }
        Ok(Self { unshare: flags, network, hostname, sysctls: options.sysctls.clone() })
    }

    /// The user namespace that the network namespace to be entered belongs to; `None` without such a one.
    pub(super) fn owner_of_network(&self) -> Result<Option<OwnedFd>, Error> {
        let owner = self.network.as_ref().map(|network| sys::owner_of_namespace(network.as_fd()));
        owner.transpose().map_err(|source| Error::io("find the user namespace of the pod's network", source))
    }

    /// Enters them. What is made belongs to the user namespace this process is in. What is left to do is to set the
    /// parameters.
    pub(super) fn enter(self) -> Result<Parameters, Error> {
        if !self.unshare.is_empty() {
            unshare(self.unshare).map_err(|source| Error::io(format!("make namespaces {:?}", self.unshare), source))?;
        }
        if let Some(network) = self.network {
            setns(network, CloneFlags::CLONE_NEWNET)
                .map_err(|source| Error::io("enter the pod's network namespace", source))?;
        }
        if let Some(hostname) = self.hostname {
            sethostname(&hostname)
                .map_err(|source| Error::io(format!("set the pod's hostname to {hostname:?}"), source))?;
        }
        Ok(Parameters(self.sysctls))
    }
}

/// Kernel parameters of the namespaces this process is in (proc_sys(5)).
#[must_use]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Sets all of them.
    pub(super) fn set(self) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, value)| write(name, value).map_err(|source| failure(name, value, source)))
    }

    /// Sets those that this process may, and returns the others.
    pub(super) fn set_permitted(self) -> Result<Self, Error> {
        let mut refused = BTreeMap::new();
        for (name, value) in self.0 {
            match write(&name, &value) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    refused.insert(name, value);
                }
                Err(error) => return Err(failure(&name, &value, error)),
            }
        }
        Ok(Self(refused))
    }
}

fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

fn write(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(name), value)
}

fn failure(name: &str, value: &str, source: io::Error) -> Error {
    Error::io(format!("set {} to {value:?} for the pod", path(name)), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(hostname: &str, namespaces: &[Namespace], netns: &str) -> Result<Plan, Error> {
        let namespaces = namespaces.to_vec();
        Plan::of(&SandboxOptions { hostname: hostname.into(), namespaces, ..SandboxOptions::default() }, netns)
    }

    #[test]
    fn a_hostname_needs_a_namespace_of_the_pods_own_and_fits_into_the_kernels_field() {
        assert!(plan("web", &[Namespace::Ipc], "").is_err());
        assert!(plan(&"x".repeat(64), &[Namespace::Uts], "").is_ok());
        assert!(plan(&"x".repeat(65), &[Namespace::Uts], "").is_err());
    }

    #[test]
    fn a_network_namespace_that_is_given_is_entered_and_none_is_made() {
        let both = [Namespace::Network, Namespace::Ipc, Namespace::Pid];
        let made = plan("", &both, "").unwrap();
        assert_eq!(made.unshare, CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC);
        let given = plan("", &both, "/proc/self/ns/net").unwrap();
        assert_eq!((given.unshare, given.network.is_some()), (CloneFlags::CLONE_NEWIPC, true));
        assert!(plan("", &both, "/no/such").is_err_and(|error| error.to_string().contains("/no/such")));
    }
}
