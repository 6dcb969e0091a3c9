//! Whose something in nf_tables is: what its comment says, and the record that it is removed by.

use std::fmt;

use super::Call;
use crate::netlink::nft::COMMENT_MAX;
use crate::spec::Attachment;

/// What the name of every record begins with.
const RECORD: &str = "pod-";
/// The longest name of a network that comments have as it is.
const NETWORK_MAX: usize = 200;

/// An attachment of a network, as comments name it: `NETWORK CONTAINER INTERFACE`, none of which can have a space, or
/// where that is longer than a comment, `NETWORK HASH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    comment: String,
}

fn digits(parts: &[&str]) -> String {
    format!("{:016x}", super::hash(parts))
}

fn network_in_comments(network: &str) -> String {
    if network.len() > NETWORK_MAX { digits(&[network]) } else { network.to_owned() }
}

impl Owner {
    /// An attachment of a network.
    pub fn new(network: &str, attachment: &Attachment) -> Owner {
        let Attachment { container_id, ifname } = attachment;
        let comment = format!("{network} {container_id} {ifname}");
        if comment.len() <= COMMENT_MAX {
            return Owner { comment };
        }
        let hash = digits(&[network, container_id, ifname]);
        Owner { comment: format!("{} {hash}", network_in_comments(network)) }
    }

    /// The attachment of a call.
    pub fn of(call: &Call<'_>) -> Owner {
        Owner::new(&call.config.name, &call.attachment())
    }

    /// Reads a comment; none when it is somebody else's.
    pub fn read(comment: &str) -> Option<Owner> {
        let is_ours = match comment.split(' ').collect::<Vec<_>>()[..] {
            [_, hash] => hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()),
            [_, _, _] => true,
            _ => false,
        };
        is_ours.then(|| Owner { comment: comment.to_owned() })
    }

    /// As [`Owner::read`], of the comment of a chain, if the chain is a record.
    pub fn of_record(chain: &str, comment: &str) -> Option<Owner> {
        Owner::read(comment).filter(|owner| owner.record() == chain)
    }

    /// The name of its record: a chain that nothing leads to.
    pub fn record(&self) -> String {
        match self.comment.split(' ').collect::<Vec<_>>()[..] {
            [_, hash] => format!("{RECORD}{hash}"),
            ref parts => format!("{RECORD}{}", digits(parts)),
        }
    }

    /// Whether it is of this network and not on the list.
    pub fn is_stale(&self, network: &str, valid: &[Attachment]) -> bool {
        let said = self.comment.split(' ').next();
        // One that says its network in full is not of another that has such a name.
        let is_of_network = said == Some(network) || said == Some(&network_in_comments(network));
        is_of_network && !valid.iter().any(|attachment| Owner::new(network, attachment) == *self)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.comment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn an_owner_reads_back_with_its_record_whatever_the_length_of_its_names() {
        let long = "a".repeat(255);
        for (network, id) in [("podnet", "abc"), ("podnet", long.as_str()), (&long, "abc"), (&long, &long)] {
            let owner = Owner::new(network, &attachment(id));
            assert!(owner.to_string().len() <= COMMENT_MAX, "{owner}");
            assert_eq!(Owner::of_record(&owner.record(), &owner.to_string()), Some(owner.clone()));
            let other = Owner::new(network, &attachment(&format!("{id}b")));
            assert!(other != owner && other.record() != owner.record());
            assert_eq!(Owner::of_record(&other.record(), &owner.to_string()), None, "a record of another");
        }
        assert_eq!(Owner::new("podnet", &attachment("abc")).to_string(), "podnet abc eth0");
        assert!(
            Owner::read("said by somebody else").is_none()
                && Owner::read("an administrator's").is_none()
                && Owner::read("").is_none()
        );
    }

    #[test]
    fn only_owners_of_this_network_that_are_not_listed_are_stale() {
        let long = "a".repeat(255);
        let valid = [attachment("abc"), attachment(&long)];
        for network in ["podnet", &long] {
            let is_stale = |id: &str| Owner::new(network, &attachment(id)).is_stale(network, &valid);
            assert!(is_stale("gone") && is_stale(&format!("{long}b")));
            assert!(!is_stale("abc") && !is_stale(&long));
            assert!(!Owner::new("other", &attachment("gone")).is_stale(network, &valid));
        }
    }
}
