//! Where a pod's addresses come from: `ipam`.
//!
//! host-local is run in this process, and so is any other type of this binary; all others are called by the rules of
//! delegation. What they answer has the same form, so all that follows is the same.

use ipnetwork::IpNetwork;

use super::{host_name, masquerade};
use crate::plugin::{self, Call, delegate, host_local, static_ipam};
use crate::spec::{Attachment, Config, Error, IpConfig, Success, Verb, code};

/// The IPAM plugin of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// None: a network of links without addresses.
    None,
    /// host-local: what is to be done with the first and the last lease of a network is done under its lock.
    HostLocal,
    /// Any other, by its type.
    Plugin(String),
}

impl Source {
    /// Reads `ipam.type`.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is no string, or `ipam` no object; [`code::INVALID_CONFIG`] when it is a type of this binary that gives no
    /// addresses: `bridge` would call itself for ever.
    pub fn read(config: &Config) -> Result<Source, Error> {
        Ok(match config.root().get("ipam").object()?.get("type").text()? {
            None => Source::None,
            Some(name) if name == host_local::TYPE.name => Source::HostLocal,
            Some(name) if name != static_ipam::TYPE.name && plugin::of_name(name).is_some() => {
                return Err(Error::config(format!("ipam.type: {name:?} is no IPAM plugin"))
                    .with_details("host-local and static are; any other is looked for in CNI_PATH"));
            }
            Some(name) => Source::Plugin(name.to_owned()),
        })
    }

    /// Has addresses given to the attachment, and masqueraded. A failure leaves nothing.
    ///
    /// # Errors
    /// Those of the IPAM, of nf_tables, or an answer without addresses.
    pub fn add(&self, call: &Call<'_>, ip_masq: bool) -> Result<Success, Error> {
        let network = &call.config.name;
        match self {
            Source::None => Ok(Success::default()),
            Source::HostLocal => host_local::add_locked(call, &mut |given| match ip_masq {
                true => Ok(masquerade::ensure(network, &subnets(&given.ips))?),
                false => Ok(()),
            }),
            Source::Plugin(name) => {
                let given = delegate::add(name, call, call.stdin)?;
                let held = hold(call, name, &given, ip_masq);
                held.map(|()| given).map_err(|cause| match self.del(call, ip_masq) {
                    Ok(()) => cause,
                    Err(failure) => cause.and_failed("undoing", &failure),
                })
            }
        }
    }

    /// Gives the addresses of the attachment back; with the last ones of the network, the masquerading ends.
    ///
    /// # Errors
    /// All that failed, as one.
    pub fn del(&self, call: &Call<'_>, ip_masq: bool) -> Result<(), Error> {
        let network = &call.config.name;
        match self {
            Source::None => Ok(()),
            Source::HostLocal => host_local::del_locked(call, &mut || end_masquerade(network, ip_masq)),
            Source::Plugin(name) => {
                let given_back = delegate::run(name, call, Verb::Del, call.stdin);
                let user = host_name(network, &call.attachment());
                let let_go = tolerable(masquerade::let_go(network, &[user]), ip_masq);
                all([given_back, let_go])
            }
        }
    }

    /// CHECK of the IPAM.
    ///
    /// # Errors
    /// Those of the IPAM.
    pub fn check(&self, call: &Call<'_>) -> Result<(), Error> {
        self.forward(call, Verb::Check)
    }

    /// STATUS of the IPAM.
    ///
    /// # Errors
    /// Those of the IPAM.
    pub fn status(&self, call: &Call<'_>) -> Result<(), Error> {
        self.forward(call, Verb::Status)
    }

    /// GC: addresses of attachments not on the list are given back. `freed` is called with each attachment that
    /// turns out to be gone.
    ///
    /// # Errors
    /// All that failed, as one.
    pub fn gc(
        &self,
        call: &Call<'_>,
        valid: &[Attachment],
        ip_masq: bool,
        freed: &mut dyn FnMut(&Attachment) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let network = &call.config.name;
        match self {
            Source::None => Ok(()),
            Source::HostLocal => host_local::gc_locked(call, freed, &mut || end_masquerade(network, ip_masq)),
            Source::Plugin(name) => {
                let collected = delegate::run(name, call, Verb::Gc, call.stdin);
                let keep: Vec<_> = valid.iter().map(|attachment| host_name(network, attachment)).collect();
                all([collected, tolerable(masquerade::let_go_of_others(network, &keep), ip_masq)])
            }
        }
    }

    fn forward(&self, call: &Call<'_>, verb: Verb) -> Result<(), Error> {
        match self {
            Source::None => Ok(()),
            Source::HostLocal => delegate::run(host_local::TYPE.name, call, verb, call.stdin),
            Source::Plugin(name) => delegate::run(name, call, verb, call.stdin),
        }
    }
}

/// Checks what a plugin gave, and masquerades it: nobody else counts the users of its networks.
fn hold(call: &Call<'_>, name: &str, given: &Success, ip_masq: bool) -> Result<(), Error> {
    if given.ips.is_empty() {
        return Err(Error::new(code::INTERNAL, "IPAM plugin returned missing IP config")
            .with_details(format!("the plugin {name} answered without addresses")));
    }
    if ip_masq {
        let user = host_name(&call.config.name, &call.attachment());
        masquerade::hold(&call.config.name, &user, &subnets(&given.ips))?;
    }
    Ok(())
}

/// The subnets these addresses are of.
pub(super) fn subnets<'a>(ips: impl IntoIterator<Item = &'a IpConfig>) -> Vec<IpNetwork> {
    let subnet = |ip: &IpConfig| IpNetwork::new(ip.address.network(), ip.address.prefix()).ok();
    ips.into_iter().filter_map(subnet).collect()
}

fn end_masquerade(network: &str, ip_masq: bool) -> Result<(), Error> {
    tolerable(masquerade::remove(network), ip_masq)
}

/// Whether `ipMasq` was set when the table was made, who knows; where it is not set now, a kernel without nf_tables
/// is no failure.
fn tolerable(outcome: Result<(), crate::netlink::Error>, ip_masq: bool) -> Result<(), Error> {
    match outcome {
        Err(error) if ip_masq => Err(error.into()),
        _ => Ok(()),
    }
}

fn all<const N: usize>(outcomes: [Result<(), Error>; N]) -> Result<(), Error> {
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_says_where_addresses_come_from() {
        let source = |ipam: &str| {
            Source::read(&Config::parse(format!(r#"{{"name": "n", "ipam": {ipam}}}"#).as_bytes()).unwrap()).unwrap()
        };
        assert_eq!(source("{}"), Source::None);
        assert_eq!(source(r#"{"Type": "host-local"}"#), Source::HostLocal);
        assert_eq!(source(r#"{"type": "whereabouts"}"#), Source::Plugin("whereabouts".into()));
        assert_eq!(source(r#"{"type": "static"}"#), Source::Plugin("static".into()));
    }

    #[test]
    fn an_ipam_that_is_no_object_is_not_taken_for_none() {
        for ipam in [r#""host-local""#, "[]", "5"] {
            let config = Config::parse(format!(r#"{{"name": "n", "ipam": {ipam}}}"#).as_bytes()).unwrap();
            let refused = Source::read(&config).unwrap_err();
            assert_eq!((refused.code, refused.msg), (code::DECODE, format!("ipam: expected an object, found {ipam}")));
        }
    }

    // It would call itself, and the reference starts processes until the node has no more.
    #[test]
    fn a_type_that_gives_no_addresses_is_no_ipam() {
        for name in ["bridge", "cni-bridge", "flannel", "loopback"] {
            let config = format!(r#"{{"name": "n", "ipam": {{"type": "{name}"}}}}"#);
            let refused = Source::read(&Config::parse(config.as_bytes()).unwrap()).unwrap_err();
            assert_eq!(refused.msg, format!("ipam.type: {name:?} is no IPAM plugin"));
        }
    }
}
