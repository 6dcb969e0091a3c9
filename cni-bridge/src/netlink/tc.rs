//! Traffic control: token buckets, and the devices that traffic is redirected to for one.
//!
//! The kernel limits only what leaves a device. What comes in is redirected to an `ifb` device first, leaves
//! that through its token bucket, and goes on from where it was taken.
//!
//! Source: `include/uapi/linux/{pkt_sched,pkt_cls}.h`, `net/sched/sch_tbf.c`, tc-tbf(8). Numbers are in the
//! machine's byte order.

use std::fs;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::LinkAttribute;
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
const U32_CLASSID: u16 = 1;
const U32_SELECTOR: u16 = 5;
const U32_ACTION: u16 = 7;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
/// The device's index in `struct tc_mirred`.
const MIRRED_DEVICE: usize = 24;
/// `TC_ACT_STOLEN`: the packet is somebody else's now.
const STOLEN: u32 = 4;
/// `TCA_EGRESS_REDIR`.
const REDIRECT: u32 = 1;

const ROOT: u32 = 0xffff_ffff;
/// Where the ingress queueing discipline is, and its one handle.
const INGRESS_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_0000;
/// 1:0, of the token bucket.
const BUCKET: u32 = 0x0001_0000;
/// 1:1, the class that redirected packets are counted for.
const CLASS: u32 = 0x0001_0001;
/// Priority 1, all protocols (`ETH_P_ALL`, in network byte order).
const FILTER_INFO: u32 = 1 << 16 | 3u16.to_be() as u32;

/// An attribute.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // None here is longer than some hundred bytes.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Numbers of a structure, one after the other.
fn numbers<const N: usize>(numbers: [u32; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn kind(name: &str) -> Vec<u8> {
    attribute(libc::TCA_KIND, &[name.as_bytes(), b"\0"].concat())
}

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
    fn options(&self) -> Vec<u8> {
        let mut parameters = vec![0; TBF_PARMS_LENGTH];
        // A rate of more than 32 bits has an attribute of its own beside.
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        for (at, number) in [(RATE, rate), (LIMIT, self.limit), (BUFFER, self.buffer)] {
            parameters[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        let mut options = attribute(TBF_PARMS, &parameters);
        if self.rate > u64::from(u32::MAX) {
            options.extend(attribute(TBF_RATE64, &self.rate.to_ne_bytes()));
        }
        attribute(OPTIONS, &options)
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
    /// `struct tcmsg`: family, three bytes of padding, index, handle, parent, info; then attributes.
    fn request(self, doing: String, kind: u16, [handle, parent, info]: [u32; 3], attributes: &[Vec<u8>]) -> Request {
        let header = numbers([0, self.index, handle, parent, info]);
        Request { doing, kind, body: [header, attributes.concat()].concat(), flags: 0, tolerate: &[] }
    }

    /// Has what leaves the device pass a token bucket.
    pub fn add_bucket(self, bucket: &TokenBucket) -> Request {
        let doing = format!("limit what leaves {}", self.name);
        self.request(doing, libc::RTM_NEWQDISC, [BUCKET, ROOT, 0], &[kind(TBF), bucket.options()])
            .flags(NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Has what comes in pass filters.
    pub fn add_ingress(self) -> Request {
        let doing = format!("have filters look at what comes in by {}", self.name);
        self.request(doing, libc::RTM_NEWQDISC, [INGRESS, INGRESS_PARENT, 0], &[kind("ingress")])
            .flags(NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Redirects all that comes in to another device; [`Device::add_ingress`] comes first.
    ///
    /// The filter is a u32 one with a key that matches anything, not the newer `matchall`: it is what the
    /// reference plugin uses, and a kernel that lacks one of the two rather lacks that.
    pub fn add_redirect(self, to: Device<'_>) -> Request {
        let doing = format!("redirect what comes in by {} to {}", self.name, to.name);
        let attributes = [kind("u32"), attribute(OPTIONS, &redirection(to.index))];
        self.request(doing, libc::RTM_NEWTFILTER, [0, INGRESS, FILTER_INFO], &attributes)
            .flags(NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes the token bucket; that there is none is no error.
    pub fn remove_bucket(self) -> Request {
        self.remove(format!("stop limiting what leaves {}", self.name), ROOT)
    }

    /// Removes what [`Device::add_ingress`] made, with its filters; that there is none is no error.
    pub fn remove_ingress(self) -> Request {
        self.remove(format!("stop filtering what comes in by {}", self.name), INGRESS_PARENT)
    }

    fn remove(self, doing: String, parent: u32) -> Request {
        let nothing_there = &[Errno::ENOENT, Errno::ENODEV, Errno::EINVAL];
        self.request(doing, libc::RTM_DELQDISC, [0, parent, 0], &[]).tolerate(nothing_there)
    }

    /// Whether what comes in is redirected to that device.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn redirects_to(self, to: Device<'_>, socket: &mut RouteSocket) -> Result<bool, Error> {
        let doing = format!("list the filters of what comes in by {}", self.name);
        let filters = match socket.dump(&self.request(doing, libc::RTM_GETTFILTER, [0, INGRESS, 0], &[])) {
            // Nothing has filters there.
            Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(false),
            filters => filters?,
        };
        Ok(filters.iter().any(|filter| redirected_to(filter) == Some(to.index)))
    }

    /// The token bucket of the device, if it has one.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn bucket(self, socket: &mut RouteSocket) -> Result<Option<TokenBucket>, Error> {
        let doing = format!("look up the queueing discipline of {}", self.name);
        // Answered as a notification, which only comes back to who wants to hear his own.
        match socket.ask_one(&self.request(doing, libc::RTM_GETQDISC, [0, ROOT, 0], &[]).flags(NLM_F_ECHO)) {
            Ok(answer) => Ok(answer.as_ref().and_then(TokenBucket::read)),
            // The kernel's own one, which it does not describe.
            Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The index of the device that the first action of a u32 filter redirects packets to.
fn redirected_to(filter: &Answer) -> Option<u32> {
    let inside = |bytes: &[u8], wanted: u16| {
        attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec())
    };
    let options = filter.attributes(HEADER).find(|(kind, _)| *kind == OPTIONS).map(|(_, value)| value)?;
    let action = inside(&inside(options, U32_ACTION)?, 1)?;
    let kind = inside(&action, ACTION_KIND).filter(|kind| text(kind) == "mirred");
    let parameters = kind.and_then(|_| inside(&inside(&action, ACTION_OPTIONS)?, MIRRED_PARMS))?;
    u32_at(&parameters, MIRRED_DEVICE)
}

/// The options of a u32 filter: one key that matches anything, and the packet goes to the device of that index.
fn redirection(index: u32) -> Vec<u8> {
    // struct tc_u32_sel: flags (TC_U32_TERMINAL), shift, number of keys, padding, offsets and masks; the keys.
    let selector = [&[1u8, 0, 1, 0][..], &[0; 12], &[0; 16]].concat();
    // struct tc_mirred: index, capabilities, action, counts of references; then how, and the device.
    let parameters = numbers([0, 0, STOLEN, 0, 0, REDIRECT, index]);
    let mirred =
        [attribute(ACTION_KIND, b"mirred\0"), attribute(ACTION_OPTIONS, &attribute(MIRRED_PARMS, &parameters))];
    // Actions are numbered from 1, in their order.
    let actions = attribute(1, &mirred.concat());
    [attribute(U32_CLASSID, &CLASS.to_ne_bytes()), attribute(U32_SELECTOR, &selector), attribute(U32_ACTION, &actions)]
        .concat()
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
