//! The keys of type `bridge`.

use std::ops::RangeInclusive;

use super::vlan::Vlans;
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
    /// `vlan`, `vlanTrunk`, `preserveDefaultVlan`.
    pub vlans: Vlans,
    /// `macspoofchk`: frames with another source than the pod's MAC address are dropped.
    pub check_mac: bool,
    /// `disableContainerInterface`: the pod's end stays down, for the pod to set up itself.
    pub leave_down: bool,
    /// `enabledad`: IPv6 addresses are usable only after duplicate address detection.
    pub detect_duplicates: bool,
    /// The container interface's MAC address asked for: `CNI_ARGS`, over it `args.cni.mac`, over it `runtimeConfig.mac`.
    pub mac: Option<Mac>,
}

/// `ipMasqBackend`: both names are known, and nf_tables is what is used. Rules made with `iptables` go there too on
/// any system of today, and neither program is ever started.
const MASQUERADE_BACKENDS: [&str; 2] = ["iptables", "nftables"];

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
            vlans: Vlans::read(config)?,
            check_mac: flag("macspoofchk")?,
            leave_down: flag("disableContainerInterface")?,
            detect_duplicates: flag("enabledad")?,
            mac: mac.transpose()?,
        };
        settings.check(config)?;
        Ok(settings)
    }

    /// What does not go together. The words are the reference's.
    fn check(&self, config: &Config) -> Result<(), Error> {
        let has_addresses = config.root().get("ipam").get("type").text()?.is_some();
        if has_addresses && self.leave_down {
            return Err(Error::config("cannot use IPAM when DisableContainerInterface flag is set"));
        }
        if self.hairpin && self.promiscuous {
            return Err(Error::config("cannot set hairpin mode and promiscuous mode at the same time"));
        }
        if has_addresses && self.is_gateway {
            self.vlans.gateway_name(&self.bridge)?;
        }
        match config.root().get("ipMasqBackend").text()? {
            Some(other) if self.ip_masq && !MASQUERADE_BACKENDS.contains(&other) => {
                Err(Error::config(format!("unknown ipmasq backend {other:?}")).with_details("use nftables, or nothing"))
            }
            _ => Ok(()),
        }
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

    // Behaviours 53, 60.
    #[test]
    fn what_does_not_go_together_is_refused_in_the_references_words() {
        let refusal = |keys: &str| read(&format!(r#"{{"name": "n", {keys}}}"#)).unwrap_err();
        let modes = refusal(r#""hairpinMode": true, "promiscMode": true"#);
        assert_eq!(modes.msg, "cannot set hairpin mode and promiscuous mode at the same time");
        let down = refusal(r#""disableContainerInterface": true, "ipam": {"type": "host-local"}"#);
        assert_eq!(down.msg, "cannot use IPAM when DisableContainerInterface flag is set");
        let name = refusal(r#""isGateway": true, "bridge": "a-long-bridge", "vlan": 100, "ipam": {"type": "x"}"#);
        assert!(name.msg.contains("a-long-bridge.100"), "{name}");
        assert!(read(r#"{"name": "n", "disableContainerInterface": true, "ipam": {}}"#).unwrap().leave_down);
    }

    // Behaviour 55.
    #[test]
    fn the_masquerades_backend_is_known_or_refused() {
        for backend in ["iptables", "nftables"] {
            assert!(read(&format!(r#"{{"name": "n", "ipMasq": true, "ipMasqBackend": "{backend}"}}"#)).is_ok());
        }
        let refused = read(r#"{"name": "n", "ipMasq": true, "ipMasqBackend": "ipchains"}"#).unwrap_err();
        assert_eq!(refused.msg, r#"unknown ipmasq backend "ipchains""#);
    }
}
