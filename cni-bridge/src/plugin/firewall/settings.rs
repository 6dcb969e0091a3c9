//! The keys of type `firewall`.

use crate::spec::{Config, Error};

/// The reference's name for the administrator's chain.
const ADMIN_CHAIN: &str = "CNI-ADMIN";
/// The longest name of a chain that `iptables` can show, too.
const CHAIN_LENGTH: usize = 28;
/// Names of chains that are taken.
const TAKEN: [&str; 3] = [super::table::FORWARD, super::table::ISOLATION, super::table::AFTER];
/// What `backend` may be. They are all the same here: where the node's rules are is looked at, not configured.
const BACKENDS: [&str; 3] = ["iptables", "firewalld", "nftables"];

/// Who may connect to the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever the node's rules let through.
    #[default]
    Open,
    /// Of the bridges with a policy, the pod's own alone.
    SameBridge,
    /// None of them, other pods of its own bridge neither.
    Isolated,
}

const POLICIES: [(&str, Policy); 3] =
    [("open", Policy::Open), ("same-bridge", Policy::SameBridge), ("isolated", Policy::Isolated)];

/// How a pod is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `iptablesAdminChainName`: a chain of our table that goes before everything else.
    pub admin_chain: String,
    /// `ingressPolicy`
    pub policy: Policy,
}

impl Settings {
    /// Reads the configuration. `firewalldZone` has no use here.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(config: &Config) -> Result<Settings, Error> {
        let root = config.root();
        if let Some(backend) = root.get("backend").text()?
            && !BACKENDS.contains(&backend)
        {
            let known = BACKENDS.join(", ");
            return Err(Error::config(format!("backend: unknown firewall backend {backend:?}"))
                .with_details(format!("it is one of {known}, all of which are nf_tables here")));
        }
        let admin_chain = root.get("iptablesAdminChainName").text()?.unwrap_or(ADMIN_CHAIN).to_owned();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if admin_chain.len() > CHAIN_LENGTH || !admin_chain.chars().all(is_plain) || TAKEN.contains(&&*admin_chain) {
            let msg = format!("iptablesAdminChainName: {admin_chain:?} cannot be a chain's name");
            return Err(Error::config(msg).with_details("at most 28 letters, digits, '-', '_' and '.'"));
        }
        Ok(Settings { admin_chain, policy: policy(root.get("ingressPolicy").text()?)? })
    }
}

fn policy(name: Option<&str>) -> Result<Policy, Error> {
    let Some(name) = name else { return Ok(Policy::default()) };
    let found = POLICIES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy);
    found.ok_or_else(|| {
        Error::config(format!("unknown ingress policy: {name:?}"))
            .with_details("ingressPolicy is open, same-bridge or isolated")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: &str) -> Result<Settings, Error> {
        Settings::read(&Config::parse(format!(r#"{{"name": "n", {members}}}"#).as_bytes()).unwrap())
    }

    // Behaviour 103.
    #[test]
    fn the_keys_of_stock_configurations_are_taken() {
        let podman = read(r#""backend": """#).unwrap();
        assert_eq!(podman, Settings { admin_chain: "CNI-ADMIN".into(), policy: Policy::Open });
        let nerdctl = read(r#""ingressPolicy": "same-bridge""#).unwrap();
        assert_eq!(nerdctl.policy, Policy::SameBridge);
        let all =
            read(r#""backend": "firewalld", "firewalldZone": "trusted", "iptablesAdminChainName": "MINE""#).unwrap();
        assert_eq!(all.admin_chain, "MINE");
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (members, words) in [
            (r#""ingressPolicy": "closed""#, "unknown ingress policy: \"closed\""),
            (r#""backend": "ebtables""#, "unknown firewall backend \"ebtables\""),
            (r#""iptablesAdminChainName": "forward""#, "\"forward\" cannot be a chain's name"),
            (r#""iptablesAdminChainName": "a b""#, "cannot be a chain's name"),
        ] {
            let refused = read(members).unwrap_err();
            assert!(refused.msg.contains(words), "{members}: {refused:?}");
        }
    }
}
