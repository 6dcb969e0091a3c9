//! nf_tables: transactions and questions over netlink.
//!
//! | module | what |
//! |---|---|
//! | [`chain`] | families, tables, chains and the hooks they hang on |
//! | [`rule`], `statement` | rules, put together in the words of `nft`: matches, and what is done then |
//! | [`expression`] | what they are made of |
//! | [`set`] | sets and maps, their elements |
//! | [`batch`] | transactions: all or nothing |
//! | [`query`] | what is there |
//! | `encoder` | messages and attributes |
//!
//! The messages are written here, and not by the `netlink-bindings` crate (0.3.5), which was tried: the kernel
//! description it is generated from has no `masq` expression, and it checks its own batches with assertions,
//! where a plugin must answer with an error. `rustables` is GPL, `nftnl` needs C libraries, `nftables` starts `nft`.
//!
//! Source of the numbers: `include/uapi/linux/netfilter/nf_tables.h`. All
//! numbers of nf_tables are in network byte order.

pub mod batch;
pub mod chain;
pub(super) mod encoder;
pub mod expression;
pub mod query;
pub mod rule;
pub mod set;
mod statement;

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};

use super::Error;
use super::socket::{prepare, receive, send};
use super::wire::{Ack, messages};

pub use batch::{Batch, Exists, Place};
pub use chain::{Base, Family, Hook, Kind, Table, priority};
pub use encoder::COMMENT_MAX;
pub use expression::{Is, Verdict};
pub use query::{FoundChain, FoundElement, FoundRule};
pub use rule::{Key, Rule, interface, interface_name};
pub use set::{Element, Held, Holds, Set, Type, concatenate};

/// The bytes of a transaction that a socket takes without being asked to: the kernel's default is 208 KiB each way, with
/// its own bookkeeping in it.
const SMALL: usize = 16 * 1024;
/// What a refusal takes of the room for answers, with the kernel's bookkeeping.
const REFUSAL: usize = 2048;

fn tables_kind(kind: i32) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | kind) as u16
}

/// A socket to nf_tables in the network namespace that was current when it was opened.
pub struct NftSocket {
    socket: Socket,
}

impl NftSocket {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<NftSocket, Error> {
        let open = || {
            let socket = Socket::new(NETLINK_NETFILTER)?;
            prepare(&socket)?;
            Ok(socket)
        };
        Ok(NftSocket { socket: open().map_err(|source| Error::io("open a netfilter netlink socket", source))? })
    }

    /// Carries out a transaction; an empty one is nothing.
    ///
    /// # Errors
    /// Its first refusal; then nothing was changed.
    pub fn commit(&mut self, mut batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        batch.finish();
        if batch.buffer.len() > SMALL {
            // A transaction is one datagram, and each of its changes may be refused. What the kernel grants here shows
            // at sending.
            let _ = setsockopt(&self.socket, SndBufForce, &(2 * batch.buffer.len()));
            let _ = setsockopt(&self.socket, RcvBufForce, &(batch.changes * REFUSAL));
        }
        send(&self.socket, &batch.buffer, &batch.doing)?;
        loop {
            let datagram = receive(&self.socket, &batch.doing)?;
            let acks = messages(&datagram).filter_map(Ack::read);
            for ack in acks.filter(|ack| (batch.first..=batch.last).contains(&ack.sequence)) {
                if let Some(errno) = ack.errno {
                    let note = advise(errno, ack.note);
                    return Err(Error::Refused { doing: batch.doing, errno, note });
                }
                if ack.sequence == batch.last {
                    return Ok(());
                }
            }
        }
    }

    /// As [`NftSocket::commit`], but what is refused for one of these reasons was not to be done; says whether it was done.
    ///
    /// # Errors
    /// Any other refusal; then nothing was changed.
    pub fn commit_unless(&mut self, batch: Batch, reasons: &[Errno]) -> Result<bool, Error> {
        match self.commit(batch) {
            Ok(()) => Ok(true),
            Err(error) if error.errno().is_some_and(|errno| reasons.contains(&errno)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The kernel has no words of its own for a family it was built without.
fn advise(errno: Errno, note: String) -> String {
    match errno {
        Errno::EOPNOTSUPP if note.is_empty() => " (is the kernel built with nf_tables for this family?)".into(),
        _ => note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_family_is_named_unless_it_spoke_itself() {
        assert!(advise(Errno::EOPNOTSUPP, String::new()).contains("nf_tables"));
        assert_eq!(advise(Errno::EOPNOTSUPP, ": no".into()), ": no");
        assert_eq!(advise(Errno::EPERM, String::new()), "");
    }
}
