//! The keys of type `bandwidth`, and the numbers the kernel is told for them.

use crate::netlink::tc::{TokenBucket, ticks_per_microsecond};
use crate::spec::json::Node;
use crate::spec::{Config, Error, code};

const INGRESS: [&str; 2] = ["ingressRate", "ingressBurst"];
const EGRESS: [&str; 2] = ["egressRate", "egressBurst"];
/// Keys that the reference had in 1.5.0 alone. Their networks would be limited too, or go unlimited, unnoticed.
const WITHDRAWN: [&str; 2] = ["shapedSubnets", "unshapedSubnets"];
/// How long a packet may wait for tokens, in microseconds; the reference's number.
const LATENCY: f64 = 25_000.0;
const MICROSECONDS: f64 = 1e6;

/// A limit in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bits a second.
    pub rate: u64,
    /// Bits that may be sent at once, having saved for them.
    pub burst: u64,
}

/// The limits of a pod; none = unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `ingressRate`, `ingressBurst`: what the pod receives.
    pub ingress: Option<Limit>,
    /// `egressRate`, `egressBurst`: what the pod sends.
    pub egress: Option<Limit>,
}

impl Limits {
    /// Reads the configuration: its own keys, or `runtimeConfig.bandwidth` where it has none of them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(config: &Config) -> Result<Limits, Error> {
        let root = config.root();
        if let Some(key) = WITHDRAWN.iter().map(|key| root.get(key)).find(Node::exists) {
            return Err(Config::unsupported(&key)
                .with_details("remove it: the reference plugin has withdrawn it, too, and limits a pod as a whole"));
        }
        let is_static = INGRESS.iter().chain(&EGRESS).any(|key| root.get(key).exists());
        let from = if is_static { root } else { root.get("runtimeConfig").get("bandwidth") };
        Ok(Limits { ingress: limit(&from, INGRESS)?, egress: limit(&from, EGRESS)? })
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

fn limit(from: &Node<'_>, [rate, burst]: [&str; 2]) -> Result<Option<Limit>, Error> {
    let (rate, burst) = (from.get(rate), from.get(burst));
    let (bits_a_second, bits) = (number(&rate)?, number(&burst)?);
    let refuse = |msg: String| Err(Error::config(msg));
    match (bits_a_second, bits) {
        (0, 0) => Ok(None),
        (_, 0) => refuse(format!("if rate is set, burst must also be set: {} without {}", rate.path(), burst.path())),
        (0, _) => refuse(format!("if burst is set, rate must also be set: {} without {}", burst.path(), rate.path())),
        (_, bits) if bits / 8 >= u64::from(u32::MAX) => {
            refuse(format!("burst cannot be more than 4GB: {} is {bits} bits", burst.path()))
        }
        // It is told to the kernel in bytes.
        (1..8, _) => refuse(format!("{} must be at least 8 bits a second: it is {bits_a_second}", rate.path())),
        (rate, burst) => Ok(Some(Limit { rate, burst })),
    }
}

/// A number of 64 bits; 0 when absent.
fn number(node: &Node<'_>) -> Result<u64, Error> {
    let Some(value) = node.value() else { return Ok(0) };
    let wrong = || Error::new(code::DECODE, format!("{}: expected a whole number of bits, found {value}", node.path()));
    value.as_u64().ok_or_else(wrong)
}

impl Limit {
    /// The token bucket, with the reference's numbers.
    ///
    /// # Errors
    /// When the kernel's clock cannot be asked for.
    pub fn bucket(self) -> Result<TokenBucket, Error> {
        Ok(self.bucket_with(ticks_per_microsecond()?))
    }

    // Numbers too large are cut off at the largest there is.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    fn bucket_with(self, ticks: f64) -> TokenBucket {
        let rate = self.rate / 8;
        let burst = u32::try_from(self.burst / 8).unwrap_or(u32::MAX);
        // Rounded down to whole microseconds, then to whole ticks.
        let to_fill = (f64::from(burst) * MICROSECONDS / rate as f64) as u32;
        let waiting = (rate as f64 * LATENCY / MICROSECONDS) as u32;
        TokenBucket { rate, limit: waiting.saturating_add(burst), buffer: (f64::from(to_fill) * ticks) as u32 }
    }
}

impl TokenBucket {
    /// The same as the kernel keeps it: a bucket takes at most 2^32 nanoseconds to fill (`tbf_change` in
    /// `net/sched/sch_tbf.c`).
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn as_kept(self, ticks: f64) -> TokenBucket {
        let most = (f64::from(u32::MAX) / 1000.0 * ticks) as u32;
        TokenBucket { buffer: self.buffer.min(most), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: &str) -> Result<Limits, Error> {
        Limits::read(&Config::parse(format!(r#"{{"name": "n", {members}}}"#).as_bytes()).unwrap())
    }

    // Behaviour 105: golden, read back from the reference 1.1.1's ADD on a kernel of 15.625 ticks a microsecond.
    #[test]
    fn the_numbers_are_the_references() {
        let bucket = |rate, burst| Limit { rate, burst }.bucket_with(15.625);
        assert_eq!(bucket(8_000_000, 800_000), TokenBucket { rate: 1_000_000, limit: 125_000, buffer: 1_562_500 });
        assert_eq!(bucket(1_234_567, 765_432), TokenBucket { rate: 154_320, limit: 99_537, buffer: 9_687_546 });
        let wide = bucket(80_000_000_000, 8_000_000_000);
        assert_eq!(wide, TokenBucket { rate: 10_000_000_000, limit: 1_250_000_000, buffer: 1_562_500 });
        // What kubelet sends for a pod of 1 Mbit/s: the kernel keeps 4.29 seconds of it.
        let kubelet = bucket(1_000_000, 2_147_483_647);
        assert_eq!((kubelet.buffer, kubelet.as_kept(15.625).buffer), (u32::MAX, 67_108_863));
    }

    // Behaviour 105.
    #[test]
    fn the_configurations_own_keys_win_over_the_runtimes() {
        let runtime = r#""runtimeConfig": {"bandwidth": {"IngressRate": 800, "IngressBurst": 80, "EgressRate": 0, "EgressBurst": 0}}"#;
        let told = read(runtime).unwrap();
        assert_eq!(told, Limits { ingress: Some(Limit { rate: 800, burst: 80 }), egress: None });
        let both = read(&format!(r#""egressRate": 16000000000, "egressBurst": 160, {runtime}"#)).unwrap();
        assert_eq!(both, Limits { ingress: None, egress: Some(Limit { rate: 16_000_000_000, burst: 160 }) });
        assert!(read(&format!(r#""ingressRate": 0, {runtime}"#)).unwrap().is_empty());
        assert!(read(r#""x": 1"#).unwrap().is_empty());
    }

    #[test]
    fn half_a_limit_and_a_burst_too_large_are_refused() {
        for (members, words) in [
            (r#""ingressRate": 8"#, "if rate is set, burst must also be set: ingressRate without ingressBurst"),
            (r#""egressBurst": 8"#, "if burst is set, rate must also be set"),
            (r#""egressBurst": 34359738360, "egressRate": 8"#, "burst cannot be more than 4GB"),
            (r#""egressBurst": 8, "egressRate": 7"#, "at least 8 bits"),
            (r#""egressBurst": "8", "egressRate": 8"#, "egressBurst: expected a whole number"),
            (r#""egressBurst": -8, "egressRate": 8"#, "egressBurst: expected a whole number"),
            (r#""unshapedSubnets": ["10.0.0.0/8"]"#, "unshapedSubnets: [\"10.0.0.0/8\"] is not supported"),
        ] {
            let refused = read(members).unwrap_err();
            assert!(refused.msg.contains(words), "{members}: {refused:?}");
        }
        assert!(read(r#""egressBurst": 34359738352, "egressRate": 8"#).is_ok());
    }
}
