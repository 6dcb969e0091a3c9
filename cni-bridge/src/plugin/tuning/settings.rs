//! The keys of type `tuning`.

use std::path::PathBuf;

use super::sysctl::{self, Sysctl};
use crate::netlink::Mac;
use crate::netlink::tune::Property;
use crate::plugin::Call;
use crate::spec::json::Node;
use crate::spec::{Config, Error};

/// Where the reference keeps its backups, and we keep ours.
const DATA_DIR: &str = "/run/cni/tuning";

/// What is to be set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `sysctl`, and `args.cni.sysctl` over it.
    pub sysctls: Vec<Sysctl>,
    /// `mac`: a later one of the configuration, `CNI_ARGS`, `runtimeConfig`, `args.cni` wins.
    pub mac: Option<Mac>,
    /// `promisc`: set promiscuous mode. There is no unsetting it.
    pub promiscuous: bool,
    /// `mtu` in bytes.
    pub mtu: Option<u32>,
    /// `allmulti`: set or unset all-multicast mode.
    pub all_multicast: Option<bool>,
    /// `txQLen`, in packets.
    pub queue_length: Option<u32>,
    /// `dataDir`: where backups are.
    pub data_dir: PathBuf,
}

impl Settings {
    /// Reads the configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(call: &Call<'_>) -> Result<Settings, Error> {
        let root = call.config.root();
        let args = root.get("args").get("cni");
        let either = |key: &str| Some(args.get(key)).filter(Node::exists).unwrap_or_else(|| root.get(key));
        let flag = |key: &str| Some(either(key)).filter(Node::exists).map(|node| node.flag()).transpose();
        Ok(Settings {
            sysctls: sysctl::read(call)?,
            mac: mac(call)?,
            promiscuous: flag("promisc")?.unwrap_or_default(),
            mtu: either("mtu").number()?.filter(|mtu| *mtu != 0),
            all_multicast: flag("allmulti")?,
            queue_length: either("txQLen").number()?,
            data_dir: data_dir(call.config),
        })
    }

    /// The properties the interface is to have.
    pub fn properties(&self) -> Vec<Property> {
        let wanted = [
            self.mac.map(Property::Mac),
            self.promiscuous.then_some(Property::Promiscuous(true)),
            self.mtu.map(Property::Mtu),
            self.all_multicast.map(Property::AllMulticast),
            self.queue_length.map(Property::QueueLength),
        ];
        wanted.into_iter().flatten().collect()
    }
}

/// Not the order of the type `bridge`: here `args.cni` wins over `runtimeConfig`.
fn mac(call: &Call<'_>) -> Result<Option<Mac>, Error> {
    let root = call.config.root();
    let parsed = |node: Node<'_>| node.parsed("a MAC address");
    if let Some(mac) = parsed(root.get("args").get("cni").get("mac"))? {
        return Ok(Some(mac));
    }
    if let Some(mac) = parsed(root.get("runtimeConfig").get("mac"))? {
        return Ok(Some(mac));
    }
    match &call.environment.args.mac {
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error| Error::config(format!("CNI_ARGS: MAC={text:?} is not a MAC address: {error}"))),
        None => parsed(root.get("mac")),
    }
}

/// `dataDir`; the default when it says nothing readable, because DEL needs one.
pub fn data_dir(config: &Config) -> PathBuf {
    config.root().get("dataDir").text().ok().flatten().unwrap_or(DATA_DIR).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{CniArgs, Environment, Verb};

    fn read(text: &str, args: &str) -> Result<Settings, Error> {
        let config = Config::parse(text.as_bytes()).unwrap();
        let environment =
            Environment { ifname: "eth0".into(), args: CniArgs::parse(args).unwrap(), ..Environment::default() };
        Settings::read(&Call { verb: Verb::Add, config: &config, environment: &environment, stdin: text.as_bytes() })
    }

    // Behaviour 104: where a value comes from.
    #[test]
    fn the_mac_of_args_wins_over_that_of_the_runtime_over_that_of_cni_args_over_the_configurations() {
        let conf = r#""name": "n", "mac": "02:00:00:00:00:01""#;
        let runtime = r#""runtimeConfig": {"mac": "02:00:00:00:00:03"}"#;
        let args = r#""args": {"cni": {"mac": "02:00:00:00:00:04"}}"#;
        let cases = [
            (format!("{{{conf}}}"), "", "02:00:00:00:00:01"),
            (format!("{{{conf}}}"), "MAC=02:00:00:00:00:02", "02:00:00:00:00:02"),
            (format!("{{{conf}, {runtime}}}"), "MAC=02:00:00:00:00:02", "02:00:00:00:00:03"),
            (format!("{{{conf}, {runtime}, {args}}}"), "MAC=02:00:00:00:00:02", "02:00:00:00:00:04"),
        ];
        for (text, cni_args, expected) in cases {
            assert_eq!(read(&text, cni_args).unwrap().mac.unwrap().to_string(), expected, "{text}");
        }
        let refused = read(r#"{"name": "n", "mac": "02:00"}"#, "").unwrap_err();
        assert!(refused.msg.starts_with("mac: "), "{refused:?}");
    }

    #[test]
    fn parameters_are_set_in_the_order_of_the_text_and_those_of_args_last() {
        let text = r#"{"name": "n", "sysctl": {"net.b": "1", "net.a": "2", "net.c": "3"},
            "args": {"cni": {"sysctl": {"net.b": "4", "net.d": "5"}}}}"#;
        let settings = read(text, "").unwrap();
        let pairs: Vec<_> = settings.sysctls.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect();
        assert_eq!(pairs, [("net.a", "2"), ("net.c", "3"), ("net.b", "4"), ("net.d", "5")]);
        let only = read(r#"{"name": "n", "args": {"cni": {"sysctl": {"net.b": "4"}}}}"#, "").unwrap();
        assert_eq!(only.sysctls.len(), 1, "without a list of its own");
    }

    #[test]
    fn what_is_not_said_is_not_set_and_args_win() {
        let nothing = read(r#"{"name": "n", "promisc": false, "mtu": 0}"#, "").unwrap();
        assert_eq!(nothing.properties(), []);
        let text = r#"{"name": "n", "mtu": 1400, "allmulti": true, "txQLen": 7,
            "args": {"cni": {"mtu": 1300, "allmulti": false, "promisc": true, "txQLen": 0}}}"#;
        let expected =
            [Property::Promiscuous(true), Property::Mtu(1300), Property::AllMulticast(false), Property::QueueLength(0)];
        assert_eq!(read(text, "").unwrap().properties(), expected);
    }
}
