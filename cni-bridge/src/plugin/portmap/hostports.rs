//! The table of host ports: one an IP family, for all pods.
//!
//! ```text
//! table ip cni-bridge-hostports {
//!     map ports      { type inet_proto . inet_service : ipv4_addr . inet_service }
//!     map addressed  { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!     set itself     { type ipv4_addr . ipv4_addr }
//!     set neighbours { type ifname . ipv4_addr }
//!     set everybody  { type ipv4_addr }
//!     set localnet   { type ifname }
//!     chain prerouting  { type nat hook prerouting priority dstnat; fib daddr type local jump hostports }
//!     chain output      { type nat hook output priority dstnat;     fib daddr type local jump hostports }
//!     chain hostports {
//!         meta mark set meta mark | 0x2000
//!         dnat ip to ip daddr . meta l4proto . th dport map @addressed
//!         dnat ip to meta l4proto . th dport map @ports
//!         meta mark set meta mark & 0xffffdfff
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         meta mark & 0x2000 == 0 return
//!         ip saddr 127.0.0.0/8 masquerade
//!         ip saddr . ip daddr @itself masquerade
//!         iifname . ip daddr @neighbours masquerade
//!         ip daddr @everybody masquerade
//!     }
//!     chain loopback { type filter hook prerouting priority raw; iifname "lo" return; ip saddr 127/8 drop; ip daddr 127/8 drop }
//!     chain pod-5f0a... { comment "podnet abc eth0" ... }          (a record, see `entry`)
//! }
//! ```
//!
//! - Addresses and ports are data of maps, and not a chain a pod that a map of verdicts leads to: a transaction that
//!   adds a verdict or a rule has the kernel walk through all chains it can reach (`nft_table_validate`), so it would
//!   take longer with each pod there is. A packet is looked up twice, whatever the number of pods.
//! - A mapping for one address comes before one for all. The same port at the same address is taken once.
//! - The mark says that a mapping applied, and nothing else sent the connection to the pod (a Service of Kubernetes,
//!   which must see its own rules). It is on while the packet passes, and only on packets a mapping applied to.
//! - `neighbours`: a packet that goes out by the interface it came in by is on its way to another pod of the
//!   same bridge, whose answer would go to the neighbour directly, from an address that one never called. Where
//!   bridges' packets pass netfilter (`bridge-nf-call-iptables`) the input interface is not known in postrouting,
//!   and the answer is translated on the bridge: no masquerading, and the pod sees who calls. A pod that calls
//!   itself is masqueraded in any case, or it would take its own packet for a forged one.
//! - `loopback`: to send 127.0.0.1 on to a pod, `route_localnet` must be on where the pod is, and then the node's
//!   loopback could be reached from there (CVE-2020-8558). What did not come by `lo` is dropped before it can.
//! - IPv6 has no such switch: a packet from ::1 never leaves. A call to ::1 is left alone, so it is refused at once, and
//!   a client that tries `localhost` by both families goes on to 127.0.0.1 instead of waiting.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::condition::Condition;
use super::entry::{ADDRESSED, EVERYBODY, ITSELF, LOCALNET, NEIGHBOURS, PORTS};
use super::settings::Profile;
use crate::netlink::Error;
use crate::netlink::nft::{
    Base, Batch, Exists, Family, Holds, Hook, Is, Key, Kind, NftSocket, Place, Rule, Set, Table, Type, priority,
};

const NAME: &str = "cni-bridge-hostports";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const HOSTPORTS: &str = "hostports";
const POSTROUTING: &str = "postrouting";
const LOOPBACK: &str = "loopback";

/// The table of one family and profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostports {
    /// Its family: `ip` or `ip6`.
    pub family: Family,
    name: String,
    mark: u32,
    conditions: Vec<Condition>,
}

/// 127.0.0.0/8
fn loopback_v4() -> IpNetwork {
    Ipv4Network::new(Ipv4Addr::LOCALHOST, 8).unwrap_or(Ipv4Addr::LOCALHOST.into()).into()
}

/// A chain of the table: its name, where packets enter it, and its rules.
struct Chain {
    name: &'static str,
    base: Option<Base<'static>>,
    rules: Vec<Rule>,
}

impl Hostports {
    /// The tables of a profile: IPv4's and IPv6's. What is not the default has tables of its own.
    pub fn of(profile: &Profile) -> [Hostports; 2] {
        let usual = Profile::default();
        let one = |family, conditions: &[Condition]| {
            let name = if profile.mark == usual.mark && conditions.is_empty() {
                NAME.to_owned()
            } else {
                let said = format!("{:x} {conditions:?}", profile.mark);
                format!("{NAME}-{:016x}", crate::plugin::hash(&[&said]))
            };
            Hostports { family, name, mark: profile.mark, conditions: conditions.to_vec() }
        };
        [one(Family::Ip, &profile.conditions_v4), one(Family::Ip6, &profile.conditions_v6)]
    }

    /// Those that are there, of any profile. Of one that is not asked for now, the rules are not known: it is good for
    /// removing only.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn found(socket: &mut NftSocket) -> Result<Vec<Hostports>, Error> {
        let mut all = Vec::new();
        for family in [Family::Ip, Family::Ip6] {
            let is_ours =
                |name: &String| name.strip_prefix(NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            let names = socket.tables(family)?.into_iter().filter(is_ours);
            all.extend(names.map(|name| Hostports { family, name, mark: 0, conditions: Vec::new() }));
        }
        Ok(all)
    }

    /// The table.
    pub fn table(&self) -> Table<'_> {
        Table::new(self.family, &self.name)
    }

    /// Whether it is IPv4's.
    pub fn is_v4(&self) -> bool {
        self.family == Family::Ip
    }

    fn sets(&self) -> Vec<Set<'static>> {
        let v4 = self.is_v4();
        let data = Holds::Data(if v4 { &[Type::Ipv4, Type::Port] } else { &[Type::Ipv6, Type::Port] });
        let addressed: &[Type] = match v4 {
            true => &[Type::Ipv4, Type::Protocol, Type::Port],
            false => &[Type::Ipv6, Type::Protocol, Type::Port],
        };
        let itself: &[Type] = if v4 { &[Type::Ipv4, Type::Ipv4] } else { &[Type::Ipv6, Type::Ipv6] };
        let neighbours: &[Type] = if v4 { &[Type::Interface, Type::Ipv4] } else { &[Type::Interface, Type::Ipv6] };
        let everybody: &[Type] = if v4 { &[Type::Ipv4] } else { &[Type::Ipv6] };
        let mut sets = vec![
            Set { name: PORTS, key: &[Type::Protocol, Type::Port], holds: data },
            Set { name: ADDRESSED, key: addressed, holds: data },
            Set { name: ITSELF, key: itself, holds: Holds::Nothing },
            Set { name: NEIGHBOURS, key: neighbours, holds: Holds::Nothing },
            Set { name: EVERYBODY, key: everybody, holds: Holds::Nothing },
        ];
        if v4 {
            sets.push(Set { name: LOCALNET, key: &[Type::Interface], holds: Holds::Nothing });
        }
        sets
    }

    /// In the order they can be made in: what a rule leads to first.
    fn chains(&self) -> Vec<Chain> {
        let hooked =
            |name, kind, hook, priority, rules| Chain { name, base: Some(Base::new(kind, hook, priority)), rules };
        let mut chains = vec![
            Chain { name: HOSTPORTS, base: None, rules: self.hostports() },
            hooked(PREROUTING, Kind::Nat, Hook::Prerouting, priority::DNAT, vec![self.entry()]),
            hooked(OUTPUT, Kind::Nat, Hook::Output, priority::DNAT, vec![self.entry()]),
            hooked(POSTROUTING, Kind::Nat, Hook::Postrouting, priority::SNAT, self.postrouting()),
        ];
        if self.is_v4() {
            chains.push(hooked(LOOPBACK, Kind::Filter, Hook::Prerouting, priority::RAW, self.loopback_only()));
        }
        chains
    }

    fn rule(&self) -> Rule {
        Rule::new(self.family)
    }

    fn entry(&self) -> Rule {
        let rule = match self.is_v4() {
            true => self.rule(),
            false => self.rule().destination(Is::NotEqual, Ipv6Network::from(Ipv6Addr::LOCALHOST).into()),
        };
        let rule = self.conditions.iter().fold(rule, |rule, condition| condition.on(rule));
        rule.destination_is_local().jump(HOSTPORTS)
    }

    fn hostports(&self) -> Vec<Rule> {
        vec![
            self.rule().set_mark_bits(self.mark),
            self.rule().to_mapped_destination(&[Key::Destination, Key::Protocol, Key::DestinationPort], ADDRESSED),
            self.rule().to_mapped_destination(&[Key::Protocol, Key::DestinationPort], PORTS),
            self.rule().clear_mark_bits(self.mark),
        ]
    }

    fn postrouting(&self) -> Vec<Rule> {
        let mut rules = vec![self.rule().mark(self.mark, Is::Equal, 0).back()];
        if self.is_v4() {
            rules.push(self.rule().source(Is::Equal, loopback_v4()).masquerade());
        }
        rules.push(self.rule().is_in(&[Key::Source, Key::Destination], ITSELF).masquerade());
        rules.push(self.rule().is_in(&[Key::In, Key::Destination], NEIGHBOURS).masquerade());
        rules.push(self.rule().is_in(&[Key::Destination], EVERYBODY).masquerade());
        rules
    }

    fn loopback_only(&self) -> Vec<Rule> {
        vec![
            self.rule().input(Is::Equal, "lo").back(),
            self.rule().source(Is::Equal, loopback_v4()).drop(),
            self.rule().destination(Is::Equal, loopback_v4()).drop(),
        ]
    }

    /// How many chains, sets and maps the table has without records.
    pub fn objects(&self) -> u32 {
        u32::try_from(self.sets().len() + self.chains().len()).unwrap_or(u32::MAX)
    }

    /// How many rules each of its chains has.
    pub fn rules(&self) -> Vec<(&'static str, usize)> {
        self.chains().iter().map(|chain| (chain.name, chain.rules.len())).collect()
    }

    /// Makes the table; `EEXIST` when it is there.
    pub fn create(&self, batch: &mut Batch) {
        let table = self.table();
        batch.add_table(table, Exists::Refused, "host ports of pods");
        for set in self.sets() {
            batch.add_set(table, &set);
        }
        for chain in self.chains() {
            match chain.base {
                Some(base) => batch.add_base_chain(table, chain.name, base),
                None => batch.add_chain(table, chain.name, Exists::Refused, ""),
            }
            for rule in &chain.rules {
                batch.add_rule(table, chain.name, Place::Last, rule);
            }
        }
    }

    /// Whether somebody has removed the rules and left the table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_flushed(&self, socket: &mut NftSocket) -> Result<bool, Error> {
        Ok(socket.rules(self.table(), HOSTPORTS)?.is_empty())
    }

    /// Gives the chains their rules again.
    pub fn fill(&self, batch: &mut Batch) {
        let table = self.table();
        for chain in self.chains() {
            batch.flush_chain(table, chain.name);
            chain.rules.iter().for_each(|rule| batch.add_rule(table, chain.name, Place::Last, rule));
        }
    }

    /// Removes all that [`Hostports::create`] made, with every entry; `EBUSY` when there is a record.
    pub fn remove(&self, batch: &mut Batch) {
        let table = self.table();
        for chain in self.chains() {
            batch.flush_chain(table, chain.name);
        }
        for chain in self.chains() {
            batch.delete_chain(table, chain.name);
        }
        for set in self.sets() {
            batch.delete_set(table, set.name);
        }
        batch.delete_table_if_empty(table);
    }
}
