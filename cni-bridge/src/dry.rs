//! Dry runs, for tests: all that a call does with what it is given before it touches anything. Nothing is left or changed
//! by them, and whatever they are given, they end, with an error at most.

use std::ffi::OsString;
use std::time::SystemTime;

use crate::ipam::{self, index, resolv_conf, store};
use crate::plugin::flannel::delegate::{Delegated, Known};
use crate::plugin::flannel::subnet::Subnet;
use crate::plugin::owner::Owner;
use crate::plugin::{Call, bandwidth, bridge, firewall, portmap, static_ipam, tuning};
use crate::spec::{Attachment, Config, Environment, Error, NetConfList, Success, Verb, Version, conflist};

/// Stdin, as every type reads it and plans by it.
///
/// # Errors
/// That of the first type that refuses it.
pub fn stdin(text: &[u8]) -> Result<(), Error> {
    let config = Config::parse(text)?;
    let environment = environment(Verb::Add, "")?;
    let call = Call { verb: Verb::Add, config: &config, environment: &environment, stdin: text };
    let previous = config.prev_result();
    for result in previous.iter().flatten() {
        written(result);
    }
    let outcomes = [
        config.valid_attachments().map(drop),
        host_local(&call),
        (static_ipam::TYPE.add)(&call).map(|result| written(&result)),
        plan_bridge(&call),
        tuning::settings::Settings::read(&call).map(|settings| drop(settings.properties())),
        bandwidth::settings::Limits::read(&config).map(drop),
        firewall::settings::Settings::read(&config).map(drop),
        portmap::settings::Settings::read(&config).map(drop),
        delegated(&config),
        previous.map(drop),
    ];
    outcomes.into_iter().collect()
}

fn host_local(call: &Call<'_>) -> Result<(), Error> {
    ipam::config::store(call.config)?;
    let config = ipam::Config::read(call.config, &call.environment.args)?;
    for set in &config.sets {
        let last = set.candidates(None).take(50).last().map(|(ip, _)| ip);
        let next = set.candidates(last).take(50).count();
        drop(format!("{set} of {}: {next}", set.capacity()));
    }
    Ok(())
}

/// The plan, and what would be made of it with the addresses of `prevResult`, which is a result like any.
fn plan_bridge(call: &Call<'_>) -> Result<(), Error> {
    bridge::addresses::Source::read(call.config)?;
    let plan = bridge::plan::Plan::new(call)?;
    let given = call.config.prev_result()?.unwrap_or_default();
    drop(bridge::plan::Wiring::new(&plan, given));
    Ok(())
}

/// What flannel makes of it for the plugin it calls, which is a configuration like any.
fn delegated(config: &Config) -> Result<(), Error> {
    let (network, subnet) = ("10.244.0.0/16".parse(), "10.244.1.0/24".parse());
    let networks = network.into_iter().collect();
    let known = Known::All(Subnet { networks, subnets: subnet.into_iter().collect(), mtu: 1450, ip_masq: false });
    let delegated = Delegated::new(config, &known)?;
    drop(delegated.subnets());
    let again = Config::parse(&delegated.stdin(config));
    assert!(again.is_ok(), "a bug: {delegated:?}: {again:?}");
    Ok(())
}

/// The result in every version that can say it; each reads back.
fn written(result: &Success) {
    for version in Version::supported().filter_map(|name| Version::parse(name).ok()) {
        if let Ok(text) = result.to_json(version) {
            let again = Success::parse(text.as_bytes(), version);
            assert!(again.is_ok(), "a bug: {text}: {again:?}");
        }
    }
}

fn environment(verb: Verb, args: &str) -> Result<Environment, Error> {
    let variables = [("CNI_CONTAINERID", "dry"), ("CNI_NETNS", "/dry"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", args)];
    let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
    Environment::read(verb, value)
}

/// `CNI_ARGS`, and the other variables: each line of the text is one.
///
/// # Errors
/// What is wrong with them.
pub fn variables(text: &str) -> Result<(), Error> {
    const NAMES: [&str; 6] =
        ["CNI_ARGS", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "CNI_NETNS_OVERRIDE"];
    let lines: Vec<&str> = text.split('\n').collect();
    let value = |name: &str| {
        let line = NAMES.iter().position(|known| *known == name)?;
        lines.get(line).map(OsString::from)
    };
    let config = Config::parse(br#"{"name": "dry", "ipam": {"subnet": "10.0.0.0/8"}}"#)?;
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
        let environment = Environment::read(Verb::parse(verb)?, value)?;
        let call = Call { verb: Verb::Add, config: &config, environment: &environment, stdin: b"" };
        host_local(&call).and((static_ipam::TYPE.add)(&call).map(drop)).and(plan_bridge(&call))?;
    }
    environment(Verb::Add, lines[0]).map(drop)
}

/// What is read from files: a lease, an entry of the index, a `resolv.conf`, a `subnet.env`, a list of plugins; and
/// comments of nf_tables, which anybody can write.
///
/// # Errors
/// What is wrong with the last, the only one that can be refused.
pub fn file(text: &[u8]) -> Result<(), Error> {
    let said = String::from_utf8_lossy(text);
    let holder: Attachment = store::holder(&said);
    assert!(!holder.container_id.contains('\n'), "a bug: {holder:?}");
    let entry = index::parse(&said, SystemTime::UNIX_EPOCH);
    let composed = index::compose(&entry.ips, entry.origin.as_ref());
    let again = index::parse(&composed, SystemTime::UNIX_EPOCH);
    assert_eq!(composed, index::compose(&again.ips, again.origin.as_ref()), "a bug");
    drop(resolv_conf::parse(&said));
    drop(Owner::read(&said).map(|owner| owner.record()));
    drop(portmap::entry::Record::read(said.lines()));
    let _ = Subnet::parse(&said);
    drop(Delegated::of_note(text).map(|note| note.subnets()));
    let list = NetConfList::parse(text)?;
    for plugin in &list.plugins {
        drop(list.stdin(plugin, &conflist::Call::default()));
    }
    Ok(())
}
