//! Traffic control: token buckets, and the devices that traffic is redirected to for one.
//!
//! The kernel limits only what leaves a device. What comes in is redirected to an `ifb` device first, leaves
//! that through its token bucket, and goes on from where it was taken.
//!
//! Source: `include/uapi/linux/{pkt_sched,pkt_cls}.h`, `net/sched/sch_tbf.c`, tc-tbf(8). Numbers are in the
//! machine's byte order.

use std::fs;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};
use nix::errno::Errno;
use rtnetlink::LinkIfb;

use super::wire::{Answer, attributes, text, u32_at};
use super::{Error, Request, RouteSocket};

/// The length of `struct tcmsg` (`include/uapi/linux/rtnetlink.h`).
const HEADER: usize = 20;
/// The kind of queueing discipline that is a token bucket.
const TBF: &str = "tbf";
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
/// `struct tc_tbf_qopt`: two `struct tc_ratespec`, then limit, buffer, mtu.
const TBF_PARMS_LENGTH: usize = 36;
/// The rate in a `struct tc_ratespec`, in bytes a second.
const RATE: usize = 8;
const LIMIT: usize = 24;
const BUFFER: usize = 28;
/// The type of a message's options (`TCA_OPTIONS`).
const OPTIONS: u16 = 2;

/// 1:0, of the token bucket.
const BUCKET: TcHandle = TcHandle { major: 1, minor: 0 };
/// ffff:0, the one handle of the ingress queueing discipline.
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
/// The class that redirected packets are counted for.
const CLASS: TcHandle = TcHandle { major: 1, minor: 1 };
const FILTER_PRIORITY: u32 = 1;

/// The settings of a token bucket, as the kernel is told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may wait for tokens.
    pub limit: u32,
    /// The size of the bucket: how long filling it takes, in ticks.
    pub buffer: u32,
}

impl TokenBucket {
    fn options(&self) -> TcAttribute {
        let mut parameters = vec![0; TBF_PARMS_LENGTH];
        // A rate of more than 32 bits has an attribute of its own beside.
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        for (at, number) in [(RATE, rate), (LIMIT, self.limit), (BUFFER, self.buffer)] {
            parameters[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        let mut options = vec![TcOption::Other(DefaultNla::new(TBF_PARMS, parameters))];
        if self.rate > u64::from(u32::MAX) {
            options.push(TcOption::Other(DefaultNla::new(TBF_RATE64, self.rate.to_ne_bytes().to_vec())));
        }
        TcAttribute::Options(options)
    }

    /// Reads a queueing discipline; none when it is of another kind.
    fn read(answer: &Answer) -> Option<TokenBucket> {
        let part = |wanted| answer.attributes(HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        part(libc::TCA_KIND).filter(|kind| text(kind) == TBF)?;
        let options = part(OPTIONS)?;
        let parameters = attributes(options).find(|(kind, _)| *kind == TBF_PARMS)?.1;
        let wide = attributes(options).find(|(kind, _)| *kind == TBF_RATE64);
        let wide = wide.and_then(|(_, value)| Some(u64::from_ne_bytes(value.try_into().ok()?)));
        Some(TokenBucket {
            rate: wide.unwrap_or(u64::from(u32_at(parameters, RATE)?)),
            limit: u32_at(parameters, LIMIT)?,
            buffer: u32_at(parameters, BUFFER)?,
        })
    }
}

/// How many of the packet scheduler's ticks a microsecond has.
///
/// # Errors
/// When `/proc/net/psched` cannot be read.
pub fn ticks_per_microsecond() -> Result<f64, Error> {
    const PATH: &str = "/proc/net/psched";
    let text = fs::read_to_string(PATH).map_err(|source| Error::io(format!("read {PATH}"), source))?;
    read_ticks(&text).ok_or_else(|| Error::Answer { doing: format!("read {PATH}"), reason: text })
}

/// `psched_show` in `net/sched/sch_api.c`: nanoseconds a microsecond, nanoseconds a tick, clock ticks a second.
fn read_ticks(text: &str) -> Option<f64> {
    let mut numbers = text.split_whitespace().map(|word| u32::from_str_radix(word, 16).ok());
    let mut next = || numbers.next().flatten().filter(|number| *number > 0).map(f64::from);
    let (microsecond, tick, clock) = (next()?, next()?, next()?);
    Some(microsecond / tick * (clock / 1e6))
}

/// Creates an `ifb` device, up, with the MTU of the device whose traffic it is to carry.
pub fn create_ifb(name: &str, mtu: u32) -> Request {
    // A queue of its own would hold packets beside the token bucket's.
    let ifb = LinkIfb::new(name).up().mtu(mtu).append_extra_attribute(LinkAttribute::TxQueueLen(0));
    let message = ifb.build();
    Request::new(format!("create the ifb device {name}"), libc::RTM_NEWLINK, &message).flags(NLM_F_CREATE | NLM_F_EXCL)
}

/// A device, as traffic control names it: the index is what counts, the name is for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device<'a> {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: &'a str,
}

impl Device<'_> {
    fn message(self, handle: TcHandle, parent: TcHandle, info: u32, attributes: Vec<TcAttribute>) -> TcMessage {
        let header = TcHeader { index: self.index.cast_signed(), handle, parent, info, ..TcHeader::default() };
        TcMessage::from_parts(header, attributes)
    }

    /// Has what leaves the device pass a token bucket.
    pub fn add_bucket(self, bucket: &TokenBucket) -> Request {
        let attributes = vec![TcAttribute::Kind(TBF.into()), bucket.options()];
        let message = self.message(BUCKET, TcHandle::ROOT, 0, attributes);
        Request::new(format!("limit what leaves {}", self.name), libc::RTM_NEWQDISC, &message)
            .flags(NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Has what comes in pass filters.
    pub fn add_ingress(self) -> Request {
        let attributes = vec![TcAttribute::Kind("ingress".into())];
        let message = self.message(INGRESS, TcHandle::INGRESS, 0, attributes);
        Request::new(format!("have filters look at what comes in by {}", self.name), libc::RTM_NEWQDISC, &message)
            .flags(NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Redirects all that comes in to another device; [`Device::add_ingress`] comes first.
    ///
    /// The filter is a u32 one with a key that matches anything, not the newer `matchall`: it is what the
    /// reference plugin uses, and a kernel that lacks one of the two rather lacks that.
    pub fn add_redirect(self, to: Device<'_>) -> Request {
        // All protocols (`ETH_P_ALL`), in network byte order.
        let info = FILTER_PRIORITY << 16 | u32::from(3u16.to_be());
        let attributes = vec![TcAttribute::Kind(TcFilterU32::KIND.into()), redirect(to.index)];
        let message = self.message(TcHandle::UNSPEC, INGRESS, info, attributes);
        Request::new(format!("redirect what comes in by {} to {}", self.name, to.name), libc::RTM_NEWTFILTER, &message)
            .flags(NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the token bucket; that there is none is no error.
    pub fn remove_bucket(self) -> Request {
        self.remove(format!("stop limiting what leaves {}", self.name), TcHandle::ROOT)
    }

    /// Removes what [`Device::add_ingress`] made, with its filters; that there is none is no error.
    pub fn remove_ingress(self) -> Request {
        self.remove(format!("stop filtering what comes in by {}", self.name), TcHandle::INGRESS)
    }

    fn remove(self, doing: String, parent: TcHandle) -> Request {
        let message = self.message(TcHandle::UNSPEC, parent, 0, Vec::new());
        Request::new(doing, libc::RTM_DELQDISC, &message).tolerate(&[Errno::ENOENT, Errno::ENODEV, Errno::EINVAL])
    }

    /// The token bucket of the device, if it has one.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn bucket(self, socket: &mut RouteSocket) -> Result<Option<TokenBucket>, Error> {
        let doing = format!("look up the queueing discipline of {}", self.name);
        let query = self.message(TcHandle::UNSPEC, TcHandle::ROOT, 0, Vec::new());
        // Answered as a notification, which only comes back to who wants to hear his own.
        match socket.ask_one(&Request::new(doing, libc::RTM_GETQDISC, &query).flags(NLM_F_ECHO)) {
            Ok(answer) => Ok(answer.as_ref().and_then(TokenBucket::read)),
            // The kernel's own one, which it does not describe.
            Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The options of a u32 filter: one key that matches anything, and the packet goes to the device of that index.
fn redirect(index: u32) -> TcAttribute {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let options = [
        TcFilterU32Option::ClassId(CLASS),
        TcFilterU32Option::Selector(selector),
        TcFilterU32Option::Action(vec![action]),
    ];
    TcAttribute::Options(options.into_iter().map(TcOption::U32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_is_read_from_the_kernels_numbers() {
        assert_eq!(read_ticks("000003e8 00000040 000f4240 3b9aca00\n"), Some(15.625));
        assert_eq!(read_ticks("000003e8 000003e8 000f4240 00000064"), Some(1.0), "Linux before 2.6.31");
        for text in ["", "3e8", "3e8 0 f4240", "3e8 x f4240"] {
            assert_eq!(read_ticks(text), None, "{text}");
        }
    }
}
