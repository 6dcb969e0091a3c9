//! `conditionsV4` and `conditionsV6`: which packets mappings apply to.
//!
//! Words of a command line of `iptables` or of a rule of `nft`. Served is what both can say about where a packet is from
//! and to; anything else is refused by name, for a condition that is left out would open what it was to close.
//!
//! | iptables | nft |
//! |---|---|
//! | `[!] -s`, `--src`, `--source` ADDRESS[/LENGTH] | `ip saddr`, `ip6 saddr` `[!=]` ADDRESS[/LENGTH] |
//! | `[!] -d`, `--dst`, `--destination` ADDRESS[/LENGTH] | `ip daddr`, `ip6 daddr` `[!=]` ADDRESS[/LENGTH] |
//! | `[!] -i`, `--in-interface` NAME | `iifname` `[!=]` NAME |

use ipnetwork::IpNetwork;

use crate::netlink::nft::{Is, Rule};
use crate::spec::env::check_interface_name;
use crate::spec::json::Node;
use crate::spec::{Error, code};

/// Whose words they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `iptables`
    Iptables,
    /// `nft`
    Nftables,
}

impl Syntax {
    /// By the first word, as the reference has it: no condition of nft begins with a dash or an exclamation mark.
    pub fn of(words: &[String]) -> Option<Syntax> {
        match words.first()?.chars().next()? {
            '-' | '!' => Some(Syntax::Iptables),
            _ => Some(Syntax::Nftables),
        }
    }
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The source address.
    Source(IpNetwork),
    /// The destination address.
    Destination(IpNetwork),
    /// The name of the interface it came in by.
    Input(String),
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What with.
    pub what: What,
    /// How.
    pub is: Is,
}

impl Condition {
    /// The rule, with this condition more.
    pub fn on(&self, rule: Rule) -> Rule {
        match &self.what {
            What::Source(subnet) => rule.source(self.is, *subnet),
            What::Destination(subnet) => rule.destination(self.is, *subnet),
            What::Input(name) => rule.input(self.is, name),
        }
    }
}

/// Reads the conditions of one family.
///
/// # Errors
/// [`code::UNSUPPORTED_FIELD`] for one that is not served, [`code::INVALID_CONFIG`] for a wrong address or name.
pub fn read(node: &Node<'_>, v4: bool) -> Result<Vec<Condition>, Error> {
    let items = node.texts()?;
    // Some write a condition as one string, some word by word.
    let words: Vec<&str> = items.iter().flat_map(|item| item.split_whitespace()).collect();
    let syntax = Syntax::of(&items);
    let mut reader = Reader { path: node.path(), words: &words, v4 };
    let mut conditions = Vec::new();
    while !reader.words.is_empty() {
        conditions.push(match syntax {
            Some(Syntax::Iptables) => reader.iptables()?,
            _ => reader.nftables()?,
        });
    }
    Ok(conditions)
}

struct Reader<'a> {
    path: &'a str,
    words: &'a [&'a str],
    v4: bool,
}

impl Reader<'_> {
    fn iptables(&mut self) -> Result<Condition, Error> {
        let (is, words) = match self.words {
            ["!", rest @ ..] => (Is::NotEqual, rest),
            rest => (Is::Equal, rest),
        };
        let [option, value, rest @ ..] = words else { return Err(self.unsupported()) };
        let what = match *option {
            "-s" | "--src" | "--source" => What::Source(self.subnet(value)?),
            "-d" | "--dst" | "--destination" => What::Destination(self.subnet(value)?),
            "-i" | "--in-interface" => What::Input(self.interface(value)?),
            _ => return Err(self.unsupported()),
        };
        self.words = rest;
        Ok(Condition { what, is })
    }

    fn nftables(&mut self) -> Result<Condition, Error> {
        let own = if self.v4 { "ip" } else { "ip6" };
        let (field, words) = match self.words {
            [family, field @ ("saddr" | "daddr"), rest @ ..] if *family == own => (*field, rest),
            ["iifname", rest @ ..] => ("iifname", rest),
            _ => return Err(self.unsupported()),
        };
        let (is, value, rest) = match words {
            [] | ["!=" | "=="] => return Err(self.unsupported()),
            ["!=", value, rest @ ..] => (Is::NotEqual, value, rest),
            ["==", value, rest @ ..] | [value, rest @ ..] => (Is::Equal, value, rest),
        };
        let what = match field {
            "saddr" => What::Source(self.subnet(value)?),
            "daddr" => What::Destination(self.subnet(value)?),
            _ => What::Input(self.interface(value.trim_matches('"'))?),
        };
        self.words = rest;
        Ok(Condition { what, is })
    }

    fn subnet(&self, text: &str) -> Result<IpNetwork, Error> {
        let family = if self.v4 { "an IPv4" } else { "an IPv6" };
        let subnet = text.parse::<IpNetwork>().ok().filter(|subnet| subnet.is_ipv4() == self.v4);
        subnet.ok_or_else(|| Error::config(format!("{}: {text:?} is not {family} address or subnet", self.path)))
    }

    fn interface(&self, name: &str) -> Result<String, Error> {
        // Both have patterns of names.
        if name.ends_with(['+', '*']) {
            return Err(self.unsupported());
        }
        match check_interface_name(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(fault) => Err(Error::config(format!("{}: {name:?}: {fault}", self.path))),
        }
    }

    fn unsupported(&self) -> Error {
        let words = self.words.join(" ");
        Error::new(code::UNSUPPORTED_FIELD, format!("{}: the condition {words:?} is not supported", self.path))
            .with_details(
                "served are, with and without negation: -s, -d, -i; ip saddr, ip daddr, ip6 saddr, ip6 daddr, iifname",
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Config;

    fn conditions(words: &[&str], v4: bool) -> Result<Vec<Condition>, Error> {
        let text = serde_json::json!({"name": "n", "conditions": words}).to_string();
        read(&Config::parse(text.as_bytes()).unwrap().root().get("conditions"), v4)
    }

    #[test]
    fn iptables_and_nft_say_the_same() {
        for (iptables, nft, v4) in [
            (&["-s", "10.0.0.0/8"][..], &["ip", "saddr", "10.0.0.0/8"][..], true),
            (&["!", "-d", "192.0.2.1"], &["ip daddr != 192.0.2.1"], true),
            (&["!", "--src", "12::34"], &["ip6", "saddr", "!=", "12::34"], false),
            (&["-i eth0", "-d", "fc00::/7"], &["iifname", "\"eth0\"", "ip6", "daddr", "==", "fc00::/7"], false),
        ] {
            assert_eq!(conditions(iptables, v4).unwrap(), conditions(nft, v4).unwrap());
        }
        assert_eq!(conditions(&[], true).unwrap(), []);
        assert_eq!(conditions(&[""], true).unwrap(), []);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for words in [
            &["-m", "addrtype", "--src-type", "LOCAL"][..],
            &["-s"],
            &["!"],
            &["-i", "eth+"],
            &["tcp", "sport", "1"],
            &["ip6", "saddr", "12::34"],
            &["ip", "saddr"],
            &["ip", "saddr", "!="],
        ] {
            let error = conditions(words, true).unwrap_err();
            assert_eq!(error.code, code::UNSUPPORTED_FIELD, "{words:?}");
            assert!(error.msg.contains(words[0]), "{error}");
        }
        for words in [&["-s", "fd00::1"][..], &["-s", "{1.2.3.4}"], &["iifname", "a/b"]] {
            assert_eq!(conditions(words, true).unwrap_err().code, code::INVALID_CONFIG, "{words:?}");
        }
    }
}
