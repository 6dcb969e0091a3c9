//! What a rule does with the packets it lets through.

use std::net::IpAddr;

use super::Family;
use super::expression::{Expression, Register, Translation, Verdict};
use super::rule::{FIRST, Key, Rule, meta, octets};

impl Rule {
    /// Decides by the map's verdict for the key; the rule ends where it has none.
    #[must_use]
    pub fn decide_by(self, keys: &[Key], map: &str) -> Rule {
        self.load(keys).with([Expression::Map { map: map.into(), key: FIRST, data: None }])
    }

    /// Sends the connection to the address and port that the map has for the key (families `ip` and `ip6`).
    #[must_use]
    pub fn to_mapped_destination(self, keys: &[Key], map: &str) -> Rule {
        let (family, words) =
            if self.family == Family::Ip6 { (libc::NFPROTO_IPV6, 4) } else { (libc::NFPROTO_IPV4, 1) };
        self.load(keys).with([
            Expression::Map { map: map.into(), key: FIRST, data: Some(FIRST) },
            Expression::Translate {
                what: Translation::Destination,
                family: u8::try_from(family).unwrap_or_default(),
                address: FIRST,
                port: Some(Register(words)),
            },
        ])
    }

    /// Sends the connection to this address and port; none = the port it has.
    #[must_use]
    pub fn to_destination(self, ip: IpAddr, port: Option<u16>) -> Rule {
        self.translate(Translation::Destination, ip, port)
    }

    /// Has the connection come from this address and port; none = any.
    #[must_use]
    pub fn from_source(self, ip: IpAddr, port: Option<u16>) -> Rule {
        self.translate(Translation::Source, ip, port)
    }

    fn translate(self, what: Translation, ip: IpAddr, port: Option<u16>) -> Rule {
        let (family, words) = if ip.is_ipv6() { (libc::NFPROTO_IPV6, 4) } else { (libc::NFPROTO_IPV4, 1) };
        let at = Register(words);
        self.with([Expression::Value(octets(ip), FIRST)])
            .with(port.map(|port| Expression::Value(port.to_be_bytes().into(), at)))
            .with([Expression::Translate {
                what,
                family: u8::try_from(family).unwrap_or_default(),
                address: FIRST,
                port: port.map(|_| at),
            }])
    }

    /// Sets these bits of the packet's mark.
    #[must_use]
    pub fn set_mark_bits(self, bits: u32) -> Rule {
        self.change_mark(!bits, bits)
    }

    /// Clears these bits of the packet's mark.
    #[must_use]
    pub fn clear_mark_bits(self, bits: u32) -> Rule {
        self.change_mark(!bits, 0)
    }

    fn change_mark(self, and: u32, xor: u32) -> Rule {
        let bits = Expression::Bits(FIRST, and.to_ne_bytes().into(), xor.to_ne_bytes().into());
        self.with([Expression::Load(meta(libc::NFT_META_MARK), FIRST), bits, Expression::SetMark(FIRST)])
    }

    /// Sets the connection's mark.
    #[must_use]
    pub fn set_connection_mark(self, mark: u32) -> Rule {
        self.with([Expression::Value(mark.to_ne_bytes().into(), FIRST), Expression::SetConnectionMark(FIRST)])
    }

    /// Counts what comes here.
    #[must_use]
    pub fn count(self) -> Rule {
        self.with([Expression::Counter])
    }

    /// Leaves with the address of the interface it leaves by.
    #[must_use]
    pub fn masquerade(self) -> Rule {
        self.with([Expression::Masquerade])
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Rule {
        self.with([Expression::Decide(verdict)])
    }

    /// [`Verdict::Accept`]
    #[must_use]
    pub fn accept(self) -> Rule {
        self.verdict(Verdict::Accept)
    }

    /// [`Verdict::Drop`]
    #[must_use]
    pub fn drop(self) -> Rule {
        self.verdict(Verdict::Drop)
    }

    /// [`Verdict::Return`]
    #[must_use]
    pub fn back(self) -> Rule {
        self.verdict(Verdict::Return)
    }

    /// [`Verdict::Jump`]
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Rule {
        self.verdict(Verdict::Jump(chain.into()))
    }

    /// [`Verdict::Goto`]
    #[must_use]
    pub fn goto(self, chain: impl Into<String>) -> Rule {
        self.verdict(Verdict::Goto(chain.into()))
    }
}
