//! What CRI says of a pod: the few fields of its configuration that are the sandbox's business.
//!
//! containerd (from 2.1, with `sandboxer = "shim"`) hands the whole `runtime.v1.PodSandboxConfig` on. The pod's network
//! it has made already, and what containers share with the node it writes into their specifications.

use std::collections::BTreeMap;

use containerd_shim_protos::protobuf::well_known_types::any::Any;

use super::options::{Dns, IdRange, Namespace, PodFiles, SandboxOptions, Users};
use crate::error::Error;
use crate::fields::Fields;

const TYPE: &str = "runtime.v1.PodSandboxConfig";

/// Values of CRI's `NamespaceMode`.
const POD: u64 = 0;
const NODE: u64 = 2;

/// Whether that is the type of an `Any`.
pub fn is_type_of(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(TYPE)
}

/// Reads the configuration. (The numbers are those of CRI's `api.proto`.)
///
/// # Errors
/// `InvalidArgument` when it is none.
pub fn read(any: &Any) -> Result<SandboxOptions, Error> {
    let config = Fields::parse(TYPE, &any.value)?;
    let linux = within(&config, 8)?;
    let security = within(&linux, 2)?;
    let shared = within(&security, 1)?;
    let (network, pid, ipc) = (shared.number(1), shared.number(2), shared.number(3));
    let mut namespaces = Vec::new();
    if ipc != NODE {
        namespaces.push(Namespace::Ipc);
    }
    if network != NODE {
        namespaces.extend([Namespace::Network, Namespace::Uts]);
    }
    if pid == POD {
        namespaces.push(Namespace::Pid);
    }
    let dns = within(&config, 4)?;
    let dns = Dns { servers: dns.texts(1), searches: dns.texts(2), options: dns.texts(3) };
    let hostname = config.text(2);
    Ok(SandboxOptions {
        hostname: if network == NODE { String::new() } else { hostname.clone() },
        sysctls: map(&linux, 3)?,
        users: shared.bytes(5).map(users).transpose()?.flatten(),
        files: Some(PodFiles { hostname, dns, private_shm: ipc != NODE }),
        namespaces,
        ..SandboxOptions::default()
    })
}

/// The users of a `UserNamespace`; none when they are the node's, as when there is no such message.
fn users(namespace: &[u8]) -> Result<Option<Users>, Error> {
    let namespace = Fields::parse(TYPE, namespace)?;
    if namespace.number(1) != POD {
        return Ok(None);
    }
    let ranges = |number| namespace.all(number).map(range).collect::<Result<_, _>>();
    Ok(Some(Users { uids: ranges(2)?, gids: ranges(3)? }))
}

/// An `IDMapping`.
fn range(mapping: &[u8]) -> Result<IdRange, Error> {
    let mapping = Fields::parse(TYPE, mapping)?;
    let id = |number| {
        let id = mapping.number(number);
        u32::try_from(id).map_err(|_| Error::invalid(format!("{TYPE}: {id} is no user's or group's id")))
    };
    Ok(IdRange { outside: id(1)?, inside: id(2)?, size: id(3)? })
}

/// The message in a field; an empty one when there is none.
fn within(fields: &Fields, number: u32) -> Result<Fields, Error> {
    Fields::parse(TYPE, fields.bytes(number).unwrap_or_default())
}

fn map(fields: &Fields, number: u32) -> Result<BTreeMap<String, String>, Error> {
    let entries = fields.all(number).map(|entry| Fields::parse(TYPE, entry));
    entries.map(|entry| entry.map(|entry| (entry.text(1), entry.text(2)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: u8, text: &str) -> Vec<u8> {
        message(number, text.as_bytes().to_vec())
    }

    fn message(number: u8, value: Vec<u8>) -> Vec<u8> {
        [vec![number << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
    }

    fn any(parts: &[Vec<u8>]) -> Any {
        Any { type_url: TYPE.into(), value: parts.concat(), ..Default::default() }
    }

    /// The configuration with these namespace options.
    fn shared(options: &[u8]) -> Vec<u8> {
        message(8, message(2, message(1, options.to_vec())))
    }

    #[test]
    fn a_pod_of_its_own_has_its_name_servers_and_sysctls() {
        let dns = [text(1, "10.0.0.1"), text(1, "10.0.0.2"), text(2, "cluster.local"), text(3, "ndots:5")].concat();
        let sysctl = [text(1, "net.core.somaxconn"), text(2, "99")].concat();
        // pid: CONTAINER
        let security = message(2, message(1, vec![2 << 3, 1]));
        let linux = message(8, [message(3, sysctl), security].concat());
        let options = read(&any(&[text(2, "web-0"), message(4, dns), linux])).unwrap();
        assert_eq!(options.hostname, "web-0");
        assert_eq!(options.namespaces, [Namespace::Ipc, Namespace::Network, Namespace::Uts]);
        assert_eq!(options.sysctls.get("net.core.somaxconn").map(String::as_str), Some("99"));
        let files = options.files.unwrap();
        assert!(files.private_shm);
        assert_eq!((files.hostname.as_str(), files.dns.servers.len()), ("web-0", 2));
        assert_eq!((files.dns.searches, files.dns.options), (vec!["cluster.local".into()], vec!["ndots:5".into()]));
    }

    #[test]
    fn what_is_the_nodes_stays_the_nodes() {
        // network and ipc: NODE; pid: POD, which is to share it.
        let options = read(&any(&[text(2, "web-0"), shared(&[1 << 3, 2, 3 << 3, 2])])).unwrap();
        assert_eq!((options.hostname.as_str(), options.namespaces), ("", vec![Namespace::Pid]));
        assert!(!options.files.unwrap().private_shm);
    }

    #[test]
    fn users_are_the_nodes_unless_there_is_a_map_of_them() {
        assert_eq!(read(&any(&[shared(&message(5, vec![1 << 3, 2]))])).unwrap().users, None);
        assert_eq!(read(&any(&[shared(&[])])).unwrap().users, None);
        let uids = message(2, vec![1 << 3, 0x90, 0x4e, 3 << 3, 100]);
        let gids = message(3, vec![1 << 3, 0x91, 0x4e, 2 << 3, 1, 3 << 3, 100]);
        let users = read(&any(&[shared(&message(5, [uids, gids].concat()))])).unwrap().users.unwrap();
        assert_eq!(users.uids, [IdRange { inside: 0, outside: 10_000, size: 100 }]);
        assert_eq!(users.gids, [IdRange { inside: 1, outside: 10_001, size: 100 }]);
        assert!(users.root().unwrap_err().to_string().contains("group 0"));
    }
}
