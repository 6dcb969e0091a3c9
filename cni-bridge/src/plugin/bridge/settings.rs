//! The keys of type `bridge`.

use std::ops::RangeInclusive;

use crate::netlink::Mac;
use crate::spec::env::check_interface_name;
use crate::spec::{CniArgs, Config, Error};

/// What the configuration asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `bridge`: the bridge's name, `cni0` by default; made if it is missing.
    pub bridge: String,
    /// `isGateway`: the bridge gets the gateway's address and the node forwards. Implied by `isDefaultGateway`.
    pub is_gateway: bool,
    /// `isDefaultGateway`: and the pod's default route leads there.
    pub is_default_gateway: bool,
    /// `forceAddress`: an address of the bridge that is in the way is replaced.
    pub force_address: bool,
    /// `ipMasq`: what leaves the network does so with the node's address.
    pub ip_masq: bool,
    /// `mtu` in bytes, of a bridge made here and of both ends; none = the kernel's.
    pub mtu: Option<u32>,
    /// `hairpinMode` of the port.
    pub hairpin: bool,
    /// `promiscMode` of the bridge.
    pub promiscuous: bool,
    /// `portIsolation`: no frames to other isolated ports.
    pub isolated: bool,
    /// `enabledad`: IPv6 addresses are usable only after duplicate address detection.
    pub detect_duplicates: bool,
    /// The container interface's MAC address asked for: `CNI_ARGS`, over it `args.cni.mac`, over it `runtimeConfig.mac`.
    pub mac: Option<Mac>,
}

/// Keys of the reference that would change what a pod may reach. To ignore one would be worse than to refuse it.
const NOT_SERVED: [&str; 3] = ["vlan", "macspoofchk", "disableContainerInterface"];

/// What the kernel allows for the MTU of a bridge: `ETH_MIN_MTU` and `ETH_MAX_MTU` in `include/uapi/linux/if_ether.h`.
const MTU: RangeInclusive<u32> = 68..=65535;

/// The name of the bridge; all of the type's keys that a DEL needs.
///
/// # Errors
/// [`crate::spec::code::DECODE`], or [`crate::spec::code::INVALID_CONFIG`] when no interface can have that name.
pub fn bridge_name(config: &Config) -> Result<String, Error> {
    let name = config.root().get("bridge").text()?.unwrap_or("cni0").to_owned();
    match check_interface_name(&name) {
        Ok(()) => Ok(name),
        Err(fault) => Err(Error::config(format!("bridge: {name:?}: {fault}"))),
    }
}

/// The MTU; none when absent or 0. Checked here, for a bridge that was made before its MTU is refused stays.
fn mtu(config: &Config) -> Result<Option<u32>, Error> {
    let mtu = config.root().get("mtu").number()?.filter(|mtu| *mtu != 0);
    match mtu.filter(|mtu| !MTU.contains(mtu)) {
        None => Ok(mtu),
        Some(mtu) => Err(Error::config(format!("mtu: {mtu} is not between {} and {}", MTU.start(), MTU.end()))),
    }
}

impl Settings {
    /// Reads and checks the keys.
    ///
    /// # Errors
    /// With the path of what is wrong.
    pub fn read(config: &Config, args: &CniArgs) -> Result<Settings, Error> {
        let root = config.root();
        let flag = |key: &str| root.get(key).flag();
        let mac = config.runtime()?.mac.or_else(|| args.mac.clone());
        let mac = mac
            .map(|text| text.parse().map_err(|error| Error::config(format!("invalid MAC address {text:?}: {error}"))));
        let is_default_gateway = flag("isDefaultGateway")?;
        let settings = Settings {
            bridge: bridge_name(config)?,
            is_gateway: flag("isGateway")? || is_default_gateway,
            is_default_gateway,
            force_address: flag("forceAddress")?,
            ip_masq: flag("ipMasq")?,
            mtu: mtu(config)?,
            hairpin: flag("hairpinMode")?,
            promiscuous: flag("promiscMode")?,
            isolated: flag("portIsolation")?,
            detect_duplicates: flag("enabledad")?,
            mac: mac.transpose()?,
        };
        if settings.hairpin && settings.promiscuous {
            return Err(Error::config("cannot set hairpin mode and promiscuous mode at the same time"));
        }
        for key in NOT_SERVED {
            let node = root.get(key);
            if node.value().is_some_and(|value| *value != false && *value != 0) {
                return Err(Config::unsupported(&node));
            }
        }
        if !root.get("vlanTrunk").items()?.is_empty() {
            return Err(Config::unsupported(&root.get("vlanTrunk")));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::code;

    fn read(text: &str) -> Result<Settings, Error> {
        Settings::read(
            &Config::parse(text.as_bytes()).unwrap(),
            &CniArgs { mac: Some("02:00:00:00:00:09".into()), ..CniArgs::default() },
        )
    }

    #[test]
    fn the_defaults_are_the_references() {
        let settings = read(r#"{"name": "n", "mtu": 0, "vlan": 0, "macspoofchk": false}"#).unwrap();
        assert_eq!(settings.bridge, "cni0");
        assert_eq!(settings.mtu, None);
        assert!(!settings.is_gateway && !settings.ip_masq && !settings.hairpin && !settings.promiscuous);
        assert!(read(r#"{"name": "n", "isDefaultGateway": true}"#).unwrap().is_gateway);
    }

    // Behaviours 47, 49.
    #[test]
    fn a_mac_of_the_runtime_wins_over_cni_args() {
        assert_eq!(read(r#"{"name": "n"}"#).unwrap().mac.unwrap().to_string(), "02:00:00:00:00:09");
        let text = r#"{"name": "n", "runtimeConfig": {"mac": "02:00:00:00:00:01"}}"#;
        assert_eq!(read(text).unwrap().mac.unwrap().to_string(), "02:00:00:00:00:01");
    }

    #[test]
    fn a_bridge_that_cannot_be_made_is_refused_beforehand() {
        for (key, value) in [
            ("bridge", r#""br%d""#),
            ("bridge", r#""..""#),
            ("bridge", r#""a\u0000b""#),
            ("bridge", r#""sixteencharacter""#),
            ("mtu", "67"),
            ("mtu", "65536"),
        ] {
            let refused = read(&format!(r#"{{"name": "n", "{key}": {value}}}"#)).unwrap_err();
            assert_eq!(refused.code, code::INVALID_CONFIG, "{key} {value}");
            assert!(refused.msg.starts_with(key), "{refused}");
        }
        assert_eq!(read(r#"{"name": "n", "mtu": 68}"#).unwrap().mtu, Some(68));
    }

    // Behaviour 53.
    #[test]
    fn what_cannot_be_served_is_refused_with_key_and_value() {
        assert_eq!(
            read(r#"{"name": "n", "hairpinMode": true, "promiscMode": true}"#).unwrap_err().code,
            code::INVALID_CONFIG
        );
        let refused = read(r#"{"name": "n", "vlan": 100}"#).unwrap_err();
        assert_eq!((refused.code, refused.msg.as_str()), (code::UNSUPPORTED_FIELD, "vlan: 100 is not supported"));
        assert_eq!(read(r#"{"name": "n", "macspoofchk": true}"#).unwrap_err().code, code::UNSUPPORTED_FIELD);
        assert_eq!(read(r#"{"name": "n", "vlanTrunk": [{"id": 5}]}"#).unwrap_err().code, code::UNSUPPORTED_FIELD);
    }
}
