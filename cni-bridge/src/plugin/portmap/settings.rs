//! The keys of type `portmap`.

use std::net::IpAddr;

use super::condition::{self, Condition, Syntax};
use crate::spec::json::Node;
use crate::spec::{Config, Error};

/// The reference's bit: Kubernetes uses 14 and 15, Calico 20 to 31.
const MARK_BIT: u32 = 13;
/// Values of `backend`. It is nf_tables whatever is said: mappings do not look different from outside.
const IPTABLES: &str = "iptables";
const NFTABLES: &str = "nftables";

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    const ALL: [(&'static str, Protocol); 3] =
        [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

    /// Its name, whatever the case; none is TCP, as everywhere ports are published.
    fn read(node: &Node<'_>) -> Result<Protocol, Error> {
        let Some(text) = node.text()? else { return Ok(Protocol::Tcp) };
        Protocol::named(&text.to_lowercase())
            .ok_or_else(|| Error::config(format!("{}: {text:?} is none of tcp, udp, sctp", node.path())))
    }

    /// The protocol of this name in lower case.
    pub fn named(name: &str) -> Option<Protocol> {
        Protocol::ALL.iter().find(|(known, _)| *known == name).map(|(_, protocol)| *protocol)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Protocol::ALL.iter().find(|(_, protocol)| *protocol == self).map_or("", |(name, _)| name)
    }

    /// `IPPROTO_*`
    pub fn number(self) -> u8 {
        let number = match self {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
        };
        u8::try_from(number).unwrap_or_default()
    }
}

/// One of `runtimeConfig.portMappings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// `protocol`
    pub protocol: Protocol,
    /// `hostPort`
    pub host_port: u16,
    /// `containerPort`
    pub container_port: u16,
    /// `hostIP`; none = every address of the node, of both families.
    pub host_ip: Option<IpAddr>,
}

impl Mapping {
    fn read(node: &Node<'_>) -> Result<Mapping, Error> {
        let port = |key: &str, what: &str| {
            let number = node.get(key).number()?.unwrap_or_default();
            u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| {
                Error::config(format!("Invalid {what} port number: {number}"))
                    .with_details(format!("{}.{key} is 1 to 65535", node.path()))
            })
        };
        Ok(Mapping {
            container_port: port("containerPort", "container")?,
            host_port: port("hostPort", "host")?,
            protocol: Protocol::read(&node.get("protocol"))?,
            host_ip: node.get("hostIP").parsed::<IpAddr>("an address")?.map(|ip| ip.to_canonical()),
        })
    }

    /// Whether it is for a pod's address of this family.
    pub fn serves(&self, pod: IpAddr) -> bool {
        self.host_ip.is_none_or(|host| host.is_ipv4() == pod.is_ipv4())
    }

    /// The one address of the node it is for; none = all.
    pub fn only_at(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }
}

/// What in the rules is the same for all pods of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// `markMasqBit`, as a mask: a packet's mark says with it that a mapping applied.
    pub mark: u32,
    /// `conditionsV4`: which packets mappings apply to.
    pub conditions_v4: Vec<Condition>,
    /// `conditionsV6`
    pub conditions_v6: Vec<Condition>,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile { mark: 1 << MARK_BIT, conditions_v4: Vec::new(), conditions_v6: Vec::new() }
    }
}

/// What the configuration asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `runtimeConfig.portMappings`
    pub mappings: Vec<Mapping>,
    /// `snat`, true by default: connections that would come back past the node are masqueraded, so that the pod's
    /// answers take the same way. They are those of neighbours on the pod's bridge, of the pod itself, and of the node's loopback.
    pub snat: bool,
    /// `masqAll`: all are.
    pub masquerade_all: bool,
    /// The rest.
    pub profile: Profile,
}

impl Settings {
    /// Reads and checks the keys.
    ///
    /// # Errors
    /// With the path of what is wrong, in the reference's words where it has some.
    pub fn read(config: &Config) -> Result<Settings, Error> {
        let root = config.root();
        check_backend(config)?;
        let mappings = root.get("runtimeConfig").get("portMappings").items()?;
        Ok(Settings {
            mappings: mappings.iter().map(Mapping::read).collect::<Result<_, _>>()?,
            snat: !root.get("snat").exists() || root.get("snat").flag()?,
            masquerade_all: root.get("masqAll").flag()?,
            profile: profile(config)?,
        })
    }
}

fn profile(config: &Config) -> Result<Profile, Error> {
    let root = config.root();
    let bit = root.get("markMasqBit").number()?;
    if bit.is_some() && root.get("externalSetMarkChain").exists() {
        return Err(Error::config("Cannot specify externalSetMarkChain and markMasqBit"));
    }
    let bit = bit.unwrap_or(MARK_BIT);
    let mark = 1u32.checked_shl(bit).ok_or_else(|| Error::config("MasqMarkBit must be between 0 and 31"))?;
    Ok(Profile {
        mark,
        conditions_v4: condition::read(&root.get("conditionsV4"), true)?,
        conditions_v6: condition::read(&root.get("conditionsV6"), false)?,
    })
}

/// The reference refuses what was written for its other backend; so do we where a backend is named.
/// (`externalSetMarkChain` names a chain of iptables that marks what its owner then masquerades. It is masqueraded
/// here as without that key.)
fn check_backend(config: &Config) -> Result<(), Error> {
    let root = config.root();
    let backend = root.get("backend").text()?;
    let foreign = match backend {
        None => return Ok(()),
        Some(IPTABLES) => Syntax::Nftables,
        Some(NFTABLES) => Syntax::Iptables,
        Some(other) => return Err(Error::config(format!("unrecognized backend {other:?}"))),
    };
    let mark_chain = root.get("externalSetMarkChain").exists() && foreign == Syntax::Iptables;
    let mut wrong: Vec<&str> = mark_chain.then_some("externalSetMarkChain").into_iter().collect();
    for key in ["conditionsV4", "conditionsV6"] {
        if Syntax::of(&root.get(key).texts()?) == Some(foreign) {
            wrong.push(key);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let (backend, other) = if foreign == Syntax::Iptables { (NFTABLES, IPTABLES) } else { (IPTABLES, NFTABLES) };
    let wrong = wrong.join(" ");
    Err(Error::config(format!(
        "{backend} backend was requested but configuration contains {other}-specific options [{wrong}]"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::code;

    fn read(extra: &str) -> Result<Settings, Error> {
        Settings::read(&Config::parse(format!(r#"{{"name": "n" {extra}}}"#).as_bytes()).unwrap())
    }

    fn refused(extra: &str) -> String {
        let error = read(extra).unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG, "{error}");
        error.msg
    }

    #[test]
    fn mappings_are_read_in_containerds_spelling_too() {
        let settings = read(
            r#", "runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"HostPort": 53, "ContainerPort": 5353, "Protocol": "UDP", "HostIP": "::ffff:192.0.2.1"},
                {"hostPort": 1, "containerPort": 2, "hostIP": ""}]}"#,
        )
        .unwrap();
        let mapping =
            |protocol, host_port, container_port, host_ip| Mapping { protocol, host_port, container_port, host_ip };
        let expected = [
            mapping(Protocol::Tcp, 8080, 80, None),
            mapping(Protocol::Udp, 53, 5353, Some("192.0.2.1".parse().unwrap())),
            mapping(Protocol::Tcp, 1, 2, None),
        ];
        assert_eq!(settings.mappings, expected);
        assert!(settings.snat && !settings.masquerade_all);
        assert_eq!(settings.profile, Profile::default());
        assert!(!read(r#", "snat": false"#).unwrap().snat);
    }

    // Behaviour 95.
    #[test]
    fn a_port_that_is_none_is_refused_in_the_references_words() {
        let with = |mapping: &str| format!(r#", "runtimeConfig": {{"portMappings": [{mapping}]}}"#);
        assert_eq!(refused(&with(r#"{"hostPort": 0, "containerPort": 80}"#)), "Invalid host port number: 0");
        assert_eq!(refused(&with(r#"{"hostPort": 80}"#)), "Invalid container port number: 0");
        assert_eq!(refused(&with(r#"{"hostPort": 65536, "containerPort": 80}"#)), "Invalid host port number: 65536");
        assert!(refused(&with(r#"{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}"#)).contains("[0].protocol"));
        assert!(refused(&with(r#"{"hostPort": 1, "containerPort": 1, "hostIP": "here"}"#)).contains("[0].hostIP"));
    }

    // Behaviour 96.
    #[test]
    fn keys_for_another_backend_are_refused_in_the_references_words() {
        let nft = r#""conditionsV4": ["ip", "saddr", "1.2.3.4"], "conditionsV6": ["ip6", "saddr", "12::34"]"#;
        let iptables =
            r#""conditionsV4": ["-s", "1.2.3.4"], "conditionsV6": ["!", "-s", "12::34"], "externalSetMarkChain": "X""#;
        assert_eq!(
            refused(&format!(r#", "backend": "iptables", {nft}"#)),
            "iptables backend was requested but configuration contains nftables-specific options [conditionsV4 conditionsV6]"
        );
        assert_eq!(
            refused(&format!(r#", "backend": "nftables", {iptables}"#)),
            "nftables backend was requested but configuration contains iptables-specific options [externalSetMarkChain conditionsV4 conditionsV6]"
        );
        assert_eq!(refused(r#", "backend": "ipfw""#), r#"unrecognized backend "ipfw""#);
        for served in [format!(r#", "backend": "iptables", {iptables}"#), format!(r#", "backend": "nftables", {nft}"#)]
        {
            let profile = read(&served).unwrap().profile;
            assert_eq!((profile.conditions_v4.len(), profile.conditions_v6.len()), (1, 1));
        }
        assert!(read(&format!(", {nft}")).is_ok() && read(&format!(", {iptables}")).is_ok());
    }

    #[test]
    fn the_mark_is_a_bit_of_32() {
        assert_eq!(read(r#", "markMasqBit": 0"#).unwrap().profile.mark, 1);
        assert_eq!(refused(r#", "markMasqBit": 32"#), "MasqMarkBit must be between 0 and 31");
        assert_eq!(
            refused(r#", "markMasqBit": 1, "externalSetMarkChain": "X""#),
            "Cannot specify externalSetMarkChain and markMasqBit"
        );
    }
}
