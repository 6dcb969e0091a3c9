//! Tables and chains, and where packets enter them.

use super::encoder::{Attributes, GENERIC_HEADER};

const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;

/// The family of a table: which packets it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames on a bridge.
    Bridge,
    /// Frames of one interface.
    Netdev,
}

impl Family {
    fn number(self) -> i32 {
        match self {
            Family::Ip => libc::NFPROTO_IPV4,
            Family::Ip6 => libc::NFPROTO_IPV6,
            Family::Inet => libc::NFPROTO_INET,
            Family::Bridge => libc::NFPROTO_BRIDGE,
            Family::Netdev => libc::NFPROTO_NETDEV,
        }
    }

    pub(super) fn header(self) -> [u8; GENERIC_HEADER] {
        [u8::try_from(self.number()).unwrap_or_default(), 0, 0, 0]
    }

    /// Its name, as `nft` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
        }
    }
}

/// A table, by family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table<'a> {
    /// Its family.
    pub family: Family,
    /// Its name: at most 255 bytes.
    pub name: &'a str,
}

impl<'a> Table<'a> {
    /// A table of this family and name.
    pub const fn new(family: Family, name: &'a str) -> Table<'a> {
        Table { family, name }
    }
}

impl std::fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family.name(), self.name)
    }
}

/// Where in the network stack. The numbers differ from family to family (`include/uapi/linux/netfilter*.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To the node itself.
    Input,
    /// Through the node.
    Forward,
    /// From the node itself.
    Output,
    /// After routing.
    Postrouting,
    /// As it comes from an interface (family `netdev`).
    Ingress,
}

impl Hook {
    /// `NF_INET_*` and `NF_BR_*` have the same numbers; `NF_NETDEV_INGRESS` and `NF_INET_INGRESS` are on their own.
    fn number(self, family: Family) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
            Hook::Ingress if family == Family::Netdev => 0,
            Hook::Ingress => 5,
        }
    }
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every packet.
    Filter,
    /// The first packet of each connection, to translate it.
    Nat,
    /// Packets of the node whose route depends on what is done here.
    Route,
}

/// Well-known priorities (`enum nf_ip_hook_priorities`); lower comes first.
pub mod priority {
    /// Before connections are tracked.
    pub const RAW: i32 = -300;
    /// Translation of destinations.
    pub const DNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Translation of sources.
    pub const SNAT: i32 = 100;
}

/// How packets come into a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base<'a> {
    /// What for.
    pub kind: Kind,
    /// Where.
    pub hook: Hook,
    /// When, among the chains at the same hook ([`priority`]).
    pub priority: i32,
    /// Whether what no rule decides about is dropped.
    pub drop: bool,
    /// The interface, for the hook of family `netdev`.
    pub device: Option<&'a str>,
}

impl Base<'_> {
    /// Of this kind, accepting by default.
    pub const fn new(kind: Kind, hook: Hook, priority: i32) -> Base<'static> {
        Base { kind, hook, priority, drop: false, device: None }
    }

    pub(super) fn write(&self, family: Family, chain: &mut Attributes<'_>) {
        chain.nest(CHAIN_HOOK, |hook| {
            hook.number(HOOK_NUMBER, self.hook.number(family));
            hook.signed(HOOK_PRIORITY, self.priority);
            if let Some(device) = self.device {
                hook.text(HOOK_DEVICE, device);
            }
        });
        chain.number(CHAIN_POLICY, u32::from(!self.drop));
        chain.text(
            CHAIN_TYPE,
            match self.kind {
                Kind::Filter => "filter",
                Kind::Nat => "nat",
                Kind::Route => "route",
            },
        );
    }
}
