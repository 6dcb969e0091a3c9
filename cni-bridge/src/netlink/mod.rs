//! The one way to the kernel's network: typed operations over blocking netlink.
//!
//! | module | what |
//! |---|---|
//! | [`socket`] | a blocking rtnetlink socket: a batch is one `sendmsg`, each answer is awaited |
//! | [`link`], [`vlan`], [`address`], [`route`], [`neighbour`] | requests and look-ups, as values for a batch |
//! | [`nft`] | nf_tables: transactions, questions |
//! | [`conntrack`] | tracked connections |
//! | [`tune`] | what can be changed of an interface that is there |
//! | [`tc`] | traffic control: token buckets and redirection |
//! | [`netns`] | entering a network namespace and coming back |
//! | [`survey`](mod@survey) | all namespaces and addresses of the node |
//! | [`sysctl`] | `/proc/sys/net` of the current namespace |
//! | [`mac`] | hardware addresses |
//!
//! rtnetlink's message builders make the messages; its own handle is not used,
//! because it needs an async runtime and sends one message per round trip
//! (measured: twice the time of an ADD). Nothing is ever started: no `ip`, no `nft`.
//!
//! The functions here are what a runtime needs of the node's network: [`uplink`],
//! [`loopback_up`], [`link::Link`] look-ups. All speak of the caller's current
//! network namespace.

pub mod address;
pub mod conntrack;
pub mod link;
pub mod mac;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod route;
pub mod socket;
pub mod survey;
pub mod sysctl;
pub mod tc;
pub mod tune;
pub mod vlan;
mod wire;

use nix::errno::Errno;

pub use link::Link;
pub use mac::Mac;
pub use netns::Netns;
pub use socket::{Request, RouteSocket};
pub use wire::Answer;

/// Why an operation on the network failed. Each says what was being done, and to what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {doing}: {}{note}", errno.desc())]
    Refused {
        /// What was being done, to what.
        doing: String,
        /// Why not.
        errno: Errno,
        /// The kernel's own words (netlink extended acknowledgement), with a leading separator.
        note: String,
    },
    /// A socket or a file could not be used.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done, to what.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("cannot {doing}: the kernel's answer is malformed: {reason}")]
    Answer {
        /// What was being done, to what.
        doing: String,
        /// Where it is malformed.
        reason: String,
    },
    /// A file that should be a network namespace is none.
    #[error("{path} is not a network namespace")]
    NotANamespace {
        /// The file.
        path: String,
    },
}

impl Error {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            Error::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Error {
        Error::Io { doing: doing.into(), source }
    }
}

/// The interface through which the node reaches the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is a VXLAN device, so that packets of pods are wrapped once more.
    pub is_vxlan: bool,
}

/// The interface of the default route with the lowest metric: IPv4's, then IPv6's. None where there is no default route.
///
/// # Errors
/// When the kernel's routes cannot be read.
pub fn uplink() -> Result<Option<Uplink>, Error> {
    let mut socket = RouteSocket::open()?;
    for family in [route::Family::V4, route::Family::V6] {
        let Some(index) = route::default_interface(&mut socket, family)? else { continue };
        if let Some(link) = link::by_index(&mut socket, index)? {
            let is_vxlan = link.kind == "vxlan";
            return Ok(Some(Uplink { name: link.name, mtu: link.mtu, is_vxlan }));
        }
    }
    Ok(None)
}

/// Sets `lo` up in the current network namespace; a second time is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn loopback_up() -> Result<(), Error> {
    RouteSocket::open()?.apply(vec![link::set_up("lo")])
}

/// The interface of that name in the current network namespace, if there is one.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn link_by_name(name: &str) -> Result<Option<Link>, Error> {
    link::by_name(&mut RouteSocket::open()?, name)
}

/// All veth interfaces of the current network namespace. Grows with their number: not for a hot path.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn veth_links() -> Result<Vec<Link>, Error> {
    link::of_kind(&mut RouteSocket::open()?, rtnetlink::packet_route::link::InfoKind::Veth)
}
