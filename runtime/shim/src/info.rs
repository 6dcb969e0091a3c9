//! `-v` and `-info`: what this shim is.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeRequest, RuntimeVersion};

use crate::error::Error;
use crate::options::TaskOptions;

/// The runtime's name as containerd resolves it to this binary.
const NAME: &str = "io.containerd.pea.v2";
/// The type under which containerd reads features; the value is JSON.
const FEATURES_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The lines of `-v`, in the form of containerd's own shims.
pub fn version() -> String {
    format!("containerd-shim-pea-v2:\n  Version:  {}\n  OCI:      {}\n", env!("CARGO_PKG_VERSION"), pea::OCI_VERSION)
}

/// The message of `-info`. On standard input is a `RuntimeRequest` (containerd 2.x) or the bare options (1.7), or
/// nothing; the options are said back as they came, for containerd matches answers to them.
///
/// # Errors
/// `InvalidArgument` for options that no container could be created with.
pub fn info(stdin: &[u8]) -> Result<Vec<u8>, Error> {
    let options = options(stdin);
    TaskOptions::from_any(options.as_ref())?;
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() };
    let features = serde_json::to_vec(&pea::features()).map_err(|source| Error::json("write the features", source))?;
    let features = Any { type_url: FEATURES_TYPE_URL.to_owned(), value: features, ..Default::default() };
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(version),
        options: options.into(),
        features: MessageField::some(features),
        ..Default::default()
    };
    info.write_to_bytes().map_err(|source| Error::internal(format!("encode the runtime's description: {source}")))
}

/// The two messages parse as each other; options are known by their type.
fn options(stdin: &[u8]) -> Option<Any> {
    if let Some(any) = Any::parse_from_bytes(stdin).ok().filter(TaskOptions::is_known) {
        return Some(any);
    }
    let request = RuntimeRequest::parse_from_bytes(stdin).ok()?;
    request.options.into_option().filter(|any| !any.type_url.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(stdin: &[u8]) -> RuntimeInfo {
        RuntimeInfo::parse_from_bytes(&info(stdin).unwrap()).unwrap()
    }

    #[test]
    fn the_features_are_those_of_pea() {
        let info = described(b"");
        assert_eq!(info.name, NAME);
        assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(info.features.type_url, FEATURES_TYPE_URL);
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert!(info.options.is_none());
    }

    #[test]
    fn options_come_back_whatever_they_are_wrapped_in() {
        let any = Any { type_url: "runtimeoptions.v1.Options".into(), ..Default::default() };
        let request = RuntimeRequest { options: MessageField::some(any.clone()), ..Default::default() };
        for stdin in [any.write_to_bytes().unwrap(), request.write_to_bytes().unwrap()] {
            assert_eq!(described(&stdin).options.type_url, any.type_url);
        }
        let path_alone = RuntimeRequest { runtime_path: "/bin/shim".into(), ..Default::default() };
        assert!(described(&path_alone.write_to_bytes().unwrap()).options.is_none());
    }

    #[test]
    fn options_that_no_container_could_have_are_refused() {
        let value = b"\x1a\x06Colour".to_vec();
        let any = Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Default::default() };
        assert!(info(&any.write_to_bytes().unwrap()).is_err());
    }
}
