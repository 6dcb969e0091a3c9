//! The runtime side of CNI: which network a pod gets, attaching it by running plugins, and taking it off again.

mod attachment;
mod conflist;
mod error;
mod netns;
mod plugin;

pub use attachment::{Attachment, Request};
pub use conflist::{BuiltIn, Network};
pub use error::NetworkError;
pub use netns::{loopback_up, mtu};
