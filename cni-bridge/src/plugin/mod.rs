//! The verbs, from the environment and stdin to what is printed.
//!
//! Every type of plugin is a module below with a [`Type`]: its name and a function a verb. What they share:
//!
//! | module | what |
//! |---|---|
//! | [`call`] | one call, and what a type is |
//! | [`chain`] | the result of the plugins before this one |
//! | [`pod`] | the pod's network namespace |
//! | [`owner`] | whose something in nf_tables is |
//! | [`delegate`] | calling a plugin of another vendor |

pub mod bandwidth;
pub mod bridge;
pub mod call;
pub mod chain;
pub mod delegate;
pub mod firewall;
pub mod flannel;
pub mod host_local;
pub mod loopback;
pub mod owner;
pub mod pod;
pub mod portmap;
pub mod reference;
pub mod static_ipam;
pub mod tuning;
pub mod whole;

use std::ffi::OsString;
use std::io::Read;

use serde_json::json;

use crate::netlink;
use crate::spec::{Config, Environment, Error, Verb, Version, code};

pub use call::{Call, Type};

/// The types in this binary. The first is what it is when nothing says otherwise.
pub const TYPES: &[&Type] = &[
    &whole::TYPE,
    &bridge::TYPE,
    &flannel::TYPE,
    &loopback::TYPE,
    &portmap::TYPE,
    &tuning::TYPE,
    &bandwidth::TYPE,
    &firewall::TYPE,
    &host_local::TYPE,
    &static_ipam::TYPE,
];

/// The type of that name.
pub fn of_name(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|of| of.name == name).copied()
}

/// What this process is called with, besides stdin.
#[derive(Debug, Clone, Copy)]
pub struct Called<'a> {
    /// The base name of `argv[0]`: what a runtime looked for. It wins over `type`, because an IPAM is given the
    /// configuration of the plugin that calls it.
    pub name: &'a str,
    /// `CNI_COMMAND`
    pub command: &'a str,
}

/// Serves one call: `variable` reads any variable but `CNI_COMMAND`, `stdin` gives the configuration.
/// Returns what belongs on stdout.
///
/// # Errors
/// The error object that belongs on stdout instead.
pub fn run(
    called: Called<'_>,
    variable: impl Fn(&str) -> Option<OsString>,
    stdin: impl Read,
) -> Result<Option<String>, Error> {
    let verb = Verb::parse(called.command)?;
    let environment = Environment::read(verb, variable)?;
    let text = read_all(stdin)?;
    if verb == Verb::Version {
        return version(of_name(called.name).unwrap_or(&whole::TYPE), &text).map(Some);
    }
    let config = Config::parse(&text)?;
    let call = Call { verb, config: &config, environment: &environment, stdin: &text };
    // The binary's own name does not say which of them is meant.
    let by_name = of_name(called.name).filter(|of| of.name != whole::TYPE.name);
    let of = by_name.or_else(|| of_name(&config.plugin_type)).unwrap_or(&whole::TYPE);
    let served = verb.allowed_in(config.version).and_then(|()| of.serve(&call));
    served.map_err(|error| Error { cni_version: config.version.to_string(), ..error })
}

fn read_all(mut stdin: impl Read) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    stdin.read_to_end(&mut text).map_err(|error| Error::new(code::IO, format!("cannot read stdin: {error}")))?;
    Ok(text)
}

/// VERSION echoes the version it is asked in; stdin may be empty.
fn version(of: &Type, text: &[u8]) -> Result<String, Error> {
    let asked = match text.trim_ascii() {
        [] => None,
        text => crate::spec::json::Folded::parse(text, "the network configuration")?
            .root()
            .get("cniVersion")
            .text()?
            .map(str::to_owned),
    };
    let supported: Vec<_> = Version::supported_since(of.oldest).collect();
    let version = asked.unwrap_or_else(|| Version::CURRENT.to_string());
    Ok(json!({"cniVersion": version, "supportedVersions": supported}).to_string())
}

/// A number that names a thing by its parts (FNV-1a, 64 bits): the same in every process and every version,
/// for what one call makes and another must find.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    // A zero after each part keeps ["ab", "c"] and ["a", "bc"] apart.
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Error {
        let said = Error::new(code::INTERNAL, error.to_string());
        match error.errno() {
            Some(nix::errno::Errno::EPERM) => {
                said.with_details("the plugin needs CAP_NET_ADMIN and CAP_SYS_ADMIN: is it run as root?")
            }
            _ => said,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, stdin: &str) -> Result<Option<String>, Error> {
        run(Called { name: "cni-bridge", command }, |_| None, stdin.as_bytes())
    }

    // Behaviours 2, 3.
    #[test]
    fn version_answers_with_and_without_a_configuration() {
        let answer =
            |stdin| -> serde_json::Value { serde_json::from_str(&call("VERSION", stdin).unwrap().unwrap()).unwrap() };
        assert_eq!(answer("")["cniVersion"], "1.1.0");
        assert_eq!(answer(r#"{"cniVersion": "0.4.0"}"#)["cniVersion"], "0.4.0");
        assert_eq!(answer("")["supportedVersions"].as_array().unwrap().len(), 7);
    }

    // Behaviours 4, 14.
    #[test]
    fn an_unknown_verb_and_one_too_new_are_refused() {
        assert_eq!(call("FROB", "{}").unwrap_err().code, code::INVALID_ENVIRONMENT);
        let refused = call("STATUS", r#"{"name": "n", "cniVersion": "1.0.0"}"#).unwrap_err();
        assert_eq!((refused.code, refused.cni_version.as_str()), (code::INCOMPATIBLE_VERSION, "1.0.0"));
    }

    #[test]
    fn a_hash_is_the_same_for_ever() {
        assert_eq!(hash(&["a", "eth0"]), 0x4f2d_3f0d_aa18_877f);
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
