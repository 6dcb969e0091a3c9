//! `-v` and `-info`: what this shim is.

use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::error::Error;

/// The runtime's name as containerd resolves it to this binary.
const NAME: &str = "io.containerd.pea.v2";

/// The lines of `-v`, in the form of containerd's own shims.
pub fn version() -> String {
    format!("containerd-shim-pea-v2:\n  Version:  {}\n  OCI:      {}\n", env!("CARGO_PKG_VERSION"), pea::OCI_VERSION)
}

/// The message of `-info`.
pub fn info() -> Result<Vec<u8>, Error> {
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
    let info = RuntimeInfo { name: NAME.to_owned(), version: MessageField::some(version), ..Default::default() };
    info.write_to_bytes().map_err(|source| Error::internal(format!("encode the runtime's description: {source}")))
}
