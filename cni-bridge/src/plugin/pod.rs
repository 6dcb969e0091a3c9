//! The pod's network namespace, as every type enters it.

use crate::netlink::{self, Netns, RouteSocket};
use crate::spec::{Environment, Error, code};

/// The pod's namespace and the one to come back to.
#[derive(Debug)]
pub struct Pod {
    home: Netns,
    netns: Netns,
}

impl Pod {
    /// Opens `CNI_NETNS`, refusing the plugin's own namespace.
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`] when it is no namespace, [`code::INVALID_NETNS`] when it is this one.
    pub fn open(environment: &Environment) -> Result<Pod, Error> {
        let home = Netns::current()?;
        let netns = open(environment, &home)?;
        Ok(Pod { home, netns })
    }

    /// As [`Pod::open`], for DEL: none when there is nothing to enter (any more).
    pub fn open_if_there(environment: &Environment) -> Option<Pod> {
        environment.netns.as_ref()?;
        Pod::open(environment).ok()
    }

    /// Runs `work` inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered or left, and what `work` fails with.
    pub fn inside<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, Error>
    where
        Error: From<E>,
    {
        Ok(self.netns.inside(&self.home, work)??)
    }

    /// A socket inside, that can be used from outside.
    ///
    /// # Errors
    /// When the namespace cannot be entered or left, or the kernel gives no socket.
    pub fn socket(&self) -> Result<RouteSocket, Error> {
        self.inside(RouteSocket::open)
    }

    /// The path of the namespace, as the result tells it.
    pub fn path(&self) -> String {
        self.netns.path().display().to_string()
    }
}

/// Opens the pod's namespace, refusing the plugin's own.
pub(super) fn open(environment: &Environment, home: &Netns) -> Result<Netns, Error> {
    let path = environment.netns.as_deref().unwrap_or_else(|| "".as_ref());
    let pod = Netns::open(path).map_err(|error| {
        let error = Error::new(code::INVALID_ENVIRONMENT, format!("CNI_NETNS: {error}"));
        error.with_details("the pod's sandbox is gone, or the runtime passed the wrong path")
    })?;
    if pod.is(home)? && !environment.netns_override {
        let msg =
            format!("CNI_NETNS {}: plugin's netns and netns from CNI_NETNS should not be the same", path.display());
        return Err(Error::new(code::INVALID_NETNS, msg)
            .with_details("set CNI_NETNS_OVERRIDE=1 to attach the node's own namespace"));
    }
    Ok(pod)
}

/// An inner failure (of what was done inside a namespace) is as good as an outer one.
pub(super) fn flatten<T>(outcome: Result<Result<T, netlink::Error>, netlink::Error>) -> Result<T, netlink::Error> {
    outcome.and_then(|inner| inner)
}
