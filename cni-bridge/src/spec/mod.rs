//! The CNI specification as types: environment, versions, configuration, results, errors.
//!
//! | module | of the specification |
//! |---|---|
//! | [`mod@env`] | "CNI protocol": the verbs and the variables each needs |
//! | [`version`] | the versions and what each allows |
//! | [`config`] | "Plugin configuration objects", as one plugin reads it from stdin |
//! | [`conflist`] | "Network configuration format", as a runtime reads it from a directory |
//! | [`result`] | "Result types", in every version's form |
//! | [`error`] | "Error" and its codes |
//! | [`json`] | JSON read the way Go's decoder reads it |
//!
//! The plugin uses all of it; the runtime side (`peapod`) uses [`NetConfList`],
//! [`Success`] and [`Error`]. Source: <https://www.cni.dev/docs/spec/>.

pub mod config;
pub mod conflist;
pub mod env;
pub mod error;
pub mod json;
pub mod result;
pub mod version;

pub use config::{Attachment, Config, Runtime};
pub use conflist::{Call, NetConfList, Plugin};
pub use env::{CniArgs, Environment, Verb};
pub use error::{Error, code};
pub use result::{Dns, Interface, IpConfig, Route, Success};
pub use version::Version;
