//! A pod: the namespaces its containers share, held by this very process.

mod options;

pub use options::{Namespace, SandboxOptions};
