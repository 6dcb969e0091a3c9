//! Transactions: all of one happens, or nothing.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

use super::chain::{Base, Table};
use super::encoder::{Attributes, add_flags, message};
use super::rule::Rule;
use super::set::{Element, Set};
use super::tables_kind;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_USERDATA: u16 = 12;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_POSITION: u16 = 6;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// `NLM_F_NONREC` of `include/uapi/linux/netlink.h`: not what still has something in it.
const ONLY_IF_EMPTY: u16 = 0x100;
/// An attribute holds 64 KiB at most, an element with the longest comment about 400 bytes.
const ELEMENTS_A_MESSAGE: usize = 100;

/// Where in its chain a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// After all others.
    Last,
    /// Before all others.
    First,
    /// After the rule of this handle.
    After(u64),
    /// Before the rule of this handle.
    Before(u64),
}

/// Whether it matters that something is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exists {
    /// It must not be: `EEXIST`.
    Refused,
    /// It may be.
    Fine,
}

impl Exists {
    fn flags(self) -> u16 {
        match self {
            Exists::Refused => NLM_F_CREATE | NLM_F_EXCL,
            Exists::Fine => NLM_F_CREATE,
        }
    }
}

/// A transaction. Its changes are seen in their order, by each other too: what an earlier one makes, a later one may use.
pub struct Batch {
    pub(super) buffer: Vec<u8>,
    pub(super) doing: String,
    /// Sequence numbers of the first and the last change.
    pub(super) first: u32,
    pub(super) last: u32,
    /// Where the last message starts.
    start: usize,
    /// Sets are numbered within a transaction.
    sets: u32,
    /// How many changes there are: so many refusals there may be.
    pub(super) changes: usize,
}

impl Batch {
    /// An empty transaction; `doing` is what it does, after "cannot".
    pub fn new(doing: impl Into<String>) -> Batch {
        let mut batch =
            Batch { buffer: Vec::new(), doing: doing.into(), first: 0, last: 0, start: 0, sets: 0, changes: 0 };
        batch.first = batch.boundary(libc::NFNL_MSG_BATCH_BEGIN);
        batch.last = batch.first;
        batch
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.first == self.last
    }

    fn boundary(&mut self, kind: i32) -> u32 {
        let header = [libc::AF_UNSPEC as u8, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
        message(&mut self.buffer, kind as u16, 0, header, |_| {})
    }

    /// The whole transaction, ready to be sent.
    pub(super) fn finish(&mut self) {
        // Of the last change, not of the boundaries: kernels before 6.10 answer these with nothing.
        add_flags(&mut self.buffer, self.start, NLM_F_ACK);
        self.boundary(libc::NFNL_MSG_BATCH_END);
    }

    fn change(&mut self, kind: i32, flags: u16, table: Table<'_>, write: impl FnOnce(&mut Attributes<'_>)) {
        self.changes += 1;
        self.start = self.buffer.len();
        self.last = message(&mut self.buffer, tables_kind(kind), flags, table.family.header(), write);
    }

    /// Makes a table; its comment is set if it is made.
    pub fn add_table(&mut self, table: Table<'_>, exists: Exists, comment: &str) {
        self.change(libc::NFT_MSG_NEWTABLE, exists.flags(), table, |attributes| {
            attributes.text(TABLE_NAME, table.name);
            attributes.comment(TABLE_USERDATA, comment);
        });
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.change(libc::NFT_MSG_DELTABLE, 0, table, |attributes| attributes.text(TABLE_NAME, table.name));
    }

    /// Removes the table unless something is in it: `EBUSY`.
    pub fn delete_table_if_empty(&mut self, table: Table<'_>) {
        self.change(libc::NFT_MSG_DELTABLE, ONLY_IF_EMPTY, table, |attributes| attributes.text(TABLE_NAME, table.name));
    }

    /// Makes a chain that rules or maps lead to; its comment is set if it is made.
    pub fn add_chain(&mut self, table: Table<'_>, chain: &str, exists: Exists, comment: &str) {
        self.change(libc::NFT_MSG_NEWCHAIN, exists.flags(), table, |attributes| {
            attributes.text(CHAIN_TABLE, table.name);
            attributes.text(CHAIN_NAME, chain);
            attributes.comment(CHAIN_USERDATA, comment);
        });
    }

    /// Makes a chain that packets enter at a hook. One that is there must have the same kind, hook and priority.
    pub fn add_base_chain(&mut self, table: Table<'_>, chain: &str, base: Base<'_>) {
        self.change(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, table, |attributes| {
            attributes.text(CHAIN_TABLE, table.name);
            attributes.text(CHAIN_NAME, chain);
            base.write(table.family, attributes);
        });
    }

    /// Removes a chain with its rules, unless something leads to it: `EBUSY`.
    pub fn delete_chain(&mut self, table: Table<'_>, chain: &str) {
        self.change(libc::NFT_MSG_DELCHAIN, 0, table, |attributes| {
            attributes.text(CHAIN_TABLE, table.name);
            attributes.text(CHAIN_NAME, chain);
        });
    }

    /// As [`Batch::delete_chain`], by handle: of this chain and not of one made later with its name.
    pub fn delete_chain_by_handle(&mut self, table: Table<'_>, handle: u64) {
        self.change(libc::NFT_MSG_DELCHAIN, 0, table, |attributes| {
            attributes.text(CHAIN_TABLE, table.name);
            attributes.long(CHAIN_HANDLE, handle);
        });
    }

    /// Removes a chain unless rules are in it or something leads to it: `EBUSY`.
    pub fn delete_chain_if_empty(&mut self, table: Table<'_>, chain: &str) {
        self.change(libc::NFT_MSG_DELCHAIN, ONLY_IF_EMPTY, table, |attributes| {
            attributes.text(CHAIN_TABLE, table.name);
            attributes.text(CHAIN_NAME, chain);
        });
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table<'_>, chain: &str) {
        self.change(libc::NFT_MSG_DELRULE, 0, table, |attributes| {
            attributes.text(RULE_TABLE, table.name);
            attributes.text(RULE_CHAIN, chain);
        });
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, place: Place, rule: &Rule) {
        // Without a position: at the end with NLM_F_APPEND, at the start without. With one: after it, or before it.
        let append = libc::NLM_F_APPEND as u16;
        let (flags, position) = match place {
            Place::Last => (append, None),
            Place::First => (0, None),
            Place::After(handle) => (append, Some(handle)),
            Place::Before(handle) => (0, Some(handle)),
        };
        self.change(libc::NFT_MSG_NEWRULE, NLM_F_CREATE | flags, table, |attributes| {
            attributes.text(RULE_TABLE, table.name);
            attributes.text(RULE_CHAIN, chain);
            if let Some(handle) = position {
                attributes.long(RULE_POSITION, handle);
            }
            if !rule.expressions.is_empty() {
                attributes.nest(RULE_EXPRESSIONS, |list| rule.expressions.iter().for_each(|one| one.write(list)));
            }
            attributes.comment(RULE_USERDATA, &rule.comment);
        });
    }

    /// Removes a rule by its handle.
    pub fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        self.change(libc::NFT_MSG_DELRULE, 0, table, |attributes| {
            attributes.text(RULE_TABLE, table.name);
            attributes.text(RULE_CHAIN, chain);
            attributes.long(RULE_HANDLE, handle);
        });
    }

    /// Makes a set or map. One that is there must be alike.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set<'_>) {
        self.sets += 1;
        let id = self.sets;
        self.change(libc::NFT_MSG_NEWSET, NLM_F_CREATE, table, |attributes| {
            attributes.text(SET_TABLE, table.name);
            attributes.text(SET_NAME, set.name);
            set.write(attributes, id);
        });
    }

    /// Removes a set or map, unless a rule uses it: `EBUSY`.
    pub fn delete_set(&mut self, table: Table<'_>, set: &str) {
        self.remove_set(table, set, 0);
    }

    /// Removes a set or map, unless it has elements or a rule uses it: `EBUSY`. Elements removed in the same
    /// transaction still count.
    pub fn delete_set_if_empty(&mut self, table: Table<'_>, set: &str) {
        self.remove_set(table, set, ONLY_IF_EMPTY);
    }

    fn remove_set(&mut self, table: Table<'_>, set: &str, flags: u16) {
        self.change(libc::NFT_MSG_DELSET, flags, table, |attributes| {
            attributes.text(SET_TABLE, table.name);
            attributes.text(SET_NAME, set);
        });
    }

    /// Adds elements. With [`Exists::Fine`], one that is there must hold the same: `EBUSY`.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, exists: Exists, elements: &[Element]) {
        self.elements(libc::NFT_MSG_NEWSETELEM, exists.flags(), table, set, elements);
    }

    /// Removes elements by their keys: `ENOENT` when one is not there.
    pub fn delete_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        self.elements(libc::NFT_MSG_DELSETELEM, 0, table, set, elements);
    }

    fn elements(&mut self, kind: i32, flags: u16, table: Table<'_>, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_A_MESSAGE) {
            self.change(kind, flags, table, |attributes| {
                attributes.text(ELEMENTS_TABLE, table.name);
                attributes.text(ELEMENTS_SET, set);
                attributes.nest(ELEMENTS, |list| some.iter().for_each(|element| element.write(list)));
            });
        }
    }
}
