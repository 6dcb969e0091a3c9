//! Type `flannel`: the subnet that flanneld gave this node, for another plugin that attaches pods with it; `bridge`
//! unless `delegate.type` says otherwise.
//!
//! | module | what |
//! |---|---|
//! | [`subnet`] | what flanneld wrote |
//! | [`delegate`] | the other plugin's configuration, made of it |
//! | [`note`] | that configuration, noted for DEL |
//!
//! Source: flannel-io's cni-plugin, whose keys, words and notes these are. Its DEL does nothing where the note is lost,
//! its CHECK never does anything; here both are as good as the other plugin's.

pub mod delegate;
pub mod note;
pub mod subnet;

use std::path::Path;

use ipnetwork::IpNetwork;

use self::delegate::{Delegated, Known};
use self::note::Notes;
use self::subnet::Subnet;
use super::delegate as plugin;
use super::{Call, Type};
use crate::spec::{Config, Error, Success, Verb, Version, code};

/// The type.
pub static TYPE: Type = Type { name: "flannel", oldest: Version::V0_1_0, add, del, check, gc, status };

/// Where flanneld writes, unless `subnetFile` says otherwise.
const DEFAULT_SUBNET_FILE: &str = "/run/flannel/subnet.env";

fn read_subnet(config: &Config) -> Result<Subnet, Error> {
    Subnet::read(Path::new(config.root().get("subnetFile").text()?.unwrap_or(DEFAULT_SUBNET_FILE)))
}

fn add(call: &Call<'_>) -> Result<Success, Error> {
    let delegated = Delegated::new(call.config, &Known::All(read_subnet(call.config)?))?;
    let (notes, id) = (Notes::of(call.config)?, &call.environment.container_id);
    let stdin = delegated.stdin(call.config);
    // Before it: an ADD that is killed must leave a DEL that knows what to undo.
    notes.write(id, &stdin)?;
    plugin::add(&delegated.plugin, call, &stdin).inspect_err(|_| {
        // Nothing is left of the ADD. A note that stays is harmless: DEL removes it.
        let _ = notes.remove(id, &call.config.name);
    })
}

/// The configuration an attachment was made with: as it was noted, or as it would be made now.
fn delegated_then(call: &Call<'_>) -> Result<Delegated, Error> {
    let noted = Notes::of(call.config)?.read(&call.environment.container_id, &call.config.name);
    noted.map_or_else(|| delegated_now(call), Ok)
}

/// As it would be made now. Where flanneld's file is gone, or not readable, the addresses that the runtime remembers say
/// which subnets they are of.
fn delegated_now(call: &Call<'_>) -> Result<Delegated, Error> {
    let known = match read_subnet(call.config) {
        Ok(subnet) => Known::All(subnet),
        Err(_) => Known::Subnets(subnets_told(call.config)),
    };
    Delegated::new(call.config, &known)
}

fn subnets_told(config: &Config) -> Vec<IpNetwork> {
    let told = config.prev_result().ok().flatten().unwrap_or_default();
    told.ips.iter().filter_map(|ip| IpNetwork::new(ip.address.network(), ip.address.prefix()).ok()).collect()
}

fn del(call: &Call<'_>) -> Result<(), Error> {
    let delegated = delegated_then(call)?;
    plugin::run(&delegated.plugin, call, Verb::Del, &delegated.stdin(call.config))?;
    Notes::of(call.config)?.remove(&call.environment.container_id, &call.config.name)
}

fn check(call: &Call<'_>) -> Result<(), Error> {
    let delegated = delegated_then(call)?;
    // A pod with an address of an earlier subnet is reached by nobody on another node. Without the file nobody can say.
    if let Ok(now) = read_subnet(call.config) {
        let lost = delegated.subnets().into_iter().find(|subnet| !now.subnets.contains(subnet));
        if let Some(lost) = lost {
            let subnets: Vec<_> = now.subnets.iter().map(ToString::to_string).collect();
            let msg = format!("the pod has an address of {lost}, and the node's subnet is {} now", subnets.join(", "));
            return Err(Error::new(code::CHECK_FAILED, msg).with_details("the pod has to be made anew"));
        }
    }
    plugin::run(&delegated.plugin, call, Verb::Check, &delegated.stdin(call.config))
}

/// The other plugin's GC; then the notes of containers that are gone.
fn gc(call: &Call<'_>) -> Result<(), Error> {
    let config = call.config;
    let Some(valid) = config.valid_attachments()? else { return Ok(()) };
    let delegated = delegated_now(call)?;
    plugin::run(&delegated.plugin, call, Verb::Gc, &delegated.stdin(config))?;
    let notes = Notes::of(config)?;
    let gone = |id: &String| !valid.iter().any(|attachment| attachment.container_id == *id);
    let removed = notes.containers(&config.name)?.into_iter().filter(gone).map(|id| notes.remove(&id, &config.name));
    Error::all(removed.filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

fn status(call: &Call<'_>) -> Result<(), Error> {
    let subnet = read_subnet(call.config).map_err(|error| Error { code: code::NOT_AVAILABLE, ..error })?;
    let delegated = Delegated::new(call.config, &Known::All(subnet))?;
    plugin::run(&delegated.plugin, call, Verb::Status, &delegated.stdin(call.config))
}
