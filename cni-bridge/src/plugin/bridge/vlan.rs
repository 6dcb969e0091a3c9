//! The keys `vlan`, `vlanTrunk` and `preserveDefaultVlan`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::netlink::vlan::{IDS, Membership};
use crate::spec::env::check_interface_name;
use crate::spec::json::Node;
use crate::spec::{Config, Error};

/// What a port is to carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vlans {
    /// `vlan`: the native VLAN.
    pub native: Option<u16>,
    /// `vlanTrunk`: VLANs whose frames keep their tags, ascending, each once.
    pub trunk: Vec<u16>,
    /// `preserveDefaultVlan`: the bridge's default VLAN stays on the port.
    pub preserve_default: bool,
}

impl Vlans {
    /// Reads and checks the keys. The words of the refusals are the reference's.
    ///
    /// # Errors
    /// [`crate::spec::code::INVALID_CONFIG`] or [`crate::spec::code::DECODE`].
    pub fn read(config: &Config) -> Result<Vlans, Error> {
        let root = config.root();
        let asked = root.get("vlan").integer()?.unwrap_or_default();
        let native = u16::try_from(asked).ok().filter(|id| *id == 0 || IDS.contains(id));
        let native = native
            .ok_or_else(|| Error::config(format!("invalid VLAN ID {asked} (must be between 0 and {})", IDS.end())))?;
        Ok(Vlans {
            native: Some(native).filter(|id| *id != 0),
            trunk: read_trunk(&root.get("vlanTrunk"))?,
            preserve_default: root.get("preserveDefaultVlan").flag()?,
        })
    }

    /// Whether the bridge has to filter at all.
    pub fn are_wanted(&self) -> bool {
        self.native.is_some() || !self.trunk.is_empty()
    }

    /// What the port carries: the native VLAN, 1 unless `vlan` says otherwise, and the trunk.
    pub fn memberships(&self) -> Vec<Membership> {
        if !self.are_wanted() {
            return Vec::new();
        }
        let native = self.native.unwrap_or(1);
        let tagged: Vec<_> = self.trunk.iter().copied().filter(|id| *id != native).collect();
        let mut all = vec![Membership::native(native)];
        all.extend(Membership::tagged(&tagged));
        all
    }

    /// The interface that is the gateway of a native VLAN, and the port of the bridge it leads to.
    ///
    /// # Errors
    /// [`crate::spec::code::INVALID_CONFIG`] when it would be longer than an interface's name can be.
    pub fn gateway_name(&self, bridge: &str) -> Result<Option<String>, Error> {
        let Some(id) = self.native else { return Ok(None) };
        let name = format!("{bridge}.{id}");
        match check_interface_name(&name) {
            Ok(()) => Ok(Some(name)),
            Err(fault) => Err(Error::config(format!("vlan: {id}: the gateway's interface {name:?}: {fault}"))
                .with_details("use a shorter name for the bridge")),
        }
    }
}

/// A limit of a range, or the one id, of a trunk's item.
fn id(item: &Node<'_>, key: &str) -> Result<Option<u16>, Error> {
    let Some(asked) = item.get(key).integer()? else { return Ok(None) };
    let id = u16::try_from(asked).ok().filter(|id| IDS.contains(id));
    id.map(Some).ok_or_else(|| Error::config(format!("incorrect trunk {key} parameter")).with_details(found(item)))
}

fn found(item: &Node<'_>) -> String {
    format!("{}: {}", item.path(), item.value().map(ToString::to_string).unwrap_or_default())
}

fn read_range(item: &Node<'_>) -> Result<Option<RangeInclusive<u16>>, Error> {
    let refuse = |msg: &str| Err(Error::config(msg).with_details(found(item)));
    match (item.get("minID").exists(), item.get("maxID").exists()) {
        (false, false) => return Ok(None),
        (false, true) => {
            return refuse("minID and maxID should be configured simultaneously, minID is missing");
        }
        (true, false) => {
            return refuse("minID and maxID should be configured simultaneously, maxID is missing");
        }
        (true, true) => {}
    }
    match (id(item, "minID")?, id(item, "maxID")?) {
        (Some(min), Some(max)) if max < min => refuse("minID is greater than maxID in trunk parameter"),
        (Some(min), Some(max)) => Ok(Some(min..=max)),
        _ => Ok(None),
    }
}

fn read_trunk(node: &Node<'_>) -> Result<Vec<u16>, Error> {
    let mut ids = BTreeSet::new();
    for item in node.items()? {
        ids.extend(read_range(&item)?.into_iter().flatten());
        ids.extend(id(&item, "id")?);
    }
    Ok(ids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Vlans, Error> {
        Vlans::read(&Config::parse(format!(r#"{{"name": "n", {keys}}}"#).as_bytes()).unwrap())
    }

    fn refusal(keys: &str) -> String {
        read(keys).unwrap_err().msg
    }

    // Behaviour 45.
    #[test]
    fn an_id_out_of_range_is_refused() {
        for id in ["-1", "4095", "65536", "9223372036854775807"] {
            let msg = format!("invalid VLAN ID {id} (must be between 0 and 4094)");
            assert_eq!(refusal(&format!(r#""vlan": {id}"#)), msg);
        }
        assert_eq!(read(r#""vlan": 0"#).unwrap(), Vlans::default());
        assert_eq!(read(r#""vlan": 4094"#).unwrap().native, Some(4094));
    }

    // Behaviour 44.
    #[test]
    fn a_trunk_that_makes_no_sense_is_refused_in_the_references_words() {
        for (item, msg) in [
            (r#"{"minID": 0, "maxID": 5}"#, "incorrect trunk minID parameter"),
            (r#"{"minID": 4095, "maxID": 5}"#, "incorrect trunk minID parameter"),
            (r#"{"minID": 5, "maxID": 0}"#, "incorrect trunk maxID parameter"),
            (r#"{"minID": 5, "maxID": 4095}"#, "incorrect trunk maxID parameter"),
            (r#"{"minID": 9, "maxID": 5}"#, "minID is greater than maxID in trunk parameter"),
            (r#"{"maxID": 5}"#, "minID and maxID should be configured simultaneously, minID is missing"),
            (r#"{"minID": 5}"#, "minID and maxID should be configured simultaneously, maxID is missing"),
            (r#"{"id": 0}"#, "incorrect trunk id parameter"),
            (r#"{"id": 4095}"#, "incorrect trunk id parameter"),
            (r#"{"id": -7}"#, "incorrect trunk id parameter"),
        ] {
            let refused = read(&format!(r#""vlanTrunk": [{{"id": 5}}, {item}]"#)).unwrap_err();
            assert_eq!(refused.msg, msg, "{item}");
            assert!(refused.details.starts_with("vlanTrunk[1]: {"), "{refused}");
        }
        assert!(!read(r#""vlanTrunk": []"#).unwrap().are_wanted());
        assert!(!read(r#""vlanTrunk": [{"minID": null, "maxID": null}]"#).unwrap().are_wanted());
    }

    // Behaviours 40 to 42.
    #[test]
    fn a_port_carries_its_native_vlan_and_the_trunk() {
        let trunk = r#""vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 210}, {"id": 205}]"#;
        let carried = |keys: &str| read(keys).unwrap().memberships();
        let tagged = |ids: RangeInclusive<u16>| Membership { ids, native: false };
        assert_eq!(carried(trunk), [Membership::native(1), tagged(101..=101), tagged(200..=210)]);
        assert_eq!(
            carried(&format!(r#""vlan": 100, {trunk}"#)),
            [Membership::native(100), tagged(101..=101), tagged(200..=210)]
        );
        assert_eq!(carried(r#""vlan": 100, "vlanTrunk": [{"id": 100}]"#), [Membership::native(100)], "once");
        assert_eq!(carried(r#""vlan": 0"#), []);
    }

    #[test]
    fn a_gateways_interface_has_the_bridges_name_and_the_id() {
        let vlans = read(r#""vlan": 100"#).unwrap();
        assert_eq!(vlans.gateway_name("cni0").unwrap().as_deref(), Some("cni0.100"));
        let refused = vlans.gateway_name("a-long-bridge").unwrap_err();
        assert!(refused.msg.contains("a-long-bridge.100"), "{refused}");
        assert_eq!(Vlans::default().gateway_name("cni0").unwrap(), None);
    }
}
