//! GC and STATUS.

use netlink_packet_route::link::InfoKind;

use super::addresses::Source;
use super::del::remove_rules;
use super::settings::{Settings, bridge_name};
use super::{attachment_of_alias, host_name, legacy, masquerade, spoof};
use crate::netlink::nft::Family;
use crate::netlink::{Link, RouteSocket, link};
use crate::plugin::Call;
use crate::spec::{Attachment, CniArgs, Config, Error, code};

/// Removes what belongs to this network and to no attachment on the list. Without a list, nothing.
///
/// # Errors
/// All that failed, as one, after all that could be done.
pub fn gc(call: &Call<'_>) -> Result<(), Error> {
    let (config, root) = (call.config, call.config.root());
    let Some(valid) = config.valid_attachments()? else { return Ok(()) };
    let outcomes = [
        collect_veths(config, &valid),
        collect_addresses(call, &valid),
        remove_rules(spoof::remove_others(&config.name, &valid), root.get("macspoofchk").flag()),
        remove_rules(legacy::remove_others(&config.name, &valid), Ok(false)),
    ];
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

/// Removes the pairs whose alias names this network and nobody valid. Reads all veths: the one verb that may.
///
/// An ADD that was killed may have left a pair without an alias; what was noted of its port in nf_tables before names it.
fn collect_veths(config: &Config, valid: &[Attachment]) -> Result<(), Error> {
    let (mut node, network) = (RouteSocket::open()?, &config.name);
    let bridge = link::by_name(&mut node, &bridge_name(config)?)?.map(|bridge| bridge.index);
    let is_stale =
        |link: &Link| attachment_of_alias(network, &link.alias).is_some_and(|holder| !valid.contains(&holder));
    let veths = link::of_kind(&mut node, InfoKind::Veth)?;
    let stale = veths.into_iter().filter(|link| link.controller == bridge && is_stale(link));
    let mut names: Vec<_> = stale.map(|link| link.name).collect();
    let keep: Vec<_> = valid.iter().map(|attachment| host_name(network, attachment)).collect();
    let noted = [masquerade::users(network), spoof::ports(network)].into_iter().flat_map(Result::unwrap_or_default);
    names.extend(noted.filter(|name| !keep.contains(name)));
    Ok(node.apply(names.iter().map(|name| link::delete(name)).collect())?)
}

/// Has the addresses of others given back. Their pairs go first, should one have had no alias.
fn collect_addresses(call: &Call<'_>, valid: &[Attachment]) -> Result<(), Error> {
    let (config, mut node) = (call.config, RouteSocket::open()?);
    let ip_masq = config.root().get("ipMasq").flag().unwrap_or_default();
    Source::read(config)?
        .gc(call, valid, ip_masq, &mut |holder| Ok(node.apply(vec![link::delete(&host_name(&config.name, holder))])?))
}

/// Whether an ADD could be served now.
///
/// # Errors
/// What is wrong with the configuration, [`code::NOT_AVAILABLE`] for what the kernel cannot do, or the IPAM's own.
pub fn status(call: &Call<'_>) -> Result<(), Error> {
    let config = call.config;
    let settings = Settings::read(config, &CniArgs::default())?;
    let needs = [(settings.ip_masq, Family::Inet, "ipMasq"), (settings.check_mac, Family::Bridge, "macspoofchk")];
    for (_, family, key) in needs.iter().filter(|(needed, ..)| *needed) {
        masquerade::probe(*family)
            .map_err(|error| Error::new(code::NOT_AVAILABLE, format!("{key} is set, but {error}")))?;
    }
    let bridge = link::by_name(&mut RouteSocket::open()?, &settings.bridge)?;
    if let Some(bridge) = bridge {
        if bridge.kind != "bridge" {
            let msg = format!("bridge: {:?} already exists but is not a bridge", settings.bridge);
            return Err(Error::new(code::NOT_AVAILABLE, msg));
        }
        super::node::filter(&settings.vlans, &bridge).map_err(|error| Error { code: code::NOT_AVAILABLE, ..error })?;
    }
    Source::read(config)?.status(call)
}
