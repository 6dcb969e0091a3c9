//! The environment a plugin is called with.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::error::{Error, code};
use super::version::Version;

/// What the runtime asks for, in `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach the container.
    Add,
    /// Detach it; repeatable.
    Del,
    /// Compare the attachment with what ADD left.
    Check,
    /// Remove what belongs to no valid attachment.
    Gc,
    /// Could an ADD be served now?
    Status,
    /// Which versions are spoken?
    Version,
}

/// A verb's name, the variables it needs, the version that brought it.
struct Row {
    verb: Verb,
    name: &'static str,
    required: &'static [&'static str],
    since: Version,
}

const ID: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";

/// `CNI_PATH` is required nowhere, as in the specification: a plugin that calls no other has no need of it.
const TABLE: &[Row] = &[
    Row { verb: Verb::Add, name: "ADD", required: &[ID, NETNS, IFNAME], since: Version::V0_1_0 },
    Row { verb: Verb::Del, name: "DEL", required: &[ID, IFNAME], since: Version::V0_1_0 },
    Row { verb: Verb::Check, name: "CHECK", required: &[ID, NETNS, IFNAME], since: Version::V0_4_0 },
    Row { verb: Verb::Gc, name: "GC", required: &[], since: Version::V1_1_0 },
    Row { verb: Verb::Status, name: "STATUS", required: &[], since: Version::V1_1_0 },
    Row { verb: Verb::Version, name: "VERSION", required: &[], since: Version::V0_1_0 },
];

impl Verb {
    fn row(self) -> &'static Row {
        // Every verb has its row; the first one stands in so that this cannot fail.
        TABLE.iter().find(|row| row.verb == self).unwrap_or(&TABLE[0])
    }

    /// Its name, as in `CNI_COMMAND`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The verb of that name.
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`] for any other name.
    pub fn parse(name: &str) -> Result<Verb, Error> {
        TABLE
            .iter()
            .find(|row| row.name == name)
            .map(|row| row.verb)
            .ok_or_else(|| invalid(format!("unknown CNI_COMMAND: {name:?}")))
    }

    /// Refuses a verb that the configuration's version does not have.
    ///
    /// # Errors
    /// [`code::INCOMPATIBLE_VERSION`].
    pub fn allowed_in(self, version: Version) -> Result<(), Error> {
        let row = self.row();
        if version >= row.since {
            return Ok(());
        }
        Err(Error::new(code::INCOMPATIBLE_VERSION, format!("config version does not allow {}", row.name))
            .with_details(format!("cniVersion is {version}, {} came with {}", row.name, row.since)))
    }
}

fn invalid(msg: String) -> Error {
    Error::new(code::INVALID_ENVIRONMENT, msg)
}

/// The variables, checked. Empty where the verb does not have them.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_NETNS`; none when unset or empty, which DEL allows.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_ARGS`
    pub args: CniArgs,
    /// `CNI_NETNS_OVERRIDE`: allow a `CNI_NETNS` that is the plugin's own namespace.
    pub netns_override: bool,
    /// `CNI_PATH`: the directories searched for a plugin to call, in order.
    pub path: Vec<PathBuf>,
}

impl Environment {
    /// Reads and checks the variables `verb` needs, through `variable` (normally [`std::env::var_os`]).
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`], naming all missing variables at once, or the invalid one.
    pub fn read(verb: Verb, variable: impl Fn(&str) -> Option<OsString>) -> Result<Environment, Error> {
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok()).unwrap_or_default();
        let missing: Vec<_> = verb.row().required.iter().copied().filter(|name| text(name).is_empty()).collect();
        if !missing.is_empty() {
            return Err(invalid(format!("required env variables [{}] missing", missing.join(","))));
        }
        let environment = Environment {
            container_id: text(ID),
            netns: variable(NETNS).filter(|path| !path.is_empty()).map(PathBuf::from),
            ifname: text(IFNAME),
            args: match verb {
                // What a pod was called with long ago must never stand in the way of removing it.
                Verb::Add | Verb::Check => CniArgs::parse(&text("CNI_ARGS"))?,
                _ => CniArgs::default(),
            },
            netns_override: truth(&text("CNI_NETNS_OVERRIDE")),
            path: variable("CNI_PATH").iter().flat_map(std::env::split_paths).collect(),
        };
        if verb.row().required.contains(&ID) && !is_identifier(&environment.container_id) {
            return Err(invalid(format!(
                "invalid characters in containerID: CNI_CONTAINERID={:?}",
                environment.container_id
            ))
            .with_details("it starts with a letter or digit and goes on with letters, digits, '_', '.' or '-'"));
        }
        if verb.row().required.contains(&IFNAME) {
            let name = &environment.ifname;
            check_interface_name(name).map_err(|fault| invalid(format!("{fault}: CNI_IFNAME={name:?}")))?;
        }
        Ok(environment)
    }
}

/// What containers and networks may be called: it becomes a file name.
pub fn is_identifier(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(plain) && name.chars().all(|c| plain(c) || "_.-".contains(c))
}

/// The kernel's rules for an interface name (`dev_valid_name` in `net/core/dev.c`), and no `%`: the kernel takes
/// that for a pattern and makes an interface of another name.
///
/// # Errors
/// The rule that is broken.
pub fn check_interface_name(name: &str) -> Result<(), &'static str> {
    if name.len() > 15 {
        Err("interface name is too long: at most 15 bytes")
    } else if name == "." || name == ".." {
        Err("interface name is . or ..")
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        Err("interface name contains / or : or whitespace characters")
    } else if name.contains(['%', '\0']) {
        Err("interface name contains % or a zero byte")
    } else {
        Ok(())
    }
}

fn truth(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

/// The pairs of `CNI_ARGS` this plugin knows.
#[derive(Debug, Clone, Default)]
pub struct CniArgs {
    /// `IP`: what is asked for. host-local takes an address, `static` a list of addresses with prefix lengths.
    pub ip: Option<String>,
    /// `GATEWAY`: for `static`, a list of gateways.
    pub gateway: Option<String>,
    /// `MAC`: the container interface's address.
    pub mac: Option<String>,
}

impl CniArgs {
    /// Reads `K=V;K=V`.
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`] for a malformed pair, or an unknown key without `IgnoreUnknown=1`.
    pub fn parse(text: &str) -> Result<CniArgs, Error> {
        let mut args = CniArgs::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.contains('=')) else {
                return Err(invalid(format!("CNI_ARGS: invalid pair {pair:?}")));
            };
            match key {
                // Empty is as good as absent, as in the reference.
                "IP" | "GATEWAY" | "MAC" if value.is_empty() => {}
                "IgnoreUnknown" => ignore_unknown = truth(value),
                "IP" => args.ip = Some(value.to_owned()),
                "GATEWAY" => args.gateway = Some(value.to_owned()),
                "MAC" => args.mac = Some(value.to_owned()),
                _ => unknown.push(pair),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            return Ok(args);
        }
        Err(invalid(format!("CNI_ARGS: unknown args {unknown:?}"))
            .with_details("add IgnoreUnknown=1 to have them ignored"))
    }
}

/// An address, with or without a prefix length. An IPv4 address in IPv6's clothes is an IPv4 address, as in Go.
pub fn address(text: &str) -> Option<IpAddr> {
    let ip: Option<IpAddr> = text.parse().ok();
    ip.or_else(|| text.parse::<IpNetwork>().ok().map(|network| network.ip())).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(verb: Verb, variables: &[(&str, &str)]) -> Result<Environment, Error> {
        Environment::read(verb, |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    // Behaviour 5: all missing variables are listed at once.
    #[test]
    fn missing_variables_are_named_together() {
        let refused = read(Verb::Add, &[("CNI_IFNAME", "eth0")]).unwrap_err();
        assert_eq!(refused.code, code::INVALID_ENVIRONMENT);
        assert_eq!(refused.msg, "required env variables [CNI_CONTAINERID,CNI_NETNS] missing");
        assert!(read(Verb::Del, &[("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")]).is_ok(), "DEL needs no netns");
        assert!(read(Verb::Gc, &[]).is_ok());
    }

    // Behaviours 6, 7, 8.
    #[test]
    fn identifiers_and_interface_names_are_checked() {
        let with = |id, ifname| read(Verb::Del, &[("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname)]);
        assert!(with("abc_1.2-3", "eth0").is_ok());
        for (id, ifname) in [
            ("../x", "eth0"),
            ("-a", "eth0"),
            ("a b", "eth0"),
            ("a", "sixteencharacter"),
            ("a", "a/b"),
            ("a", "a:b"),
            ("a", "."),
            ("a", "a b"),
            ("a", "eth%d"),
        ] {
            assert_eq!(with(id, ifname).unwrap_err().code, code::INVALID_ENVIRONMENT, "{id} {ifname}");
        }
    }

    // Behaviours 21, 22.
    #[test]
    fn unknown_pairs_need_leave_and_malformed_ones_are_refused() {
        assert_eq!(CniArgs::parse("FOO=1").unwrap_err().msg, r#"CNI_ARGS: unknown args ["FOO=1"]"#);
        assert_eq!(CniArgs::parse("FOO").unwrap_err().msg, r#"CNI_ARGS: invalid pair "FOO""#);
        assert!(CniArgs::parse("A=B=C").is_err());
        let args = CniArgs::parse("K8S_POD_NAME=web;IgnoreUnknown=1;IP=10.1.2.3/24;MAC=02:00:00:00:00:01").unwrap();
        assert_eq!(args.ip.as_deref(), Some("10.1.2.3/24"));
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert!(CniArgs::parse("").is_ok());
        let empty = CniArgs::parse("IP=;MAC=;GATEWAY=").unwrap();
        assert_eq!((empty.ip, empty.mac, empty.gateway), (None, None, None));
        assert!(CniArgs::parse("FOO=1;IgnoreUnknown=TRUE").is_ok() && CniArgs::parse("FOO=1;IgnoreUnknown=t").is_err());
    }

    #[test]
    fn an_address_is_taken_with_and_without_a_prefix_length_and_in_its_own_family() {
        for text in ["10.0.0.5", "10.0.0.5/24", "::ffff:10.0.0.5", "::ffff:10.0.0.5/120"] {
            assert_eq!(address(text), Some("10.0.0.5".parse().unwrap()), "{text}");
        }
        assert_eq!(address("10.0.0"), None);
    }

    // Behaviours 13, 14.
    #[test]
    fn a_verb_is_refused_in_a_version_older_than_itself() {
        assert_eq!(Verb::Check.allowed_in(Version::V0_3_1).unwrap_err().msg, "config version does not allow CHECK");
        assert!(Verb::Status.allowed_in(Version::V1_0_0).is_err());
        assert!(Verb::Gc.allowed_in(Version::V1_1_0).is_ok());
    }
}
